package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// The marks between which a document holds the picture.
const (
	pictureBegin = "<!-- make house-picture writes from here -->\n"
	pictureEnd   = "<!-- to here -->\n"
)

// stores is what the picture calls all key stores together.
const stores = "secrets/STORE"

// box returns the box of the picture that a package is in, "" for none: programs other than luksplug, and tests, are
// left out, and the key stores are one.
func (p *pkg) box() string {
	if !p.library() && p.path != "cmd/luksplug" || strings.HasSuffix(p.path, "test") {
		return ""
	}
	store := strings.HasPrefix(p.path, "secrets/") && slices.Contains(promised, p.path)
	if store && p.path != "secrets/keystore" && p.path != "secrets/luks" {
		return stores
	}
	return p.path
}

// picture draws the packages as mermaid. An import that others imply is left out.
func (h *house) picture() string {
	boxOf := map[string]string{}
	for _, p := range h.pkgs {
		boxOf[p.path] = p.box()
	}
	edges := map[string]map[string]bool{}
	for _, p := range h.pkgs {
		from := boxOf[p.path]
		if from == "" {
			continue
		}
		if edges[from] == nil {
			edges[from] = map[string]bool{}
		}
		for _, path := range p.imports {
			if to := boxOf[path]; to != "" && to != from {
				edges[from][to] = true
			}
		}
	}
	var boxes []string
	for box := range edges {
		boxes = append(boxes, box)
	}
	slices.Sort(boxes)
	var b strings.Builder
	b.WriteString("```mermaid\nflowchart TD\n")
	id := strings.NewReplacer("/", "_")
	for _, box := range boxes {
		fmt.Fprintf(&b, "  %s[%s]\n", id.Replace(box), box)
	}
	for _, from := range boxes {
		for _, to := range boxes {
			if edges[from][to] && !implied(edges, from, to) {
				fmt.Fprintf(&b, "  %s --> %s\n", id.Replace(from), id.Replace(to))
			}
		}
	}
	b.WriteString("```\n")
	return b.String()
}

// implied reports whether a path of more than one import leads from one box to another.
func implied(edges map[string]map[string]bool, from, to string) bool {
	seen := map[string]bool{from: true, to: true}
	todo := []string{from}
	for len(todo) > 0 {
		box := todo[0]
		todo = todo[1:]
		if box != from && edges[box][to] {
			return true
		}
		for next := range edges[box] {
			if !seen[next] {
				seen[next] = true
				todo = append(todo, next)
			}
		}
	}
	return false
}

// between cuts a document at the marks: what is before the picture, the picture, and what follows it.
func between(document string) (before, picture, after string, err error) {
	before, rest, ok := strings.Cut(document, pictureBegin)
	picture, after, end := strings.Cut(rest, pictureEnd)
	if !ok || !end {
		return "", "", "", fmt.Errorf("the document lacks the marks %q and %q", pictureBegin, pictureEnd)
	}
	return before + pictureBegin, picture, pictureEnd + after, nil
}

// drawInto puts the picture between the marks of a document.
func (h *house) drawInto(document string) error {
	text, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	before, _, after, err := between(string(text))
	if err != nil {
		return err
	}
	return os.WriteFile(document, []byte(before+h.picture()+after), 0o644)
}
