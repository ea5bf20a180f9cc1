package render

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/internal/printable"
	"github.com/luksplug/luksplug/secrets"
)

// Text returns the steps, a line each, those of a storage daemon first. Control characters in names and paths
// are escaped.
func Text(p *blockgraph.Plan) string {
	var b strings.Builder
	if daemon := p.Graph.Daemon; daemon != nil {
		steps := daemon.Plan()
		fmt.Fprintf(&b, "in a storage daemon for %s, which exports %s: %d steps\n", p.Graph.Target, daemon.Top().Name, len(steps.Steps))
		lines(&b, steps)
	}
	fmt.Fprintf(&b, "plan for %s: %d steps\n", p.Graph.Target, len(p.Steps))
	lines(&b, p)
	return b.String()
}

func lines(b *strings.Builder, p *blockgraph.Plan) {
	width := 0
	for _, s := range p.Steps {
		width = max(width, len(s.Subject))
	}
	for i, s := range p.Steps {
		line := fmt.Sprintf("%3d  %-12s  %-*s  undo %-12s  %s", i+1, s.Do.Execute, width, s.Subject, cmp.Or(s.Undo.Execute, "-"), summary(s))
		b.WriteString(printable.Line(line) + "\n")
	}
}

// summary describes the step in a few words.
func summary(s blockgraph.Step) string {
	o := s.Do.Arguments
	switch s.Kind {
	case blockgraph.StepObject:
		if data, ok := o.Get("data").(blockgraph.SecretData); ok {
			return about(data) + ", data " + blockgraph.Redacted
		}
		return strings.TrimSpace(o.Text("qom-type") + " " + cmp.Or(o.Text("path"), o.Text("dir")))
	case blockgraph.StepNode:
		words := members(o, "filename", "url", "portal", "target", "lun", "initiator-name", "pool", "namespace", "image", "snapshot", "conf",
			"volume", "vdisk-id", "dir", "path", "device", "offset", "size", "header", "file", "data-file", "backing", "user", "username", "group",
			"key-secret", "password-secret", "cookie-secret", "tls-creds", "tls-hostname", "sslverify", "export")
		if e, ok := o.Get("encrypt").(blockgraph.Object); ok {
			words = append(words, "key-secret="+e.Text("key-secret"))
		}
		words = append(words, servers(o)...)
		if ro, ok := o.Get("read-only").(bool); ok && ro {
			words = append(words, "read-only")
		}
		if s.Overlay != nil {
			words = append(words, "(made for the disk, without a name once it is open)")
		}
		return strings.Join(words, " ")
	case blockgraph.StepFDSet:
		if s.File != nil {
			return "descriptor of " + s.File.Path
		}
		return "ephemeral header, made from the one in " + s.Header.Original.Source.String()
	case blockgraph.StepChardev:
		return "socket " + chardevPath(s)
	case blockgraph.StepLimit:
		var words []string
		for _, m := range o {
			if n, ok := m.Value.(uint64); ok && n > 0 {
				words = append(words, m.Name+"="+strconv.FormatUint(n, 10))
			}
		}
		return strings.Join(words, " ")
	case blockgraph.StepDevice:
		return strings.Join(members(o, "bus", "addr"), " ")
	}
	return "the open node no longer needs it"
}

// members returns the driver and those of the named members that are a text, a number or a
// switch.
func members(o blockgraph.Object, names ...string) []string {
	words := []string{o.Text("driver")}
	for _, name := range names {
		switch v := o.Get(name).(type) {
		case string:
			if v != "" {
				words = append(words, name+"="+v)
			}
		case bool, int, int64, uint, uint64:
			words = append(words, fmt.Sprintf("%s=%v", name, v))
		}
	}
	return words
}

// servers returns the servers of a node.
func servers(o blockgraph.Object) []string {
	all, ok := o.Get("server").([]any)
	if !ok {
		all = []any{o.Get("server")}
	}
	var words []string
	for _, one := range all {
		if server, ok := one.(blockgraph.Object); ok {
			address := server.Text("host")
			if port := server.Text("port"); port != "" {
				address += ":" + port
			}
			words = append(words, "server="+cmp.Or(server.Text("path"), address))
		}
	}
	return words
}

// chardevPath finds the socket in the arguments of chardev-add.
func chardevPath(s blockgraph.Step) string {
	o := s.Do.Arguments
	for _, name := range []string{"backend", "data", "addr", "data"} {
		o, _ = o.Get(name).(blockgraph.Object)
	}
	return o.Text("path")
}

// about describes the secret in a few words.
func about(d blockgraph.SecretData) string {
	switch {
	case d.OneTime || d.Text != "":
		return value(d)
	case d.Ref.Type == secrets.Passphrase:
		return "passphrase of " + d.Ref.String()
	}
	return "secret (" + string(d.Ref.Type) + ") of " + d.Ref.String()
}
