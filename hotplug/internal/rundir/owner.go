package rundir

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/hotplug/internal/daemon"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/internal/hostproc"
)

// Foreign reports whether p is a live process other than the VM's. What names it belongs
// to another VM, whatever the directory's name is.
func (v VM) Foreign(p hostproc.Process) bool { return p.PID != 0 && p != v.Process && p.Alive() }

// foreign returns the live process of another VM that the note, the storage daemon or the
// helper of the disk names; the zero value if there is none.
func (d Disk) foreign() hostproc.Process {
	if n, noted := d.VM.note(d.Target); noted && d.VM.Foreign(n.Process) {
		return n.Process
	}
	for _, dir := range []string{d.HandOver(), d.Reader().Daemon()} {
		if info, err := daemon.Inspect(dir); err == nil && d.VM.Foreign(info.Owner) {
			return info.Owner
		}
	}
	return hostproc.Process{}
}

// own refuses a disk of another VM, with [outcome.ErrIdentity].
func (d Disk) own() error {
	p := d.foreign()
	if p.PID == 0 {
		return nil
	}
	return outcome.NotThatVM("the disk %s in %s belongs to another VM, process %d: use the monitor of that VM", d.Target, d.VM.Path(), p.PID)
}

// Own refuses the directory if it has a disk of another VM, with [outcome.ErrIdentity]. It
// changes nothing.
func (v VM) Own() error {
	entries, err := os.ReadDir(v.Path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the files handed to the VM: %w", err)
	}
	targets := map[string]bool{}
	for _, e := range entries {
		target := strings.TrimSuffix(strings.TrimSuffix(e.Name(), noteSuffix), readerSuffix)
		targets[target] = e.IsDir() || strings.HasSuffix(e.Name(), noteSuffix) || targets[target]
	}
	for _, target := range slices.Sorted(maps.Keys(targets)) {
		if !targets[target] {
			continue
		}
		if err := v.Disk(target).own(); err != nil {
			return err
		}
	}
	return nil
}
