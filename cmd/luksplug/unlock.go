package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/secrets/luks"
)

// unlockFlag is the value of --unlock.
type unlockFlag hotplug.UnlockPolicy

func (f *unlockFlag) register(cmd *cobra.Command) {
	cmd.Flags().Var(f, "unlock", "who unlocks the volume: auto (luksplug itself where it can), qemu, or external (a qemu-storage-daemon)")
	complete(cmd, "unlock", f.values()...)
}

func (*unlockFlag) values() []string {
	return []string{string(hotplug.UnlockAuto), string(hotplug.UnlockQEMU), string(hotplug.UnlockExternal)}
}

// Set implements pflag.Value.
func (f *unlockFlag) Set(value string) error {
	if !slices.Contains(f.values(), value) {
		return fmt.Errorf("use %s", strings.Join(f.values(), ", "))
	}
	*f = unlockFlag(value)
	return nil
}

// String implements pflag.Value.
func (f *unlockFlag) String() string { return string(*f) }

// Type implements pflag.Value.
func (*unlockFlag) Type() string { return "WAY" }

// unlockedBy says in human-readable form who has opened the volume of a disk.
func unlockedBy(h *hotplug.AttachedDisk) string {
	switch h.Unlock {
	case blockgraph.MethodEphemeralHeader:
		return "by luksplug"
	case blockgraph.MethodStorageDaemon:
		if h.Daemon == 0 {
			return "by qemu-storage-daemon (which has ended)"
		}
		return "by qemu-storage-daemon (process " + strconv.Itoa(h.Daemon) + ")"
	case blockgraph.MethodQEMU:
		return "by QEMU"
	}
	return ""
}

// progress shows on a terminal how far the unlocking of a header is. It is quiet
// while the wait is too short to wonder.
type progress struct {
	w     io.Writer // nil: nobody watches
	begin time.Time

	mu    sync.Mutex
	shown bool
	ended bool
}

// newProgress returns a progress line on w, if that is a terminal.
func newProgress(w io.Writer) *progress {
	p := &progress{begin: time.Now()}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.w = f
	}
	return p
}

// patience is how long a user waits without wondering.
const patience = 300 * time.Millisecond

func (p *progress) update(u luks.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.w == nil || p.ended || u.Total == 0 || time.Since(p.begin) < patience {
		return
	}
	p.shown = true
	_, _ = fmt.Fprintf(p.w, "\rluksplug: trying the passphrase, %d %% ", 100*u.Done/u.Total)
}

// end removes the line.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown && !p.ended {
		_, _ = io.WriteString(p.w, "\r\x1b[K")
	}
	p.ended = true
}
