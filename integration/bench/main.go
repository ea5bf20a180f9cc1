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
)

// limit ends a run that hangs.
const limit = 20 * time.Minute

func main() {
	stalls := flag.Bool("stall", false, "measure what a guest notices of an attach, and nothing else")
	document := flag.String("document", "", "with -stall: write the table into this document as well, between its marks")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var err error
	if *stalls {
		err = runStall(ctx, os.Stdout, *document, stallRuns)
	} else {
		err = run(ctx, os.Stdout, full)
	}
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "bench: error:", err) // the last words
		cancel()
		stop()
		os.Exit(1)
	}
}

// size is how often each row is measured.
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
	for _, measure := range []func(context.Context, string, size) ([]row, error){measureCommand, measureUnlock} {
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

// row is one line of the table.
type row struct {
	what      string
	reference string // what it is compared with
	pairs     pairs
	wanted    float64 // the ratio that is wanted at most; 0 for none
}

func printTable(out io.Writer, version string, rows []row) error {
	var text strings.Builder
	fmt.Fprintf(&text, "QEMU %s, %s; medians\n\n", version, machine())
	w := tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "luksplug\tbeside\truns\tbeside ms\tluksplug ms\tratio\twanted") // into memory
	for _, r := range rows {
		wanted := ""
		if r.wanted > 0 {
			wanted = fmt.Sprintf("at most %.2f", r.wanted)
		}
		reference, ours := median(r.pairs.reference), median(r.pairs.ours)
		_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%.2f\t%.2f\t%.2f\t%s\n", r.what, r.reference, len(r.pairs.ours), // into memory
			milliseconds(reference), milliseconds(ours), float64(ours)/float64(reference), wanted)
	}
	_ = w.Flush() // into memory
	for line := range strings.Lines(text.String()) {
		if _, err := fmt.Fprintln(out, strings.TrimRight(line, " \n")); err != nil {
			return err
		}
	}
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
