package main

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// TestErrorTexts: every text of an error was read, and has none of the faults.
func TestErrorTexts(t *testing.T) {
	t.Parallel()
	const table = "testdata/errors.txt"
	data, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	read, texts := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n"), this(t).errorTexts()
	if len(texts) < 1000 {
		t.Errorf("only %d texts were found", len(texts))
	}
	for _, text := range texts {
		if !slices.Contains(read, text) {
			t.Errorf("a new text, or a changed one: %s", text)
		}
		for _, f := range faultsOf(text) {
			t.Errorf("it has %s: %s", f, text)
		}
	}
	for _, text := range read {
		if !slices.Contains(texts, text) {
			t.Errorf("no longer a text of an error: %s", text)
		}
	}
	if t.Failed() {
		t.Log("read each new text by the rules of docs/errors.md, and run make house-errors")
	}
}

// TestFaultsOf: each rule finds what it is about, and is silent about the rest.
func TestFaultsOf(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"disk %s: the value is nil": "a word of Go", "cannot unmarshal": "a word of Go", "so: unexpected EOF": "a word of Go", "%s: context deadline exceeded": "a word of Go",
		"unknown error %d of QEMU": "words that say nothing", "failed to open %s": "words that say nothing", "so it is.": "punctuation", "so: ": "punctuation",
		"one\\ntwo lines": "a line break", "Cannot open it": "a capital letter", "it belongs to us": "a person", "the folder is missing": "another project's word",
		"the file %s has no header: give another": "", "QEMU refused it": "", "Ceph does not know it": "", "Failed to parse %s": "",
	} {
		got := strings.Join(faultsOf("qmp: "+text), ", ")
		if want == "" && got != "" || !strings.HasPrefix(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// TestErrorTextsOfAnExample: which texts of a program are those of errors.
func TestErrorTextsOfAnExample(t *testing.T) {
	t.Parallel()
	h := exampleOf(t, map[string]string{
		"go.mod": "module example.org/texts\n\ngo 1.21\n",
		"qmp/q.go": `package qmp

import (
	"errors"
	"fmt"
)

type E struct{ Reason string }

func (e *E) Error() string { return "an Error method: " + e.Reason }

type rule struct{ reason string }

var rules = []rule{{reason: "a reason of a rule"}}

func refuse(text string) error { return errors.New(text) }

func F(x string) (int, error) {
	fmt.Println("printed, no error")
	if x == "a" {
		return 1, &E{Reason: "a field " + x + " of an error"}
	}
	if x == "b" {
		return 1, refuse(fmt.Sprintf("put together of %d", 1))
	}
	return 1, fmt.Errorf("in Errorf %s: %w", x, errors.New("in New, %s"))
}

func hint() string { return "a hint of words" }

var _ = fmt.Errorf("%s: %w", "x", nil)
`,
	})
	want := []string{
		"a field %s of an error", "a hint of words", "a reason of a rule", "an Error method: %s", "in Errorf %s: %w", "in New, %s", "put together of %d",
	}
	for i := range want {
		want[i] = "qmp: " + want[i]
	}
	if got := h.errorTexts(); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
