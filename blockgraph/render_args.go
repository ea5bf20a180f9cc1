package blockgraph

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/internal/shell"
	"github.com/luksplug/luksplug/secrets"
)

// Arguments returns the graph as arguments for a QEMU that is about to start:
// -object, -blockdev and -device with JSON values, not quoted. No secret value
// goes on a command line: each secret object reads the file that secretFile
// returns for it, whose bytes are the passphrase, exactly.
//
// An ephemeral header has to be a file, which must be there when QEMU starts. A
// graph whose headers are passed as descriptors, or that a storage daemon unlocks,
// has no arguments, nor has that of a transient disk, and neither has one with limits, unless the caller sets them
// later and clears [Graph.Throttling]: the error is an [*UnsupportedError].
func (p *Plan) Arguments(secretFile func(GraphObject) (string, error)) ([]string, error) {
	return p.arguments(func(o GraphObject) (Object, error) {
		path, err := secretFile(o)
		return o.Options.Without("data").Without("format").With("file", path), err
	})
}

// SealedSecret is a secret that is encrypted under the value of another secret
// object, a VM's master key, as QEMU decrypts it: AES-256-CBC with the padding of
// PKCS #7.
type SealedSecret struct {
	KeyID string // the id of the object that has the key
	Data  string // the ciphertext, in base64
	IV    string // the initialisation vector, in base64
}

// SealedArguments is Arguments with the secrets in the arguments: each object has
// the ciphertext that seal returns for it. QEMU needs the object with the key
// besides, before these.
func (p *Plan) SealedArguments(seal func(GraphObject) (SealedSecret, error)) ([]string, error) {
	return p.arguments(func(o GraphObject) (Object, error) {
		s, err := seal(o)
		return o.Options.With("data", s.Data).With("keyid", s.KeyID).With("iv", s.IV), err
	})
}

// arguments returns the arguments, where secret makes the options of each secret
// object.
func (p *Plan) arguments(secret func(GraphObject) (Object, error)) ([]string, error) {
	if p.Graph.Overlay != nil {
		return nil, &UnsupportedError{Element: "disk/transient", Reason: "the overlay of a transient disk is made as the disk is attached, and cannot be given as an argument: attach the disk to the running VM"}
	}
	passed := slices.ContainsFunc(p.Graph.Headers, func(h EphemeralHeader) bool { return h.File == "" })
	if p.Graph.Daemon != nil || passed {
		return nil, &UnsupportedError{Element: "disk/source/encryption", Reason: "a disk that is unlocked outside of QEMU cannot be given as arguments"}
	}
	if p.Graph.Throttling != nil {
		return nil, &UnsupportedError{Element: "disk/iotune", Reason: "limits are set in a running QEMU only (block_set_io_throttle), and these would be lost: use <throttlefilters>"}
	}
	var out []string
	add := func(option string, o Object) error {
		text, err := o.MarshalJSON()
		out = append(out, option, string(text))
		return err
	}
	for _, o := range p.Graph.Objects {
		options := o.Options
		if _, ok := o.Secret(); ok {
			var err error
			if options, err = secret(o); err != nil {
				return nil, err
			}
		}
		if err := add("-object", options); err != nil {
			return nil, err
		}
	}
	for _, n := range p.Graph.Nodes {
		options := n.Options
		if f := p.Graph.file(n.Name); f != nil {
			options = options.With("path", f.Path) // there is nobody who could pass a descriptor
		}
		if err := add("-blockdev", options); err != nil {
			return nil, err
		}
	}
	for _, c := range p.Graph.Chardevs {
		out = append(out, "-chardev", c.text())
	}
	for _, d := range p.Graph.Devices {
		if err := add("-device", d.Options); err != nil {
			return nil, err
		}
	}
	for _, g := range p.Graph.Globals {
		out = append(out, "-global", g)
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
		b.WriteString(shell.Word(a))
	}
	b.WriteByte('\n')
	return b.String()
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
		if data, ok := o.Get("data").(SecretData); ok {
			return data.about() + ", data " + Redacted
		}
		return strings.TrimSpace(o.Text("qom-type") + " " + printable(orDefault(o.Text("path"), o.Text("dir"))))
	case StepNode:
		words := []string{o.Text("driver")}
		for _, name := range []string{"filename", "url", "portal", "pool", "image", "volume", "dir", "path", "device", "header", "file", "data-file", "backing", "key-secret", "password-secret", "cookie-secret", "tls-creds", "export"} {
			if v := o.Text(name); v != "" {
				words = append(words, name+"="+printable(v))
			}
		}
		if e, ok := o.Get("encrypt").(Object); ok {
			words = append(words, "key-secret="+e.Text("key-secret"))
		}
		if server, ok := o.Get("server").(Object); ok {
			words = append(words, "server="+printable(orDefault(server.Text("path"), server.Text("host")+":"+server.Text("port"))))
		}
		if ro, ok := o.Get("read-only").(bool); ok && ro {
			words = append(words, "read-only")
		}
		if s.Overlay != nil {
			words = append(words, "(made for the disk, without a name once it is open)")
		}
		return strings.Join(words, " ")
	case StepFDSet:
		if s.File != nil {
			return "descriptor of " + printable(s.File.Path)
		}
		return "ephemeral header, made from the one in " + printable(s.Header.Original.Source.String())
	case StepChardev:
		return "socket " + printable(s.chardevPath())
	case StepLimit:
		var words []string
		for _, m := range o {
			if n, ok := m.Value.(uint64); ok && n > 0 {
				words = append(words, m.Name+"="+strconv.FormatUint(n, 10))
			}
		}
		return strings.Join(words, " ")
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

// chardevPath finds the socket in the arguments of chardev-add.
func (s Step) chardevPath() string {
	o := s.Do.Arguments
	for _, name := range []string{"backend", "data", "addr", "data"} {
		o, _ = o.Get(name).(Object)
	}
	return o.Text("path")
}

// about says in a few words which secret it is.
func (d SecretData) about() string {
	switch {
	case d.OneTime:
		return "one-time passphrase"
	case d.Text != "":
		return "cookies of the XML"
	case d.Ref.Type == secrets.Passphrase:
		return "passphrase of " + d.Ref.String()
	}
	return "secret (" + string(d.Ref.Type) + ") of " + d.Ref.String()
}
