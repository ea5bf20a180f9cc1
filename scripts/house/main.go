// Command house measures how the code is built: which files and packages need which, how long functions are, what the
// public API is. It prints a table of figures and what each of them counts; make house runs it. With -picture it draws
// the packages into a document instead.
//
// What may import what, and which packages are the API, is in table.go. The command's test fails for an import that the
// table forbids.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// longest is how many lines a function may have before it is counted as a long one.
const longest = 60

func main() {
	dir := flag.String("dir", ".", "the module to measure")
	picture := flag.String("picture", "", "draw the packages into this document, between its marks, and measure nothing")
	flag.Parse()
	if err := run(os.Stdout, *dir, *picture); err != nil {
		fmt.Fprintf(os.Stderr, "house: %v\n", err)
		os.Exit(1)
	}
}

func run(w io.Writer, dir, picture string) error {
	h, err := load(dir, picture == "")
	if err != nil {
		return err
	}
	if picture != "" {
		return h.drawInto(picture)
	}
	return h.report(w)
}

// report writes the figures and, below them, what they count.
func (h *house) report(w io.Writer) error {
	total, tests, err := h.lines()
	if err != nil {
		return err
	}
	foreign, err := h.foreign("qmp")
	if err != nil {
		return err
	}
	knots, all, methods, long, unpromised := h.knots(false), h.knots(true), h.methods(), h.long(longest), h.unpromised()
	flags, against := h.flags(), h.against()
	names := 0
	for _, c := range unpromised {
		names += c.n
	}
	figures := []struct {
		what  string
		n     int
		list  []string
		shown int
	}{
		{"files of one package whose functions all need each other, at most", most(knots), lines(knots), 10},
		{"the same in hotplug", most(of("hotplug", knots)), nil, 0},
		{"the same in hotplug, counting types, variables and constants as well", most(of("hotplug", all)), lines(of("hotplug", all)), 1},
		{"methods of one type, at most", most(methods), lines(methods), 10},
		{fmt.Sprintf("functions of more than %d lines, without tests", longest), len(long), lines(long), len(long)},
		{"packages of other modules below qmp", len(foreign), foreign, len(foreign)},
		{"exported names outside of the promised packages", names, lines(unpromised), len(unpromised)},
		{"packages that can be imported and are not promised", len(unpromised), nil, 0},
		{"texts of libraries that name a command-line flag", len(flags), flags, len(flags)},
		{"imports that go up or sideways", len(against), against, len(against)},
		{"lines of Go", total, nil, 0},
		{"lines of Go without tests", total - tests, nil, 0},
	}
	var b strings.Builder
	b.WriteString("| figure | value |\n|---|---|\n")
	for _, f := range figures {
		fmt.Fprintf(&b, "| %s | %d |\n", f.what, f.n)
	}
	for _, f := range figures {
		if len(f.list) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n%s:\n", f.what)
		for _, line := range f.list[:min(f.shown, len(f.list))] {
			fmt.Fprintf(&b, "  %s\n", line)
		}
	}
	_, err = io.WriteString(w, b.String())
	return err
}

// of returns the counts of one package.
func of(path string, counts []count) []count {
	return slices.DeleteFunc(slices.Clone(counts), func(c count) bool { return !strings.HasPrefix(c.what, path+",") })
}

// most is the largest of the counts, which are sorted.
func most(counts []count) int {
	if len(counts) == 0 {
		return 0
	}
	return counts[0].n
}

func lines(counts []count) []string {
	var all []string
	for _, c := range counts {
		all = append(all, fmt.Sprintf("%3d %s", c.n, c.what))
	}
	return all
}
