package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestImports: no import goes up or sideways.
func TestImports(t *testing.T) {
	t.Parallel()
	for _, one := range this(t).against() {
		t.Errorf("%s: this import goes up or sideways (see table.go)", one)
	}
}

// TestPicture: the picture in the document is up to date.
func TestPicture(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/architecture.md")
	document, drawErr := this(t).redraw(string(text))
	if err := errors.Join(err, drawErr); err != nil {
		t.Fatal(err)
	}
	if document != string(text) {
		t.Error("docs/architecture.md: the picture of the packages is out of date: make house-picture")
	}
}

var loadThis = sync.OnceValues(func() (*house, error) { return load("../..") })

// this loads this module. go list reads the tree in a process of its own; go test takes a result from its cache unless
// something changed that the test itself has read.
func this(t *testing.T) *house {
	t.Helper()
	walkErr := filepath.WalkDir("../..", func(string, fs.DirEntry, error) error { return nil })
	h, err := loadThis()
	if err := errors.Join(walkErr, err); err != nil {
		t.Fatal(err)
	}
	return h
}

// example is a module in which each figure has something to count.
var example = map[string]string{
	"go.mod":               "module example.org/house\n\ngo 1.21\n\nrequire github.com/spf13/pflag v1.0.0\n\nreplace github.com/spf13/pflag => ./pflag\n",
	"pflag/go.mod":         "module github.com/spf13/pflag\n",
	"pflag/p.go":           "package pflag\n\nfunc String(name, value string) {}\n",
	"cmd/luksplug/main.go": "package main\n\nimport \"github.com/spf13/pflag\"\n\nfunc main() { pflag.String(\"relabel\", \"no\"); println(\"--relabel is one\") }\n",
	"hotplug/a.go":         "package hotplug\n\nimport _ \"example.org/house/hotplug/hook\"\n\nfunc A() { b() }\n\ntype VM struct{}\n\nfunc (VM) one() {}\n",
	"hotplug/b.go":         "package hotplug\n\nfunc b() { VM{}.one(); c() }\n\nfunc (*VM) two() {}\n",
	"hotplug/c.go":         "package hotplug\n\nvar _ VM\n\nfunc c() {" + strings.Repeat("\n", longest) + "}\n",
	"hotplug/c_test.go":    "package hotplug\n",
	"hotplug/hook/h.go":    "package hook\n",
	"other/o.go":           "package other\n\nconst Name = \"see --version, not --relabel\"\n\nvar hidden = \"--relabel\"\n",
	"blockgraph/g.go":      "package blockgraph\n\nimport (\n\t\"example.org/house/secrets\"\n)\n\nvar R secrets.Reference\n",
	"secrets/s.go":         "package secrets\n\ntype Reference struct{}\n\ntype Secret struct{}\n",
	"qmp/q.go":             "package qmp\n\nimport \"example.org/house/secrets\"\n\nvar S secrets.Secret\n",
}

// exampleOf loads a module of these files.
func exampleOf(t *testing.T, files map[string]string) *house {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	_, initErr := output(dir, "git", "init", "-q")
	_, addErr := output(dir, "git", "add", ".")
	h, err := load(dir)
	if err := errors.Join(initErr, addErr, err); err != nil {
		t.Fatal(err)
	}
	return h
}

// TestReport measures the example.
func TestReport(t *testing.T) {
	t.Parallel()
	h := exampleOf(t, example)
	var out strings.Builder
	if err := h.report(&out); err != nil {
		t.Fatal(err)
	}
	for figure, want := range map[string]int{
		"files of one package whose functions all need each other, at most": 2,
		"the same in hotplug": 2,
		"the same in hotplug, counting types, variables and constants as well": 3,
		"methods of one type, at most":                                         2,
		"functions of more than 60 lines, without tests":                       1,
		"packages of other modules below qmp":                                  0,
		"exported names outside of the promised packages":                      1,
		"packages that can be imported and are not promised":                   1,
		"texts of libraries that name a command-line flag":                     1,
		"imports that go up or sideways":                                       3,
		"lines of Go":                                                          111,
		"lines of Go without tests":                                            110,
	} {
		if line := fmt.Sprintf("| %s | %d |\n", figure, want); !strings.Contains(out.String(), line) {
			t.Errorf("no line %q", line)
		}
	}
	for _, line := range []string{"  hotplug hotplug/hook\n", "  other (which no level names)\n", "  qmp secrets\n", "hotplug/c.go:5 c\n", "a.go b.go c.go", "other/o.go:3 --relabel\n"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("no line %q", line)
		}
	}
	if t.Failed() {
		t.Log(out.String())
	}
}

// TestNamed: only an option of luksplug's in a longer text counts.
func TestNamed(t *testing.T) {
	t.Parallel()
	options := map[string]bool{"unlock": true, "tls-dir": true, "relabel": true, "connect": true}
	for text, want := range map[string]string{
		"use --unlock external": "--unlock", "(--tls-dir)": "--tls-dir", "'--relabel'": "--relabel", "--other --relabel": "--relabel",
		"a--unlock": "", "---unlock": "", "-- unlock": "", "--Unlock": "", "see --version": "", " --relabel ": "", "virsh --connect x": "", "run --connect": "--connect",
	} {
		if got := named(text, options); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
