package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// pkg is a package of the module.
type pkg struct {
	path    string   // below the module; "." is the module's own
	imports []string // of the module only, below it as well
	main    bool
	files   []*ast.File // without tests
	info    *types.Info // nil unless typed
	types   *types.Package
}

// house is what is measured.
type house struct {
	dir, module string
	fset        *token.FileSet
	pkgs        []*pkg
}

// listed is what is needed of a package that go list prints.
type listed struct {
	ImportPath, Name, Dir, Export string
	GoFiles, Imports              []string
	Standard, DepOnly             bool
}

// golist runs go list in dir.
func golist(dir string, args ...string) ([]listed, error) {
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Name,Dir,Export,GoFiles,Imports,Standard,DepOnly"}, args...)...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var all []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listed
		if err := d.Decode(&l); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		all = append(all, l)
	}
}

// load reads the packages of the module in dir, their types as well where typed is set, which builds what they import.
func load(dir string, typed bool) (*house, error) {
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Path}}\n{{.Dir}}")
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list -m: %w", err)
	}
	module, root, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	h := &house{dir: root, module: module, fset: token.NewFileSet()}
	args := []string{"./..."}
	if typed {
		args = []string{"-deps", "-export", "./..."}
	}
	all, err := golist(root, args...)
	if err != nil {
		return nil, err
	}
	exports := map[string]string{}
	for _, l := range all {
		exports[l.ImportPath] = l.Export
	}
	imports := importer.ForCompiler(h.fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	for _, l := range all {
		if l.DepOnly {
			continue
		}
		p := &pkg{path: h.below(l.ImportPath), main: l.Name == "main"}
		for _, path := range l.Imports {
			if path == module || strings.HasPrefix(path, module+"/") {
				p.imports = append(p.imports, h.below(path))
			}
		}
		h.pkgs = append(h.pkgs, p)
		for _, name := range l.GoFiles {
			file, err := parser.ParseFile(h.fset, filepath.Join(l.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				return nil, err
			}
			p.files = append(p.files, file)
		}
		if !typed {
			continue
		}
		p.info = &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}, Defs: map[*ast.Ident]types.Object{}}
		if p.types, err = (&types.Config{Importer: imports}).Check(l.ImportPath, h.fset, p.files, p.info); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(h.pkgs, func(a, b *pkg) int { return strings.Compare(a.path, b.path) })
	return h, nil
}

// below cuts the module's path off.
func (h *house) below(path string) string {
	if path == h.module {
		return "."
	}
	return strings.TrimPrefix(path, h.module+"/")
}

// where names a position as file:line, below the module.
func (h *house) where(pos token.Pos) string {
	p := h.fset.Position(pos)
	if rel, err := filepath.Rel(h.dir, p.Filename); err == nil {
		p.Filename = rel
	}
	return fmt.Sprintf("%s:%d", p.Filename, p.Line)
}

// library reports whether the package is neither a program nor of those that test the others.
func (p *pkg) library() bool {
	e, ok := entryOf(p.path)
	return !p.main && (!ok || e.level < firstProgram)
}
