package access

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/qapi"
)

// DefaultDir is root's registry. It is on a disk, as the owners of files are.
const DefaultDir = "/var/lib/luksplug/owners"

// Registry gives files to QEMU's user for as long as disks use them. It is a directory with
// a file for each file that was given. Several processes may use it at a time.
type Registry struct {
	Dir string
}

// Use is a disk that uses a file.
type Use struct {
	VM     string `json:"vm"` // usually its UUID
	Target string `json:"target"`
	// Process is the VM's, without a PID if it is unknown.
	Process hostproc.Process `json:"process"`
	Boot    string           `json:"boot"` // hostproc.BootID
}

// foreign reports whether another use is that of another live process.
func (u Use) foreign(other Use) bool {
	return other.Process.PID != 0 && other.Process != u.Process && other.alive()
}

// Uses returns the uses of a VM, without those of entries that cannot be read.
func (r Registry) Uses(vm string) ([]Use, error) {
	if _, err := os.Stat(r.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	names, err := r.names()
	if err != nil {
		return nil, err
	}
	var out []Use
	for _, name := range names {
		e, err := r.read(name)
		if err != nil {
			continue // for example, the file was returned meanwhile
		}
		for _, u := range e.Uses {
			if u.VM == vm {
				out = append(out, u)
			}
		}
	}
	return out, nil
}

// entry is one file.
type entry struct {
	Was   Owner  `json:"was"` // before the grant
	Is    Owner  `json:"is"`  // after it
	Inode uint64 `json:"inode"`
	Uses  []Use  `json:"uses"`
}

// Request is what a disk needs.
type Request struct {
	Use Use
	// Files are all files that QEMU opens; those that only images name are ignored. Those of Grant are given to Owner, whose Path
	// is not used. For the others, the registry notes the use if they were given before.
	Files, Grant []File
	Owner        Owner
}

// Grant gives files to QEMU's user. It may be repeated. After an error, [Registry.Revoke]
// undoes what was done.
func (r Registry) Grant(q Request) error {
	if len(q.Grant) == 0 {
		if _, err := os.Stat(r.Dir); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	return r.locked(func() error {
		for _, f := range Named(q.Files) {
			if err := r.grant(q, f); err != nil {
				return err
			}
		}
		return nil
	})
}

// grants reports whether the file is to be given to the user.
func (q Request) grants(f File) bool {
	return slices.ContainsFunc(q.Grant, func(g File) bool { return g.Path == f.Path })
}

func (r Registry) grant(q Request, f File) error {
	give := q.grants(f)
	h, err := open(f.Path)
	if err != nil && !give {
		return nil // QEMU reports it
	}
	if err != nil {
		return err
	}
	defer h.Close()
	if give {
		if err := h.relabelable(); err != nil {
			return err
		}
	}
	name := r.name(h.Path)
	e, err := r.find(h)
	if err != nil {
		return err
	}
	if e == nil {
		if !give {
			return nil
		}
		was, err := h.owner(q.Owner.Label != "")
		if err != nil {
			return err
		}
		e = &entry{Was: was, Inode: h.Stat.Ino}
	}
	if give {
		e.Is = Owner{Path: h.Path, UID: q.Owner.UID, GID: h.Stat.Gid, Label: q.Owner.Label}
	}
	e.Uses = slices.DeleteFunc(e.Uses, func(u Use) bool { return u.VM == q.Use.VM && u.Target == q.Use.Target && !q.Use.foreign(u) })
	e.Uses = append(e.Uses, q.Use)
	if err := r.write(name, e); err != nil || !give {
		return err
	}
	return h.giveTo(e.Is)
}

// Revocation selects the uses that have ended.
type Revocation struct {
	// Ended reports whether a use has ended. Uses of processes that have ended always have.
	Ended func(Use) bool
	// Stay leaves the files of ended uses with QEMU's user: another host still uses them.
	Stay bool
}

// Returned is a file that was returned to its owner.
type Returned struct {
	Path string
	Use  Use // the last one
}

// Revoke returns files that no disk uses any more to their owners. A file that has been
// replaced, or whose owner has been changed by another program, stays as it is. An error
// for one file does not keep Revoke from the others.
func (r Registry) Revoke(v Revocation) ([]Returned, error) {
	if _, err := os.Stat(r.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var back []Returned
	err := r.locked(func() error {
		names, err := r.names()
		failed := []error{err}
		for _, name := range names {
			returned, err := r.revoke(name, v)
			if returned != nil {
				back = append(back, *returned)
			}
			failed = append(failed, err)
		}
		return errors.Join(failed...)
	})
	return back, err
}

func (r Registry) revoke(name string, v Revocation) (*Returned, error) {
	e, err := r.read(name)
	if err != nil {
		return nil, err
	}
	var left []Use
	stay := false
	for _, u := range e.Uses {
		switch {
		case v.Ended(u):
			stay = stay || v.Stay
		case u.alive():
			left = append(left, u)
		}
	}
	if len(left) > 0 {
		if len(left) == len(e.Uses) {
			return nil, nil
		}
		e.Uses = left
		return nil, r.write(name, e)
	}
	var returned *Returned
	if !stay {
		changed, err := e.restore()
		if err != nil {
			return nil, err
		}
		if changed {
			returned = &Returned{Path: e.Is.Path}
			if n := len(e.Uses); n > 0 {
				returned.Use = e.Uses[n-1]
			}
		}
	}
	// Last, so that the next run repeats what a killed one has begun.
	return returned, os.Remove(filepath.Join(r.Dir, name))
}

// restore returns the file to its owner if it is still the file that was given.
func (e *entry) restore() (bool, error) {
	h, err := open(e.Is.Path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fsutil.ErrUnsafeLink) {
		return false, nil // there is another file, or none
	}
	if err != nil {
		return false, err
	}
	defer h.Close()
	if h.Path != e.Is.Path || h.Stat.Ino != e.Inode || h.Stat.Uid != e.Is.UID {
		return false, nil
	}
	return true, h.giveTo(e.Was)
}

// alive reports whether the VM of a use is alive. If its process is unknown, it is assumed
// to be until the host is started again.
func (u Use) alive() bool {
	return u.Boot == hostproc.BootID() && (u.Process.PID == 0 || u.Process.Alive())
}

// locked creates the registry if it is missing, and calls f while no other process uses it.
// It refuses a directory that another user can change, who could name owners in it.
func (r Registry) locked(f func() error) error {
	if err := fsutil.MakeDir(r.Dir, 0o700); err != nil {
		return fmt.Errorf("directory for the owners of files: %w", err)
	}
	dir, err := fsutil.OpenDir(r.Dir)
	if err != nil {
		return fmt.Errorf("the owners of files: %w", err)
	}
	defer func() { _ = dir.Close() }() // and unlock
	if err := fsutil.Lock(context.Background(), dir); err != nil {
		return fmt.Errorf("lock the owners of files: %w", err)
	}
	return f()
}

func (r Registry) name(path string) string {
	sum := sha256.Sum256([]byte(path))
	return hex.EncodeToString(sum[:16])
}

const (
	unfinished = ".new"
	maxEntry   = 1 << 20 // bytes
)

func (r Registry) names() ([]string, error) {
	entries, err := os.ReadDir(r.Dir)
	if err != nil {
		return nil, fmt.Errorf("the owners of files: %w", err)
	}
	var out []string
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), unfinished) {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// find returns the entry of a file, nil if there is none.
func (r Registry) find(h *handle) (*entry, error) {
	e, err := r.read(r.name(h.Path))
	if errors.Is(err, fs.ErrNotExist) || err == nil && e.Inode != h.Stat.Ino {
		return nil, nil
	}
	return e, err
}

func (r Registry) read(name string) (*entry, error) {
	text, err := fsutil.ReadFile(nil, filepath.Join(r.Dir, name), maxEntry)
	if err != nil {
		return nil, fmt.Errorf("read the owner of a file: %w", err)
	}
	e := &entry{}
	if err := qapi.Unmarshal(text, e); err != nil {
		return nil, fmt.Errorf("read the owner of a file: %s: %w", filepath.Join(r.Dir, name), err)
	}
	return e, nil
}

// write writes an entry durably.
func (r Registry) write(name string, e *entry) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	o := fsutil.Options{Mode: 0o600, Durable: true, Temporary: filepath.Join(r.Dir, name+unfinished)}
	if err := fsutil.Replace(nil, filepath.Join(r.Dir, name), append(text, '\n'), o); err != nil {
		return fmt.Errorf("write down the owner of a file: %w", err)
	}
	return nil
}
