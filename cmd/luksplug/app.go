package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/qmp"
)

// flags are the flags that all commands share.
type flags struct {
	connect    string
	domain     string
	qmp        string
	output     string
	timeout    time.Duration
	verbose    int
	logFormat  string
	trace      string
	config     string
	keystores  []string
	passphrase string
}

func (f *flags) register(root *cobra.Command) {
	p := root.PersistentFlags()
	p.StringVar(&f.qmp, "qmp", "", "the VM: a QEMU monitor, as the path of a unix socket or HOST:PORT")
	p.StringVar(&f.domain, "domain", "", "the VM: a libvirt domain, by name, UUID or id")
	p.StringVar(&f.connect, "connect", "", "the libvirt that has the domain (default that of the configuration, else "+defaultConnect+")")
	p.StringVar(&f.output, "output", "text", "text, json; for plan also dot, mermaid, svg")
	p.DurationVar(&f.timeout, "timeout", 0, "bound of the whole command (default 1m); for detach the wait for the guest (default 30s)")
	p.CountVarP(&f.verbose, "verbose", "v", "show the steps with their times; -vv also logs the monitor's traffic, secrets redacted")
	p.StringVar(&f.logFormat, "log-format", "text", "text or json, for the log on standard error")
	p.StringVar(&f.trace, "trace", "", "write the monitor's traffic to this file, secrets redacted")
	p.StringVar(&f.config, "config", "", "the configuration, which names the key stores (default $"+configVariable+", else "+configPath+")")
	p.StringArrayVar(&f.keystores, "keystore", nil, "a key store, as a URI like dir:PATH, instead of those of the configuration; may be repeated, and is asked in order")
	p.StringVar(&f.passphrase, "passphrase-file", "", "the disk's passphrase: a file, - for standard input, or fd:N; its bytes are taken exactly")
	complete(root, "output", "text", "json", "dot", "mermaid", "svg")
	complete(root, "log-format", "text", "json")
}

func complete(cmd *cobra.Command, flag string, values ...string) {
	// It fails only for a flag that does not exist.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// outputs names the output formats of a command that has more than text and
// json.
const outputs = "outputs"

func (f *flags) check(cmd *cobra.Command) error {
	formats := []string{"text", "json"}
	if more := cmd.Annotations[outputs]; more != "" {
		formats = append(formats, strings.Fields(more)...)
	}
	switch {
	case !slices.Contains(formats, f.output):
		return fmt.Errorf("unknown --output %q: %s knows %s", f.output, cmd.Name(), strings.Join(formats, ", "))
	case f.logFormat != "text" && f.logFormat != "json":
		return fmt.Errorf("unknown --log-format %q: use text or json", f.logFormat)
	case f.qmp != "" && f.domain != "":
		return errors.New("give --qmp or --domain, not both: each names a VM")
	case f.timeout < 0:
		return fmt.Errorf("--timeout %s is negative", f.timeout)
	}
	return nil
}

// app is one run of the program.
type app struct {
	streams
	flags    flags
	log      *logrus.Logger
	trace    io.WriteCloser
	started  bool // a command has begun, so that its errors are not the usage's
	newline  bool // the passphrase ends in a newline
	progress *progress
	closers  []func()

	inherited map[string]*os.File // the descriptors that the command line names as fd:N
	uses      func() ([]hotplug.Use, error)
	vm        string    // the UUID of the VM that the command is about, "" while it is not known
	programs  io.Writer // where programs of key stores write their messages; nil for standard error
}

func (a *app) setUp(cmd *cobra.Command) error {
	a.inherit(cmd)
	keepDescriptors()
	a.progress = newProgress(a.err)
	a.closers = append(a.closers, a.progress.end)
	a.log = logrus.New()
	a.log.SetOutput(a.err)
	a.log.AddHook(hintedLog{})
	a.log.SetLevel([]logrus.Level{logrus.WarnLevel, logrus.InfoLevel, logrus.TraceLevel}[min(a.flags.verbose, 2)])
	if a.flags.logFormat == "json" {
		a.log.SetFormatter(&logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano})
	} else {
		a.log.SetFormatter(&logrus.TextFormatter{DisableColors: !colourful(a.err), FullTimestamp: true})
	}
	if a.flags.trace != "" {
		f, err := os.OpenFile(a.flags.trace, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return fmt.Errorf("--trace: %w", err)
		}
		a.trace = f
		a.closers = append(a.closers, func() { _ = f.Close() })
	}
	// To take back what was begun may last as long as a command of QEMU's does.
	unheard := context.AfterFunc(cmd.Context(), func() {
		a.log.Info("told to end: what was begun is taken back first, and a second signal ends luksplug at once")
	})
	a.closers = append(a.closers, func() { unheard() })
	return nil
}

// colourful reports whether w is a terminal whose user wants colours.
func colourful(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && term.IsTerminal(int(f.Fd()))
}

func (a *app) close() {
	for _, c := range slices.Backward(a.closers) {
		c()
	}
}

// traced returns the function that takes the monitor's traffic, nil when nobody
// asked for it.
func (a *app) traced() qmp.TraceFunc {
	if a.trace == nil && a.flags.verbose < 2 {
		return nil
	}
	return func(e qmp.TraceEntry) {
		if a.trace != nil {
			line, err := json.Marshal(struct {
				Time      time.Time       `json:"time"`
				Direction string          `json:"direction"`
				Message   json.RawMessage `json:"message"`
			}{e.Time, e.Direction.String(), e.JSON})
			if err == nil {
				_, err = a.trace.Write(append(line, '\n'))
			}
			if err != nil {
				a.log.Warnf("the trace is incomplete: %v", err)
			}
		}
		if a.flags.verbose >= 2 {
			a.log.WithField("qmp", e.Direction.String()).Trace(string(e.JSON))
		}
	}
}

// bounded returns the context of a command that --timeout bounds as a whole.
func (a *app) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	const enough = time.Minute
	return context.WithTimeout(ctx, orDuration(a.flags.timeout, enough))
}

func orDuration(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// maxInput is more than any document that is read here may have.
const maxInput = 32 << 20

func (a *app) readInput(path string) ([]byte, error) {
	in := a.in
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }() // only read
		in = f
	}
	return readAll(in, path)
}

// readAll reads a document; path says in errors which.
func readAll(in io.Reader, path string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(in, maxInput+1))
	if len(data) > maxInput {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxInput)
	}
	return data, err
}

// printJSON writes v as indented JSON to standard output.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// print writes text to standard output.
func (a *app) print(text string) error {
	_, err := io.WriteString(a.out, text)
	return err
}
