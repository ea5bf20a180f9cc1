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
	// Files are all files that QEMU opens. Those of Grant are given to Owner, whose Path
	// is not used. For the others, the registry notes the use if they were given before.
	Files, Grant []File
	Owner        Owner
	// Remembered are owners from another record: the disk comes from another host, or
	// existed before this one was started. They apply to files that Owner already owns.
	Remembered []Owner
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
		for _, f := range q.Files {
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
	defer h.close()
	name := r.name(h.path)
	e, err := r.find(h)
	if err != nil {
		return err
	}
	if e == nil {
		if !give {
			return nil
		}
		if err := relabelable(&h.stat); err != nil {
			return fmt.Errorf("%s: %w", h.path, err)
		}
		was, err := h.owner(q.Owner.Label != "")
		if err != nil {
			return err
		}
		e = &entry{Was: q.before(was), Inode: h.stat.Ino}
	}
	if give {
		e.Is = Owner{Path: h.path, UID: q.Owner.UID, GID: h.stat.Gid, Label: q.Owner.Label}
	}
	e.Uses = slices.DeleteFunc(e.Uses, func(u Use) bool { return u.VM == q.Use.VM && u.Target == q.Use.Target && !q.Use.foreign(u) })
	e.Uses = append(e.Uses, q.Use)
	if err := r.write(name, e); err != nil || !give {
		return err
	}
	return h.giveTo(e.Is)
}

// Owners returns the owners of the files of Grant before they are given. It includes files
// that an interrupted run has given for the same disk.
func (r Registry) Owners(q Request) ([]Owner, error) {
	var out []Owner
	for _, f := range q.Files {
		h, err := open(f.Path)
		if err != nil {
			continue // QEMU reports it
		}
		now, err := h.owner(q.Owner.Label != "")
		h.close()
		if err != nil {
			return nil, err
		}
		e, err := r.find(h)
		switch {
		case err != nil:
			return nil, err
		case e != nil:
			out = append(out, e.Was)
		case q.grants(f):
			out = append(out, q.before(now))
		}
	}
	return out, nil
}

// before returns the owner of a file before it was given to QEMU's user.
func (q Request) before(now Owner) Owner {
	i := slices.IndexFunc(q.Remembered, func(o Owner) bool { return o.Path == now.Path })
	if i >= 0 && now.UID == q.Owner.UID {
		return q.Remembered[i]
	}
	return now
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

// Restore returns files of the user uid that are not in the registry to their owners.
func (r Registry) Restore(owners []Owner, uid uint32) error {
	return r.locked(func() error {
		var failed []error
		for _, o := range owners {
			if _, err := os.Stat(filepath.Join(r.Dir, r.name(o.Path))); err == nil {
				continue // a disk still uses it
			}
			h, err := open(o.Path)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				failed = append(failed, err)
				continue
			}
			if h.path == o.Path && h.stat.Uid == uid && relabelable(&h.stat) == nil {
				failed = append(failed, h.giveTo(o))
			}
			h.close()
		}
		return errors.Join(failed...)
	})
}

// restore returns the file to its owner if it is still the file that was given.
func (e *entry) restore() (bool, error) {
	h, err := open(e.Is.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer h.close()
	if h.path != e.Is.Path || h.stat.Ino != e.Inode || h.stat.Uid != e.Is.UID {
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
func (r Registry) locked(f func() error) error {
	if err := os.MkdirAll(r.Dir, 0o700); err != nil {
		return fmt.Errorf("directory for the owners of files: %w", err)
	}
	dir, err := os.Open(r.Dir)
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

const unfinished = ".new"

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
	e, err := r.read(r.name(h.path))
	if errors.Is(err, fs.ErrNotExist) || err == nil && e.Inode != h.stat.Ino {
		return nil, nil
	}
	return e, err
}

func (r Registry) read(name string) (*entry, error) {
	text, err := os.ReadFile(filepath.Join(r.Dir, name))
	if err != nil {
		return nil, fmt.Errorf("read the owner of a file: %w", err)
	}
	e := &entry{}
	if err := json.Unmarshal(text, e); err != nil {
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
