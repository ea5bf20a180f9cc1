package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// printer writes the demo's text. It keeps its first error, which ends the demo.
type printer struct {
	w      io.Writer
	colour bool
	steps  int
	err    error
}

// Terminal sequences (ECMA-48, Select Graphic Rendition).
const (
	bold  = "\x1b[1m"
	green = "\x1b[32m"
	plain = "\x1b[0m"
)

// step begins a step: its number, title and explanation.
func (p *printer) step(title, why string) {
	p.steps++
	p.printf("\n%s\n", p.paint(bold, fmt.Sprintf("%d. %s", p.steps, title)))
	p.printf("   %s\n", why)
}

// command shows a command line as a person would type it.
func (p *printer) command(line string) { p.printf("   $ %s\n", line) }

// quote shows the output of another program, indented.
func (p *printer) quote(text string) {
	for line := range strings.Lines(text) {
		p.printf("     %s\n", strings.TrimRight(line, "\n"))
	}
}

// checked reports a check that has passed.
func (p *printer) checked(format string, args ...any) {
	p.printf("   %s %s\n", p.paint(green, "ok:"), fmt.Sprintf(format, args...))
}

// end is the last line.
func (p *printer) end(took time.Duration) {
	p.printf("\n%s\n", p.paint(bold, fmt.Sprintf("All checks passed, in %.0f seconds.", took.Seconds())))
}

func (p *printer) paint(sequence, text string) string {
	if !p.colour {
		return text
	}
	return sequence + text + plain
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}
