package main

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// count is a number and what it is of.
type count struct {
	n    int
	what string
}

// byCount sorts the largest first.
func byCount(counts []count) []count {
	slices.SortFunc(counts, func(a, b count) int { return cmp.Or(cmp.Compare(b.n, a.n), strings.Compare(a.what, b.what)) })
	return counts
}

// components returns the strongly connected components of more than one node, the largest first. An edge is edges[from][to].
func components(nodes []string, edges map[string]map[string]bool) [][]string {
	reach := map[string]map[string]bool{}
	for _, from := range nodes {
		seen, todo := map[string]bool{}, []string{from}
		for len(todo) > 0 {
			next := todo[0]
			todo = todo[1:]
			for to := range edges[next] {
				if !seen[to] {
					seen[to] = true
					todo = append(todo, to)
				}
			}
		}
		reach[from] = seen
	}
	var all [][]string
	done := map[string]bool{}
	for _, a := range nodes {
		if done[a] {
			continue
		}
		var one []string
		for _, b := range nodes {
			if a == b || reach[a][b] && reach[b][a] {
				one = append(one, b)
				done[b] = true
			}
		}
		if len(one) > 1 {
			all = append(all, one)
		}
	}
	slices.SortStableFunc(all, func(a, b []string) int { return len(b) - len(a) })
	return all
}

// knots returns, of each package that has one, the largest set of files that all need each other: a file needs another
// where it uses a function or method that the other defines, or with all set, any package-level name.
func (h *house) knots(all bool) []count {
	var found []count
	for _, p := range h.pkgs {
		var names []string
		edges := map[string]map[string]bool{}
		for _, file := range p.files {
			name := filepath.Base(h.fset.Position(file.Pos()).Filename)
			names = append(names, name)
			edges[name] = map[string]bool{}
			ast.Inspect(file, func(n ast.Node) bool {
				id, ok := n.(*ast.Ident)
				if !ok {
					return true
				}
				o := p.info.Uses[id]
				if o == nil || o.Pkg() != p.types {
					return true
				}
				f, ok := o.(*types.Func)
				if ok && f.Signature().Recv() != nil || o.Parent() == p.types.Scope() && (ok || all) {
					edges[name][filepath.Base(h.fset.Position(o.Pos()).Filename)] = true
				}
				return true
			})
		}
		if knots := components(names, edges); len(knots) > 0 {
			found = append(found, count{len(knots[0]), fmt.Sprintf("%s, of %d files: %s", p.path, len(names), strings.Join(knots[0], " "))})
		}
	}
	return byCount(found)
}

// functions calls see for every function and method with a body.
func (h *house) functions(see func(p *pkg, f *ast.FuncDecl)) {
	for _, p := range h.pkgs {
		for _, file := range p.files {
			for _, d := range file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil {
					see(p, f)
				}
			}
		}
	}
}

// methods counts the methods of each type.
func (h *house) methods() []count {
	n := map[string]int{}
	h.functions(func(p *pkg, f *ast.FuncDecl) {
		if f.Recv == nil {
			return
		}
		t := p.info.Defs[f.Name].Type().(*types.Signature).Recv().Type()
		if pointer, ok := t.(*types.Pointer); ok {
			t = pointer.Elem()
		}
		n[p.path+"."+t.(*types.Named).Obj().Name()]++
	})
	var found []count
	for t, n := range n {
		found = append(found, count{n, t})
	}
	return byCount(found)
}

// long returns the functions of more than limit lines.
func (h *house) long(limit int) []count {
	var found []count
	h.functions(func(_ *pkg, f *ast.FuncDecl) {
		if n := h.fset.Position(f.End()).Line - h.fset.Position(f.Pos()).Line + 1; n > limit {
			found = append(found, count{n, h.where(f.Pos()) + " " + f.Name.Name})
		}
	})
	return byCount(found)
}

// foreign returns the packages that one package pulls in and that are neither of this module nor of the standard library.
func (h *house) foreign(path string) ([]string, error) {
	all, err := golist(h.dir, "-deps", "./"+path)
	var found []string
	for _, l := range all {
		if !l.Standard && h.below(l.ImportPath) == l.ImportPath {
			found = append(found, l.ImportPath)
		}
	}
	return found, err
}

// unpromised counts the exported names of packages that anybody can import and that are not promised.
func (h *house) unpromised() []count {
	var found []count
	for _, p := range h.pkgs {
		if p.main || slices.Contains(strings.Split(p.path, "/"), "internal") || slices.Contains(promised, p.path) {
			continue
		}
		n := 0
		for _, name := range p.types.Scope().Names() {
			if token.IsExported(name) {
				n++
			}
		}
		if n > 0 {
			found = append(found, count{n, p.path})
		}
	}
	return byCount(found)
}

// option finds a command-line option in a text.
var option = regexp.MustCompile(`(?:^|[^\w-])--([a-z][a-z0-9-]*)`)

// flags returns the texts of libraries that name a command-line option of luksplug's. A text that is an option and
// nothing else is another program's argument.
func (h *house) flags() []string {
	names := map[string]bool{}
	for _, p := range h.pkgs {
		for _, file := range p.files {
			ast.Inspect(file, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok || !p.main {
					return true
				}
				s, ok := call.Fun.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if f, ok := p.info.Uses[s.Sel].(*types.Func); !ok || f.Pkg() == nil || f.Pkg().Path() != "github.com/spf13/pflag" {
					return true
				}
				for _, arg := range call.Args {
					if v := p.info.Types[arg].Value; v != nil && v.Kind() == constant.String {
						names[constant.StringVal(v)] = true
						break
					}
				}
				return true
			})
		}
	}
	var found []string
	for _, p := range h.pkgs {
		if !p.library() {
			continue
		}
		for _, file := range p.files {
			ast.Inspect(file, func(n ast.Node) bool {
				lit, ok := n.(*ast.BasicLit)
				if !ok || lit.Kind != token.STRING {
					return true
				}
				text, err := strconv.Unquote(lit.Value)
				for _, m := range option.FindAllStringSubmatch(text, -1) {
					if err == nil && names[m[1]] && text != "--"+m[1] {
						found = append(found, h.where(lit.Pos())+" --"+m[1])
						break
					}
				}
				return true
			})
		}
	}
	return found
}

// lines counts the lines of the Go files that git knows, and those of tests among them.
func (h *house) lines() (all, tests int, err error) {
	cmd := exec.Command("git", "ls-files", "*.go")
	cmd.Dir = h.dir
	out, err := cmd.Output()
	if err != nil {
		return 0, 0, fmt.Errorf("git ls-files: %w", err)
	}
	for _, name := range strings.Fields(string(out)) {
		text, err := os.ReadFile(filepath.Join(h.dir, name))
		if err != nil {
			return 0, 0, err
		}
		n := strings.Count(string(text), "\n")
		if all += n; strings.HasSuffix(name, "_test.go") {
			tests += n
		}
	}
	return all, tests, nil
}

// against returns the imports that go up or sideways, as "importer imported".
func (h *house) against() []string {
	var found []string
	for _, p := range h.pkgs {
		from, ok := entryOf(p.path)
		if !ok {
			found = append(found, p.path+" (which no level names)")
			continue
		}
		for _, path := range p.imports {
			to, ok := entryOf(path)
			if ok && (to.path == from.path || to.level < from.level || p.usesOnly(h.module+"/"+path, from.only[to.path])) {
				continue
			}
			found = append(found, p.path+" "+path)
		}
	}
	return found
}

// usesOnly reports whether the package uses no other names of an imported package than those.
func (p *pkg) usesOnly(path string, names []string) bool {
	if len(names) == 0 {
		return false
	}
	for _, file := range p.files {
		local := ""
		for _, i := range file.Imports {
			if i.Path.Value == strconv.Quote(path) {
				if local = path[strings.LastIndex(path, "/")+1:]; i.Name != nil {
					local = i.Name.Name
				}
			}
		}
		other := false
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				x, ok := s.X.(*ast.Ident)
				other = other || ok && local != "" && x.Name == local && !slices.Contains(names, s.Sel.Name)
			}
			return !other
		})
		if other {
			return false
		}
	}
	return true
}
