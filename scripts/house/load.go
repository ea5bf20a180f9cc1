package main

import (
	"encoding/json"
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
	foreign []string // packages of other modules, imported or needed by an import
	main    bool
	files   []*ast.File // without tests
	info    types.Info
	types   *types.Package
}

// library reports whether the package is neither a program nor for tests.
func (p *pkg) library() bool {
	_, level := place(p.path)
	_, programs := place("cmd")
	return !p.main && level < programs
}

// house is the measured module.
type house struct {
	dir, module string
	fset        *token.FileSet
	pkgs        []*pkg
}

// output runs a program in dir and returns its output.
func output(dir string, args ...string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(args[:2], " "), err)
	}
	return string(out), nil
}

// load reads the packages of the module whose root is dir, with their types, for which it builds their imports.
func load(dir string) (*house, error) {
	text, err := output(dir, "go", "list", "-deps", "-export", "-json=ImportPath,Name,Dir,Export,GoFiles,Imports,Deps,Module,DepOnly", "./...")
	if err != nil {
		return nil, err
	}
	h := &house{fset: token.NewFileSet()}
	exports, foreign := map[string]string{}, map[string]bool{}
	imports := importer.ForCompiler(h.fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	for d := json.NewDecoder(strings.NewReader(text)); d.More(); { // each package comes after those that it imports
		var l struct {
			ImportPath, Name, Dir, Export string
			GoFiles, Imports, Deps        []string
			Module                        *struct{ Path, Dir string }
			DepOnly                       bool
		}
		if err := d.Decode(&l); err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		exports[l.ImportPath], foreign[l.ImportPath] = l.Export, l.DepOnly && l.Module != nil
		if l.DepOnly {
			continue
		}
		h.module, h.dir = l.Module.Path, l.Module.Dir
		p := &pkg{path: h.below(l.ImportPath), main: l.Name == "main"}
		p.info = types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{}}
		p.foreign = slices.DeleteFunc(l.Deps, func(path string) bool { return !foreign[path] })
		for _, path := range l.Imports {
			if below := h.below(path); below != path {
				p.imports = append(p.imports, below)
			}
		}
		for _, name := range l.GoFiles {
			file, err := parser.ParseFile(h.fset, filepath.Join(l.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				return nil, err
			}
			p.files = append(p.files, file)
		}
		if p.types, err = (&types.Config{Importer: imports}).Check(l.ImportPath, h.fset, p.files, &p.info); err != nil {
			return nil, err
		}
		h.pkgs = append(h.pkgs, p)
	}
	slices.SortFunc(h.pkgs, func(a, b *pkg) int { return strings.Compare(a.path, b.path) })
	return h, nil
}

// below cuts the module's path off; a path of another module stays as it is.
func (h *house) below(path string) string {
	if path == h.module {
		return "."
	}
	return strings.TrimPrefix(path, h.module+"/")
}

// at returns the file, below the module, and the line of a position.
func (h *house) at(pos token.Pos) (file string, line int) {
	p := h.fset.Position(pos)
	return strings.TrimPrefix(p.Filename, h.dir+"/"), p.Line
}
