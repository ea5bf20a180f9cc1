package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/internal/printable"
	"github.com/luksplug/luksplug/internal/shell"
)

// unfinished is what a command would leave in a VM if the program ended now. It is safe
// for concurrent use. The zero value is nothing.
type unfinished struct {
	mu     sync.Mutex
	left   []string
	repair string // the command that removes it
}

// set replaces what would be left; it is nothing without names.
func (u *unfinished) set(left []string, repair string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.left, u.repair = left, repair
}

// firstSignal says that what was begun is undone, "" if there is nothing to undo.
func (u *unfinished) firstSignal() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.left) == 0 {
		return ""
	}
	return "luksplug: signal received: undoing what was begun, once QEMU answers; a second signal ends luksplug at once and leaves it in the VM\n"
}

// secondSignal names what is left, "" for nothing.
func (u *unfinished) secondSignal() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.left) == 0 {
		return ""
	}
	return fmt.Sprintf("luksplug: ended at once, and may have left %s: run '%s' when the VM answers\n", printable.Line(strings.Join(u.left, ", ")), printable.Line(u.repair))
}

// untilSignal returns a context that the first signal cancels: the command is then undone
// as far as it is not complete. A second signal ends the program at once, as users expect.
func untilSignal(ctx context.Context, u *unfinished, out io.Writer) context.Context {
	ctx, interrupt := ending.WithInterrupt(ctx)
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP}
	received := make(chan os.Signal, len(signals))
	signal.Notify(received, signals...)
	go func() {
		<-received
		interrupt() // first: the message may have to wait for its reader
		_, _ = io.WriteString(out, u.firstSignal())
		second := <-received
		signal.Reset(signals...) // so that a third signal also ends a program that cannot write
		_, _ = io.WriteString(out, u.secondSignal())
		if s, ok := second.(syscall.Signal); ok {
			_ = syscall.Kill(os.Getpid(), s)
		}
	}()
	return ctx
}

// repairCommand returns the command line of repair for a VM.
func (v vmAddress) repairCommand(a *app) string { return v.command(a, "repair") }

// command returns the command line of luksplug for a VM with these words. A URI of libvirt is in it only if a flag or the environment
// has given it.
func (v vmAddress) command(a *app, words ...string) string {
	line := []string{"luksplug"}
	connect := v.uri.text
	if a.flags.connect == "" {
		connect = ""
	}
	for _, flag := range []struct{ name, value string }{{"--qmp", v.qmp}, {"--connect", connect}, {"--domain", cmp.Or(v.name, v.domain)}} {
		if flag.value != "" {
			line = append(line, flag.name, shell.Word(flag.value))
		}
	}
	return strings.Join(append(line, words...), " ")
}
