package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/printable"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
)

// streams are the program's standard streams.
//
// While a command runs, out and err escape control characters, whatever is printed: the
// names and messages of QEMU, files and servers are not the program's own. raw returns
// the stream below for the rest: JSON and documents, colours and the progress line.
// Foreign text in a line is escaped by [printable.Line] where the line is made, so that
// it cannot begin a line of its own.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// escaped returns the streams for text.
func (s streams) escaped() streams {
	return streams{s.in, printable.Writer{Raw: raw(s.out)}, printable.Writer{Raw: raw(s.err)}}
}

// raw returns the stream below one that escapes control characters.
func raw(w io.Writer) io.Writer {
	if escaped, ok := w.(printable.Writer); ok {
		return escaped.Raw
	}
	return w
}

// app is one run of the program. main sets the streams and uses, the command line the
// flags, and setUp the other fields.
type app struct {
	streams
	flags flags
	uses  func() ([]hotplug.Use, error) // the disks attached on this host, and their secrets

	log       *logrus.Logger
	trace     io.Writer // nil without --trace
	progress  *progress
	inherited map[string]*os.File // by the text that names them, such as fd:3
	exposed   *sync.Map           // the names of files with a passphrase that were warned of
	closers   []func()
	// readSource is readPassphrase until the command is interrupted.
	readSource func(source string) (*secrets.Secret, error)

	unfinished unfinished // in the VM

	// vm is the UUID of the VM once it is open, "" before. Key stores are opened earlier,
	// so that a wrong one is reported first, and read it at each look-up.
	vm string
}

func (a *app) setUp(cmd *cobra.Command) error {
	a.inherit(cmd)
	interrupted, ctx := cmd.Context(), a.limited(cmd)
	a.readSource = func(source string) (*secrets.Secret, error) { return a.readPassphrase(ctx, source) }
	a.progress = newProgress(raw(a.err))
	a.closers = append(a.closers, a.progress.end)
	a.log, a.exposed = logrus.New(), &sync.Map{}
	a.log.SetOutput(raw(a.err)) // its formatters escape
	a.log.AddHook(hintedLog{})
	a.log.SetLevel([]logrus.Level{logrus.WarnLevel, logrus.InfoLevel, logrus.TraceLevel}[min(a.flags.verbose, 2)])
	if a.flags.logFormat == "json" {
		a.log.SetFormatter(&logrus.JSONFormatter{TimestampFormat: time.RFC3339Nano})
	} else {
		a.log.SetFormatter(textLog(colourful(raw(a.err))))
	}
	if a.flags.trace != "" {
		f, err := fsutil.CreatePrivate(a.flags.trace)
		if err != nil {
			return fmt.Errorf("--trace: %w", err)
		}
		a.trace = f
		a.closers = append(a.closers, func() { _ = f.Close() })
	}
	stop := context.AfterFunc(interrupted, func() { a.log.Info("signal received: a second signal ends luksplug at once") })
	a.closers = append(a.closers, func() { stop() })
	return nil
}

// textLog returns the format of log lines for people.
func textLog(colours bool) logrus.Formatter {
	text := &logrus.TextFormatter{DisableColors: !colours, FullTimestamp: true}
	if colours {
		return colouredLog{text}
	}
	return text // which quotes what is not plain
}

// colouredLog escapes messages: in colours, package logrus quotes fields only.
type colouredLog struct{ *logrus.TextFormatter }

// Format implements [logrus.Formatter].
func (f colouredLog) Format(e *logrus.Entry) ([]byte, error) {
	e.Message = printable.Line(oneLine(e.Message)) // the entry is a copy for this call
	return f.TextFormatter.Format(e)
}

// colourful reports whether w is a terminal whose user wants colours.
func colourful(w io.Writer) bool {
	return os.Getenv("NO_COLOR") == "" && isTerminal(w)
}

// isTerminal reports whether a stream is a terminal.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (a *app) close() {
	for _, c := range slices.Backward(a.closers) {
		c()
	}
}

// monitorOptions returns the options of every monitor connection: they log and trace
// its traffic if a flag says so.
func (a *app) monitorOptions() []qmp.Option {
	logged := a.flags.verbose >= 2
	if a.trace == nil && !logged {
		return nil
	}
	return []qmp.Option{qmp.WithTrace(func(e qmp.TraceEntry) {
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
		if logged {
			a.log.WithField("qmp", e.Direction.String()).Trace(string(e.JSON))
		}
	})}
}

// ownLimit is the annotation of a command for which --timeout is not the limit of the
// whole command.
const ownLimit = "own limit"

// limited gives a command the time limit of --timeout, which also bounds its input. It
// returns the command's context.
func (a *app) limited(cmd *cobra.Command) context.Context {
	if _, own := cmd.Annotations[ownLimit]; own || a.flags.timeout == 0 {
		return cmd.Context()
	}
	ctx, cancel := ending.After(cmd.Context(), a.flags.timeout)
	a.closers = append(a.closers, cancel)
	cmd.SetContext(ctx)
	return ctx
}

// limit returns the time limit of a command as a whole.
func (f *flags) limit() time.Duration { return cmp.Or(f.timeout, time.Minute) }

// bounded returns a context with the time limit of a command as a whole.
func (a *app) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return ending.After(ctx, a.flags.limit())
}

// pace is what the duration of a command depends on.
type pace int

const (
	brisk  pace = iota // nothing that the user chooses: it has the default time limit
	bySize             // how large or how many volumes are: it has a time limit only with --timeout
)

// boundedBy returns a context with the time limit of a command of that pace.
func (a *app) boundedBy(ctx context.Context, p pace) (context.Context, context.CancelFunc) {
	if p == bySize && a.flags.timeout == 0 {
		return context.WithCancel(ctx)
	}
	return a.bounded(ctx)
}

// show writes the result of a command to standard output: v as indented JSON with
// --output json, otherwise text.
func (a *app) show(text string, v any) error {
	if a.flags.output != "json" {
		return a.print(text)
	}
	e := json.NewEncoder(raw(a.out))
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// print writes text to standard output.
func (a *app) print(text string) error {
	_, err := io.WriteString(a.out, text)
	return err
}

// note writes a line to standard error. Control characters in what it is made of are
// escaped.
func (a *app) note(format string, args ...any) error {
	_, err := fmt.Fprintf(a.err, "luksplug: %s\n", printable.Line(fmt.Sprintf(format, args...)))
	return err
}
