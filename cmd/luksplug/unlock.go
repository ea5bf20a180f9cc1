package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/daemon"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/secrets/luks"
)

// unlockFlag is the value of --unlock.
type unlockFlag hotplug.UnlockMode

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

// unlockedBy says for people who has opened the volume of a disk.
func unlockedBy(h *hotplug.Holding) string {
	switch h.Unlock {
	case blockgraph.ByHeader:
		return "by luksplug"
	case blockgraph.ByDaemon:
		if h.Daemon == 0 {
			return "by qemu-storage-daemon (which has ended)"
		}
		return "by qemu-storage-daemon (process " + strconv.Itoa(h.Daemon) + ")"
	case blockgraph.ByQEMU:
		return "by QEMU"
	}
	return ""
}

// progress shows on a terminal how far the unlocking of a header is. It is quiet
// for as long as nobody would wonder.
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

// patience is how long nobody wonders.
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

// watchCommand is the hidden command that ends a storage daemon with its VM.
const watchCommand = "watch-daemon"

// watch starts a process of its own that ends the storage daemon of a disk when
// the VM ends.
func (a *app) watch(_ context.Context, d hotplug.Daemon) error {
	if d.VM == 0 {
		a.log.Warnf("the storage daemon (process %d) will not end with the VM, whose process is not known: detach ends it", d.Process.PID)
		return nil
	}
	vm, err := hostproc.ProcessOf(d.VM)
	if err != nil {
		return fmt.Errorf("watch the storage daemon: %w", err)
	}
	cmd := exec.Command("/proc/self/exe", watchCommand, d.Dir, strconv.Itoa(vm.PID), strconv.FormatUint(vm.Start, 10))
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("watch the storage daemon: %w", err)
	}
	return cmd.Process.Release()
}

func newWatchDaemon(*app) *cobra.Command {
	return &cobra.Command{
		Use:     watchCommand + " FOLDER PID START",
		Short:   "End a storage daemon when the VM's process ends",
		Long:    "watch-daemon is started by attach --unlock external, and not by people.",
		Example: "  luksplug watch-daemon /run/luksplug/vm/UUID/vdb 4711 123456",
		Hidden:  true,
		Args:    cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			pid, err1 := strconv.Atoi(args[1])
			start, err2 := strconv.ParseUint(args[2], 10, 64)
			if err1 != nil || err2 != nil || pid <= 0 {
				return &usageError{errors.New("a process is named by its id and its start time")}
			}
			return daemon.Watch(cmd.Context(), args[0], hostproc.Process{PID: pid, Start: start})
		},
	}
}
