package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/luksplug/luksplug/integration/internal/peer"
)

// limit ends a run that hangs.
const limit = 20 * time.Minute

func main() {
	stalls := flag.Bool("stall", false, "measure only how an attach delays a guest")
	volumes := flag.Bool("volumes", false, "measure only the rows about volumes and re-encryptions")
	document := flag.String("document", "", "with -stall: write the table into this document as well, between its marks")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var err error
	switch {
	case *stalls:
		err = runStall(ctx, os.Stdout, *document, stallRuns)
	case *volumes:
		err = runVolumes(ctx, os.Stdout, full)
	default:
		err = run(ctx, os.Stdout, full)
	}
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "bench: error:", err) // exits anyway
		cancel()
		stop()
		os.Exit(1)
	}
}

// size is the number of measurements of each row.
type size struct {
	single  int // pairs of runs of rows about one disk
	many    int // of the row about many disks
	disks   int // in that row
	process int // of rows about whole processes
	unlock  int // of rows about unlocking
	// iterTime is the time in milliseconds for which cryptsetup derives the key of those rows.
	iterTime int
}

// full uses cryptsetup's default for iterTime.
var full = size{single: 100, many: 8, disks: 100, process: 40, unlock: 5, iterTime: 2000}

// run measures everything in a temporary directory and prints the table.
func run(ctx context.Context, out io.Writer, n size) (err error) {
	dir, err := os.MkdirTemp("", "luksplug-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	rows, version, err := measureLibrary(ctx, dir, n)
	for _, measure := range []func(context.Context, string, size) ([]row, error){measureCommand, measureUnlock, measureVolumes, measureReencrypt} {
		if err != nil {
			return err
		}
		var more []row
		more, err = measure(ctx, dir, n)
		rows = append(rows, more...)
	}
	if err != nil {
		return err
	}
	return printTable(out, version, rows)
}

// runVolumes measures the rows about volumes, and prints them.
func runVolumes(ctx context.Context, out io.Writer, n size) (err error) {
	dir, err := os.MkdirTemp("", "luksplug-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	version, err := peer.Output(ctx, "qemu-img", "--version")
	if err != nil {
		return err
	}
	rows, err := measureVolumes(ctx, dir, n)
	if err != nil {
		return err
	}
	more, err := measureReencrypt(ctx, dir, n)
	if err != nil {
		return err
	}
	rows = append(rows, more...)
	first, _, _ := strings.Cut(strings.TrimPrefix(version, "qemu-img version "), " ")
	return printTable(out, first, rows)
}

// row is one line of the table.
type row struct {
	what      string
	reference string // what it is compared with
	pairs     pairs
	wanted    float64 // the ratio that is wanted at most; 0 for none
}

func printTable(out io.Writer, version string, rows []row) error {
	table := [][]string{{"luksplug", "reference", "runs", "reference ms", "luksplug ms", "ratio", "wanted"}}
	for _, r := range rows {
		wanted := ""
		if r.wanted > 0 {
			wanted = fmt.Sprintf("at most %.2f", r.wanted)
		}
		two := func(x float64) string { return fmt.Sprintf("%.2f", x) }
		reference, ours := milliseconds(median(r.pairs.reference)), milliseconds(median(r.pairs.ours))
		table = append(table, []string{r.what, r.reference, fmt.Sprint(len(r.pairs.ours)), two(reference), two(ours), two(ours / reference), wanted})
	}
	_, err := fmt.Fprintf(out, "QEMU %s, %s; medians\n\n%s", version, machine(), align(table))
	return err
}

// align returns a table of Markdown as text with aligned columns.
func align(table [][]string) string {
	var text, trimmed strings.Builder
	w := tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
	for _, line := range table {
		_, _ = fmt.Fprintln(w, strings.ReplaceAll(strings.Join(line, "\t"), "`", "")) // into memory
	}
	_ = w.Flush() // into memory
	for line := range strings.Lines(text.String()) {
		trimmed.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return trimmed.String()
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
