package rundir

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/internal/hostproc"
)

// copyPrefix begins the identity of a copy, in the place of a VM's. No VM has one that begins so: see host.Identify.
const copyPrefix = "copy-"

// Copy returns a new directory for a copy of a volume that no VM has, which this process makes. It has the process in its name, so
// that [Base.RemoveCopies] finds it after the process was killed.
func (b Base) Copy(process hostproc.Process) VM {
	const random = 8
	return VM{Base: b, ID: fmt.Sprintf("%s%d-%d-%s", copyPrefix, process.PID, process.Start, rand.Text()[:random]), Process: process}
}

// RemoveCopies removes the directories of copies whose processes have ended, with their storage daemons, as [VM.Gone] does.
// Failures are joined in the error and do not stop the removal.
func (b Base) RemoveCopies(ctx context.Context) error {
	entries, err := os.ReadDir(string(b))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find interrupted copies: %w", err)
	}
	var failed []error
	for _, e := range entries {
		if p, ok := copyProcess(e.Name()); ok && e.IsDir() && !p.Alive() {
			failed = append(failed, VM{Base: b, ID: e.Name()}.Gone(ctx))
		}
	}
	return errors.Join(failed...)
}

// copyProcess returns the process that makes the copy of that identity.
func copyProcess(id string) (p hostproc.Process, ok bool) {
	text, ok := strings.CutPrefix(id, copyPrefix)
	parts := strings.Split(text, "-")
	if !ok || len(parts) != 3 {
		return p, false
	}
	pid, err1 := strconv.Atoi(parts[0])
	start, err2 := strconv.ParseUint(parts[1], 10, 64)
	return hostproc.Process{PID: pid, Start: start}, err1 == nil && err2 == nil && pid > 0 && start > 0
}
