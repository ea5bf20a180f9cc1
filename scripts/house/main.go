// Command house measures the structure of the code: dependencies of files and packages, lengths of functions, the public
// API. It prints a table of figures and the items that each counts; make house runs it. With -picture it draws the
// packages into a document instead, or lists the texts of errors.
//
// table.go lists the permitted imports and the packages of the API. The command's test fails for any other import.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

const (
	longest = 60 // lines of a function before it is counted as a long one
	shown   = 10 // items of a figure that are printed
)

func main() {
	dir := flag.String("dir", ".", "the module to measure")
	picture := flag.String("picture", "", "draw the packages into this document, between its marks, and measure nothing")
	errorTexts := flag.String("errors", "", "write the texts of errors into this file, and measure nothing")
	flag.Parse()
	if err := run(*dir, *picture, *errorTexts); err != nil {
		fmt.Fprintf(os.Stderr, "house: %v\n", err)
		os.Exit(1)
	}
}

func run(dir, picture, errorTexts string) error {
	h, err := load(dir)
	if err != nil {
		return err
	}
	if errorTexts != "" {
		return os.WriteFile(errorTexts, []byte(strings.Join(h.errorTexts(), "\n")+"\n"), 0o644)
	}
	if picture == "" {
		return h.report(os.Stdout)
	}
	text, err := os.ReadFile(picture)
	if err != nil {
		return err
	}
	document, err := h.redraw(string(text))
	if err != nil {
		return err
	}
	return os.WriteFile(picture, []byte(document), 0o644)
}

// figure is a line of the table, and the items that it counts.
type figure struct {
	what string
	n    int
	list []string
}

// listed is a figure for the length of a list.
func listed(what string, list []string) figure { return figure{what, len(list), list} }

// largest is a figure for the largest of the counts whose text begins with prefix.
func largest(what string, counts []count, prefix string) figure {
	counts = slices.DeleteFunc(slices.Clone(counts), func(c count) bool { return !strings.HasPrefix(c.what, prefix) })
	f := figure{what: what, list: lines(counts)}
	for _, c := range counts {
		f.n = max(f.n, c.n)
	}
	return f
}

// lines writes counts as text, the largest first.
func lines(counts []count) []string {
	slices.SortFunc(counts, func(a, b count) int { return cmp.Or(cmp.Compare(b.n, a.n), strings.Compare(a.what, b.what)) })
	var all []string
	for _, c := range counts {
		all = append(all, fmt.Sprintf("%3d %s", c.n, c.what))
	}
	return all
}

// report writes the figures and, below them, the items that they count.
func (h *house) report(w io.Writer) error {
	total, tests, err := h.lines()
	if err != nil {
		return err
	}
	var foreign []string
	for _, p := range h.pkgs {
		if p.path == "qmp" {
			foreign = p.foreign
		}
	}
	knots := h.knots(false)
	methods, unpromised := h.names()
	exported := 0
	for _, c := range unpromised {
		exported += c.n
	}
	figures := []figure{
		largest("files of one package whose functions all need each other, at most", knots, ""),
		largest("the same in hotplug", knots, "hotplug,"),
		largest("the same in hotplug, counting types, variables and constants as well", h.knots(true), "hotplug,"),
		largest("methods of one type, at most", methods, ""),
		listed(fmt.Sprintf("functions of more than %d lines, without tests", longest), lines(h.long(longest))),
		listed("packages of other modules below qmp", foreign),
		{"exported names outside of the promised packages", exported, nil},
		listed("packages that can be imported and are not promised", lines(unpromised)),
		listed("texts of libraries that name a command-line flag", h.flags()),
		listed("imports that go up or sideways", h.against()),
		{"lines of Go", total, nil},
		{"lines of Go without tests", total - tests, nil},
	}
	var table, details strings.Builder
	table.WriteString("| figure | value |\n|---|---|\n")
	for _, f := range figures {
		fmt.Fprintf(&table, "| %s | %d |\n", f.what, f.n)
		if len(f.list) > 0 {
			fmt.Fprintf(&details, "\n%s:\n  %s\n", f.what, strings.Join(f.list[:min(shown, len(f.list))], "\n  "))
		}
	}
	_, err = io.WriteString(w, table.String()+details.String())
	return err
}
