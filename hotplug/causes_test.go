package hotplug_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// TestEveryRefusalHasACause reads the source: each PreflightError below this package sets
// its cause, so that a program can match it.
func TestEveryRefusalHasACause(t *testing.T) {
	t.Parallel()
	refusals := 0
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			literal, ok := n.(*ast.CompositeLit)
			if !ok || !isPreflightError(literal.Type) {
				return true
			}
			refusals++
			for _, e := range literal.Elts {
				if member, ok := e.(*ast.KeyValueExpr); ok && member.Key.(*ast.Ident).Name == "Cause" {
					return true
				}
			}
			t.Errorf("%s: a refusal without a cause", set.Position(literal.Pos()))
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if refusals == 0 {
		t.Error("no refusal was found: the type has another name")
	}
}

func isPreflightError(e ast.Expr) bool {
	switch x := e.(type) {
	case *ast.Ident:
		return x.Name == "PreflightError"
	case *ast.SelectorExpr:
		return x.Sel.Name == "PreflightError"
	}
	return false
}
