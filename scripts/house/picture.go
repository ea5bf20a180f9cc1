package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// marks are the marks around the picture in a document.
var marks = regexp.MustCompile(`(?s)(<!-- make house-picture writes from here -->\n).*(<!-- to here -->\n)`)

// box returns the box of a package in the picture: its path in the table; "" for tests and for programs other than
// luksplug.
func (p *pkg) box() string {
	path, _ := place(p.path)
	if !p.library() && path != "cmd" || strings.HasPrefix(path, "internal/") && strings.Contains(path, "test") {
		return ""
	}
	return path
}

// picture draws the packages as mermaid. An import that others imply is left out.
func (h *house) picture() string {
	boxes, edges := map[string]string{}, graph{}
	for _, p := range h.pkgs {
		if boxes[p.path] = p.box(); p.box() != "" {
			edges[p.box()] = map[string]bool{}
		}
	}
	for _, p := range h.pkgs {
		for _, path := range p.imports {
			if from, to := boxes[p.path], boxes[path]; from != "" && to != "" && to != from {
				edges[from][to] = true
			}
		}
	}
	reach := edges.reach()
	var nodes, arrows strings.Builder
	id := strings.NewReplacer("/", "_")
	for _, from := range slices.Sorted(maps.Keys(edges)) {
		fmt.Fprintf(&nodes, "  %s[%s]\n", id.Replace(from), from)
		for _, to := range slices.Sorted(maps.Keys(edges[from])) {
			implied := func(via string) bool { return via != to && reach[via][to] }
			if !slices.ContainsFunc(slices.Collect(maps.Keys(edges[from])), implied) {
				fmt.Fprintf(&arrows, "  %s --> %s\n", id.Replace(from), id.Replace(to))
			}
		}
	}
	return "```mermaid\nflowchart TD\n" + nodes.String() + arrows.String() + "```\n"
}

// redraw returns a document with the picture between its marks.
func (h *house) redraw(document string) (string, error) {
	if !marks.MatchString(document) {
		return "", fmt.Errorf("the document lacks the marks %s", marks)
	}
	return marks.ReplaceAllString(document, "${1}"+h.picture()+"${2}"), nil
}
