// Command demo shows what luksplug does, with nothing simulated: a volume with its LUKS header in a separate
// file, a Linux guest in QEMU, and the real luksplug program, which attaches the volume and detaches it
// again. `make demo` runs it.
//
// It verifies each statement; a failed check ends it with a line on standard error and exit status 1. It does
// not need root, leaves only the guest's kernel in the cache, and stops QEMU also when it is interrupted.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/term"
)

// limit ends a demo that hangs. The longest part is the download of a kernel.
const limit = 10 * time.Minute

// exitInterrupted is what shells report for a program that ^C has ended.
const exitInterrupted = 130

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second ^C ends the program at once; the kernel then ends QEMU
	os.Exit(show(ctx, os.Stdout, os.Stderr, coloured(os.Stdout)))
}

// show runs the demo and returns the exit status.
func show(ctx context.Context, stdout, stderr io.Writer, colour bool) int {
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := runDemo(bounded, &printer{w: stdout, colour: colour})
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		_, _ = fmt.Fprintln(stderr, "demo: interrupted; QEMU was stopped and the demo's directory removed") // exits anyway
		return exitInterrupted
	case errors.Is(bounded.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("not finished after %s: %w", limit, err)
	}
	_, _ = fmt.Fprintf(stderr, "demo: failed: %v\n", err) // exits anyway
	return 1
}

// coloured reports whether f is a terminal and the environment does not disable colours.
func coloured(f *os.File) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}
