package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
)

// module makes a module with packages whose tests pass, fail, panic, are skipped, or do not compile.
func module(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":      "module example\n\ngo 1.26\n",
		"a/a_test.go": "package a\n\nimport \"testing\"\n\nfunc TestSlow(t *testing.T) { t.Skip(\"needs a guest\") }\nfunc TestSlower(t *testing.T) { t.Run(\"sub\", func(t *testing.T) { t.Log(\"first\"); t.Skip(\"needs a guest\") }) }\nfunc TestSilent(t *testing.T) { t.SkipNow() }\nfunc TestQuick(t *testing.T) { t.Log(\"not printed\") }\n",
		"b/b_test.go": "package b\n\nimport \"testing\"\n\nfunc TestBad(t *testing.T) { t.Run(\"sub\", func(t *testing.T) { t.Log(\"first\"); t.Error(\"second\\nof two lines\") }); t.Error(\"third\") }\nfunc TestGood(t *testing.T) { t.Log(\"not printed\") }\n",
		"c/c_test.go": "package c\n\nimport \"testing\"\n\nfunc TestPanic(t *testing.T) { panic(\"at the disco\") }\n",
		"d/d_test.go": "package d\n\nfunc broken() { undefinedName() }\n",
		"e/e.go":      "package e\n",
		"f/f_test.go": "package f\n\nimport \"testing\"\n\nfunc TestLast(t *testing.T) { t.Skip(\"runs for minutes\") }\n",
	} {
		path := filepath.Join(dir, name)
		must.OK(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must.OK(t, os.WriteFile(path, []byte(text), 0o644))
	}
	return dir
}

// printed runs go test in a module.
func printed(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"test", "-p=1", "-vet=off"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false -trimpath", "GOWORK=off")
	out, _ := cmd.CombinedOutput() // some tests fail
	return string(out)
}

// volatile are times and addresses.
var volatile = regexp.MustCompile(`\d+\.\d+s|0x[0-9a-f]+|goroutine \d+`)

// TestAsGoTest: except for the skipped tests the output is that of go test. Messages of the compiler come early.
func TestAsGoTest(t *testing.T) {
	dir := module(t)
	var got bytes.Buffer
	must.OK(t, run(strings.NewReader("a message of the shell\n"+printed(t, dir, "-json", "./...")), &got))
	const broken = "# example/d [example/d.test]\nd/d_test.go:3:17: undefined: undefinedName\n"
	var rest, skipped []string
	for line := range strings.Lines(strings.Replace(got.String(), broken, "", 1)) {
		if strings.HasPrefix(line, "skipped: ") {
			skipped = append(skipped, line)
		} else {
			rest = append(rest, line)
		}
	}
	usual := printed(t, dir, "./...")
	if !strings.Contains(usual, broken) || !strings.Contains(got.String(), broken) {
		t.Errorf("no message of the compiler in\n%s\nor\n%s", usual, got.String())
	}
	want := "a message of the shell\n" + strings.Replace(usual, broken, "", 1)
	text := func(s string) string { return volatile.ReplaceAllString(s, "N") }
	if text(strings.Join(rest, "")) != text(want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(rest, ""), want)
	}
	if got := strings.Join(skipped, ""); got != `skipped: needs a guest: TestSlow, TestSlower/sub
skipped: no reason given: TestSilent
skipped: runs for minutes: TestLast
` {
		t.Errorf("skipped:\n%s", got)
	}
	lines := strings.Split(strings.TrimSpace(got.String()), "\n")
	if last := lines[len(lines)-1]; last != "FAIL" && !strings.HasPrefix(last, "ok") {
		t.Errorf("the last line is %q", last)
	}
}

func TestSummaryIsShort(t *testing.T) {
	var got bytes.Buffer
	must.OK(t, run(strings.NewReader(`{"Action":"output","Package":"p","Test":"A","Output":"    x_test.go:1: why\n"}
{"Action":"skip","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"D","Output":"    x_test.go:1: why\n"}
{"Action":"skip","Package":"p","Test":"D"}
{"Action":"output","Package":"p","Test":"C","Output":"    x_test.go:1: why\n"}
{"Action":"skip","Package":"p","Test":"C"}
{"Action":"output","Package":"p","Test":"B","Output":"    x_test.go:1: why\n"}
{"Action":"skip","Package":"p","Test":"B"}
{"Action":"output","Package":"p","Output":"ok  \tp\t0.1s\n"}
{"Action":"pass","Package":"p"}
`), &got))
	if got.String() != "skipped: why: A, B, C and 1 more\nok  \tp\t0.1s\n" {
		t.Errorf("%q", got.String())
	}
}
