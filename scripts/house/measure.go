package main

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// count is a number and its subject.
type count struct {
	n    int
	what string
}

// graph has the edge from one node to another as graph[from][to]. Each node is a key.
type graph map[string]map[string]bool

// reach returns the graph of all paths.
func (g graph) reach() graph {
	r := graph{}
	for node, to := range g {
		r[node] = maps.Clone(to)
	}
	for via := range r {
		for node := range r {
			if r[node][via] {
				maps.Copy(r[node], r[via])
			}
		}
	}
	return r
}

// knot returns the largest set of nodes that all reach each other; none for a set of one.
func (g graph) knot() (largest []string) {
	r := g.reach()
	nodes := slices.Sorted(maps.Keys(g))
	for _, a := range nodes {
		knot := slices.DeleteFunc(slices.Clone(nodes), func(b string) bool { return a != b && (!r[a][b] || !r[b][a]) })
		if len(knot) > max(1, len(largest)) {
			largest = knot
		}
	}
	return largest
}

// knots returns, for each package that has one, the largest set of files that all need each other: a file needs another
// if it uses a function or method that the other defines, or with all set, any package-level name.
func (h *house) knots(all bool) []count {
	var found []count
	for _, p := range h.pkgs {
		file := func(pos token.Pos) string {
			name, _ := h.at(pos)
			return filepath.Base(name)
		}
		needs := graph{}
		for _, f := range p.files {
			needs[file(f.Pos())] = map[string]bool{}
		}
		for id, o := range p.info.Uses {
			f, function := o.(*types.Func)
			method := function && f.Signature().Recv() != nil
			if o.Pkg() == p.types && (method || o.Parent() == p.types.Scope() && (function || all)) {
				needs[file(id.Pos())][file(o.Pos())] = true
			}
		}
		if knot := needs.knot(); knot != nil {
			found = append(found, count{len(knot), fmt.Sprintf("%s, of %d files: %s", p.path, len(needs), strings.Join(knot, " "))})
		}
	}
	return found
}

// names counts the methods of each type, and the exported names of each package that can be imported and is not promised.
func (h *house) names() (methods, unpromised []count) {
	for _, p := range h.pkgs {
		exported, scope := 0, p.types.Scope()
		for _, name := range scope.Names() {
			if token.IsExported(name) {
				exported++
			}
			if t, ok := scope.Lookup(name).(*types.TypeName); ok {
				if named, ok := t.Type().(*types.Named); ok && named.NumMethods() > 0 {
					methods = append(methods, count{named.NumMethods(), p.path + "." + name})
				}
			}
		}
		internal := slices.Contains(strings.Split(p.path, "/"), "internal")
		if exported > 0 && !p.main && !internal && !slices.Contains(promised, p.path) {
			unpromised = append(unpromised, count{exported, p.path})
		}
	}
	return methods, unpromised
}

// inspect calls see for each node of one type.
func inspect[N ast.Node](h *house, see func(*pkg, N)) {
	for _, p := range h.pkgs {
		for _, file := range p.files {
			ast.Inspect(file, func(n ast.Node) bool {
				if node, ok := n.(N); ok {
					see(p, node)
				}
				return true
			})
		}
	}
}

// long returns the functions of more than limit lines.
func (h *house) long(limit int) []count {
	var found []count
	inspect(h, func(_ *pkg, f *ast.FuncDecl) {
		name, first := h.at(f.Pos())
		if _, last := h.at(f.End()); last-first >= limit {
			found = append(found, count{last - first + 1, fmt.Sprintf("%s:%d %s", name, first, f.Name.Name)})
		}
	})
	return found
}

// option finds a command-line option in a text. Its first group is the name of another program before the option.
var option = regexp.MustCompile(`(?:^|[^\w-]|(virsh ))--([a-z][a-z0-9-]*)`)

// named returns the option of luksplug's that a text names, "" for none. A text that consists of an option alone is an
// argument of a started program and does not count.
func named(text string, options map[string]bool) string {
	for _, m := range option.FindAllStringSubmatch(text, -1) {
		if m[1] == "" && options[m[2]] && strings.TrimSpace(text) != "--"+m[2] {
			return "--" + m[2]
		}
	}
	return ""
}

// flags returns the texts of libraries that name a command-line option of luksplug's. An option is the first text that
// cmd passes to a function of package pflag.
func (h *house) flags() []string {
	options := map[string]bool{}
	inspect(h, func(p *pkg, call *ast.CallExpr) {
		s, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || !p.main {
			return
		}
		if f, ok := p.info.Uses[s.Sel].(*types.Func); !ok || f.Pkg() == nil || f.Pkg().Path() != "github.com/spf13/pflag" {
			return
		}
		text := func(e ast.Expr) bool { v := p.info.Types[e].Value; return v != nil && v.Kind() == constant.String }
		if i := slices.IndexFunc(call.Args, text); i >= 0 {
			options[constant.StringVal(p.info.Types[call.Args[i]].Value)] = true
		}
	})
	var found []string
	inspect(h, func(p *pkg, lit *ast.BasicLit) {
		text, _ := strconv.Unquote(lit.Value) // "" for a number
		if name := named(text, options); name != "" && p.library() {
			file, line := h.at(lit.Pos())
			found = append(found, fmt.Sprintf("%s:%d %s", file, line, name))
		}
	})
	return found
}

// lines counts the lines of the Go files that git knows, and those of tests among them.
func (h *house) lines() (all, tests int, err error) {
	names, err := output(h.dir, "git", "ls-files", "*.go")
	for _, name := range strings.Fields(names) {
		text, err := os.ReadFile(filepath.Join(h.dir, name))
		if err != nil {
			return 0, 0, err
		}
		n := strings.Count(string(text), "\n")
		if all += n; strings.HasSuffix(name, "_test.go") {
			tests += n
		}
	}
	return all, tests, err
}

// against returns the imports that go up or sideways, as "importer imported".
func (h *house) against() []string {
	var found []string
	for _, p := range h.pkgs {
		from, level := place(p.path)
		if from == "" {
			found = append(found, p.path+" (which no level names)")
			continue
		}
		for _, path := range p.imports {
			to, below := place(path)
			exempt := from == "blockgraph" && path == "secrets" && p.usesOnly(h.module+"/"+path, reference)
			if from != to && (to == "" || below >= level) && !exempt {
				found = append(found, p.path+" "+path)
			}
		}
	}
	return found
}

// usesOnly reports whether the package uses only these package-level names of an imported package.
func (p *pkg) usesOnly(path string, names []string) bool {
	for _, o := range p.info.Uses {
		if o.Pkg() != nil && o.Pkg().Path() == path && o.Parent() == o.Pkg().Scope() && !slices.Contains(names, o.Name()) {
			return false
		}
	}
	return true
}
