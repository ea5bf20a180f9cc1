package blockgraph

import (
	"fmt"
	"strconv"
	"strings"
)

// Arguments returns the graph as arguments for a QEMU that is about to start:
// -object, -blockdev and -device with JSON values, not quoted. No secret value
// goes on a command line: each secret object reads the file that secretFile
// returns for it, whose bytes are the passphrase, exactly.
//
// A graph that is unlocked outside of QEMU has no arguments: the error is an
// [*UnsupportedError]. Nobody is kept waiting by a QEMU that is about to start.
func (p *Plan) Arguments(secretFile func(GraphObject) (string, error)) ([]string, error) {
	if p.Graph.Daemon != nil || len(p.Graph.Headers) > 0 {
		return nil, &UnsupportedError{Element: "disk/source/encryption", Reason: "a disk that is unlocked outside of QEMU cannot be given as arguments"}
	}
	var out []string
	add := func(option string, o Object) error {
		text, err := appendJSON(nil, o)
		out = append(out, option, string(text))
		return err
	}
	for _, o := range p.Graph.Objects {
		path, err := secretFile(o)
		if err != nil {
			return nil, err
		}
		options := o.Options.Without("data").Without("format").With("file", path)
		if err := add("-object", options); err != nil {
			return nil, err
		}
	}
	for _, n := range p.Graph.Nodes {
		if err := add("-blockdev", n.Options); err != nil {
			return nil, err
		}
	}
	for _, d := range p.Graph.Devices {
		if err := add("-device", d.Options); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// QuoteArguments joins arguments into text that a POSIX shell reads back as
// the same arguments: one option and its value a line, continued by
// backslashes.
func QuoteArguments(args []string) string {
	var b strings.Builder
	for i, a := range args {
		switch {
		case i == 0:
		case strings.HasPrefix(a, "-"):
			b.WriteString(" \\\n")
		default:
			b.WriteByte(' ')
		}
		b.WriteString(quote(a))
	}
	b.WriteByte('\n')
	return b.String()
}

// quote makes one shell word of s (POSIX shell, 2.2.2 Single-Quotes).
func quote(s string) string {
	plain := func(c rune) bool {
		return alphanumeric(c) || strings.ContainsRune("-_./:=+,", c)
	}
	if s != "" && strings.IndexFunc(s, func(c rune) bool { return !plain(c) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// printable makes s fit for one line that people read: control characters, with
// which a path could write all over a terminal, appear as escapes.
func printable(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) < 0 {
		return s
	}
	q := strconv.Quote(s)
	return q[1 : len(q)-1]
}

// Text prints the steps for people, a line each.
func (p *Plan) Text() string {
	var b strings.Builder
	if daemon := p.Graph.Daemon; daemon != nil {
		steps := daemon.Plan()
		fmt.Fprintf(&b, "in a storage daemon for %s, which exports %s: %d steps\n", p.Graph.Target, daemon.Top().Name, len(steps.Steps))
		steps.lines(&b)
	}
	fmt.Fprintf(&b, "plan for %s: %d steps\n", p.Graph.Target, len(p.Steps))
	p.lines(&b)
	return b.String()
}

func (p *Plan) lines(b *strings.Builder) {
	width := 0
	for _, s := range p.Steps {
		width = max(width, len(s.Subject))
	}
	for i, s := range p.Steps {
		undo := s.Undo.Execute
		if undo == "" {
			undo = "-"
		}
		fmt.Fprintf(b, "%3d  %-12s  %-*s  undo %-12s  %s\n", i+1, s.Do.Execute, width, s.Subject, undo, s.summary())
	}
}

// summary says in a few words what the step is about.
func (s Step) summary() string {
	o := s.Do.Arguments
	switch s.Kind {
	case StepObject:
		if data, ok := o.Get("data").(SecretData); ok && data.OneTime {
			return "one-time passphrase, data " + Redacted
		} else if ok {
			return "passphrase of " + data.Ref.String() + ", data " + Redacted
		}
		return o.Text("qom-type")
	case StepNode:
		words := []string{o.Text("driver")}
		for _, name := range []string{"filename", "header", "file", "key-secret", "export"} {
			if v := o.Text(name); v != "" {
				words = append(words, name+"="+printable(v))
			}
		}
		if e, ok := o.Get("encrypt").(Object); ok {
			words = append(words, "key-secret="+e.Text("key-secret"))
		}
		if server, ok := o.Get("server").(Object); ok {
			words = append(words, "server="+printable(server.Text("path")))
		}
		if ro, ok := o.Get("read-only").(bool); ok && ro {
			words = append(words, "read-only")
		}
		return strings.Join(words, " ")
	case StepFDSet:
		return "ephemeral header, made from the one in " + printable(s.Header.Original.Source.Path)
	case StepDevice:
		words := []string{o.Text("driver")}
		for _, name := range []string{"bus", "addr"} {
			if v := o.Text(name); v != "" {
				words = append(words, name+"="+v)
			}
		}
		return strings.Join(words, " ")
	}
	return "the node is open and needs it no more"
}
