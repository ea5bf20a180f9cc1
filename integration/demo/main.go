// Command demo shows what luksplug does, with nothing simulated: a volume with its LUKS header in a separate
// file, a Linux guest in QEMU, and the real luksplug program, which attaches the volume and detaches it
// again. `make demo` runs it.
//
// With -keep the VM runs on after the last check, for commands of the user's, until ^C.
//
// It verifies each statement; a failed check ends it with a line on standard error and exit status 1. It does
// not need root, leaves only the guest's kernel in the cache, and stops QEMU also when it is interrupted.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"
)

// options are what the user chooses.
type options struct {
	colour bool
	keep   bool      // the VM runs on until ctx ends
	input  io.Reader // commands for the guest of a VM that is kept, one a line
}

// exitInterrupted is what shells report for a program that ^C has ended.
const exitInterrupted = 130

func main() {
	keep := flag.Bool("keep", false, "let the VM run until ^C")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second ^C ends the program at once; the kernel then ends QEMU
	os.Exit(show(ctx, os.Stdout, os.Stderr, options{colour: coloured(os.Stdout), keep: *keep, input: os.Stdin}))
}

// show runs the demo and returns the exit status.
func show(ctx context.Context, stdout, stderr io.Writer, o options) int {
	err := runDemo(ctx, &printer{w: stdout, colour: o.colour}, o)
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		_, _ = fmt.Fprintln(stderr, "demo: interrupted; QEMU was stopped and the demo's directory removed") // exits anyway
		return exitInterrupted
	}
	_, _ = fmt.Fprintf(stderr, "demo: failed: %v\n", err) // exits anyway
	return 1
}

// coloured reports whether f is a terminal and the environment does not disable colours.
func coloured(f *os.File) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}
