package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestRulesHaveTests: each rule of docs/security.md names a test, and each test that it names exists.
func TestRulesHaveTests(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rules, found := strings.Cut(string(text), "\n## Rules\n")
	rules, _, ended := strings.Cut(rules, "\nWhat remains:\n")
	if !found || !ended {
		t.Fatal("docs/security.md has no section Rules that ends with what remains")
	}
	exist := testsBelow(t, "../..")
	name := regexp.MustCompile(`\b(Test|Fuzz)[A-Z]\w+`)
	for rule := range strings.SplitSeq(rules, "\n- ") {
		names := name.FindAllString(rule, -1)
		if len(names) == 0 && !strings.HasPrefix(rule, "\nEach rule") {
			t.Errorf("this rule names no test: %s", rule)
		}
		for _, n := range names {
			if !exist[n] {
				t.Errorf("docs/security.md names %s, which does not exist", n)
			}
		}
	}
}

// testsBelow returns the names of the functions in all test files.
func testsBelow(t *testing.T, root string) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range f.Decls {
			if function, ok := d.(*ast.FuncDecl); ok {
				out[function.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
