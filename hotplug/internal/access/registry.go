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

// DefaultDir is where root's registry is: on a disk, since a file's owner is, too.
const DefaultDir = "/var/lib/luksplug/owners"

// Registry gives files to QEMU's user for as long as disks are made of them. It is a
// folder with a file for each file that was given away; several processes may work
// with it at a time.
type Registry struct {
	Dir string
}

// Use is a disk that a file is needed for.
type Use struct {
	VM     string `json:"vm"` // its UUID, as a rule
	Target string `json:"target"`
	// Process is the VM's, without a PID where it is not known.
	Process hostproc.Process `json:"process"`
	Boot    string           `json:"boot"` // hostproc.BootID
}

// entry is one file.
type entry struct {
	// Was is whose the file was, Is whose it was made.
	Was   Owner  `json:"was"`
	Is    Owner  `json:"is"`
	Inode uint64 `json:"inode"`
	Uses  []Use  `json:"uses"`
}

// Taking is what a disk needs.
type Taking struct {
	Use Use
	// Files are all that QEMU opens; those of Give are given to Owner, whose Path
	// does not matter. Of the others it is noted that the disk needs them, where
	// they have been given away before.
	Files, Give []File
	Owner       Owner
	// Remembered are owners that somebody else has written down: those of a disk
	// that comes from another host, or was there before this one's start. They
	// count where the file is Owner's already.
	Remembered []Owner
}

// Take gives files to QEMU's user. Doing it again does no harm. After an error, Give
// takes back what was done.
func (r Registry) Take(t Taking) error {
	if len(t.Give) == 0 {
		if _, err := os.Stat(r.Dir); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	} else if err := os.MkdirAll(r.Dir, 0o700); err != nil {
		return fmt.Errorf("folder for the owners of files: %w", err)
	}
	return r.locked(func() error {
		for _, f := range t.Files {
			given := slices.ContainsFunc(t.Give, func(g File) bool { return g.Path == f.Path })
			if err := r.take(t, f, given); err != nil {
				return err
			}
		}
		return nil
	})
}

func (r Registry) take(t Taking, f File, give bool) error {
	h, err := hold(f.Path)
	if err != nil {
		if !give {
			return nil // whoever opens it tells
		}
		return err
	}
	defer h.close()
	name := r.name(h.path)
	e, err := r.read(name)
	known := err == nil && e.Inode == h.stat.Ino
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !known {
		if !give {
			return nil
		}
		if err := relabelable(&h.stat); err != nil {
			return fmt.Errorf("%s: %w", h.path, err)
		}
		was, err := h.owner(t.Owner.Label != "")
		if err != nil {
			return err
		}
		e = &entry{Was: t.before(was), Inode: h.stat.Ino}
	}
	if give {
		e.Is = Owner{Path: h.path, UID: t.Owner.UID, GID: h.stat.Gid, Label: t.Owner.Label}
	}
	e.Uses = slices.DeleteFunc(e.Uses, func(u Use) bool { return u.VM == t.Use.VM && u.Target == t.Use.Target })
	e.Uses = append(e.Uses, t.Use)
	if err := r.write(name, e); err != nil {
		return err
	}
	if !give {
		return nil
	}
	return h.give(e.Is)
}

// Owners returns whose the files of Give are, before they are taken; also of those
// that have been given away for the very same disk by a run that did not get further.
func (r Registry) Owners(t Taking) ([]Owner, error) {
	var out []Owner
	for _, f := range t.Files {
		h, err := hold(f.Path)
		if err != nil {
			continue // whoever opens it tells
		}
		now, err := h.owner(t.Owner.Label != "")
		h.close()
		if err != nil {
			return nil, err
		}
		e, err := r.read(r.name(now.Path))
		switch {
		case err == nil && e.Inode == h.stat.Ino:
			out = append(out, e.Was)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return nil, err
		case slices.ContainsFunc(t.Give, func(g File) bool { return g.Path == f.Path }):
			out = append(out, t.before(now))
		}
	}
	return out, nil
}

// before returns whose a file was before it was given to QEMU's user.
func (t Taking) before(now Owner) Owner {
	i := slices.IndexFunc(t.Remembered, func(o Owner) bool { return o.Path == now.Path })
	if i >= 0 && now.UID == t.Owner.UID {
		return t.Remembered[i]
	}
	return now
}

// Giving says which uses have ended.
type Giving struct {
	// Ended tells it of a use. Those of processes that are gone have ended anyhow.
	Ended func(Use) bool
	// Stay leaves the files of ended uses as they are: another host goes on using
	// them.
	Stay bool
}

// Given is a file that went back.
type Given struct {
	Path string
	Use  Use // the last one
}

// Give takes files back from QEMU's user, which no disk needs any more, and returns
// which. A file that somebody else has changed the owner of meanwhile, or that
// is another file now, stays as it is. Every file is seen to, whatever becomes of the
// others.
func (r Registry) Give(g Giving) ([]Given, error) {
	if _, err := os.Stat(r.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var back []Given
	err := r.locked(func() error {
		names, err := r.names()
		failed := []error{err}
		for _, name := range names {
			given, err := r.give(name, g)
			if given != nil {
				back = append(back, *given)
			}
			failed = append(failed, err)
		}
		return errors.Join(failed...)
	})
	return back, err
}

func (r Registry) give(name string, g Giving) (*Given, error) {
	e, err := r.read(name)
	if err != nil {
		return nil, err
	}
	var left []Use
	stay := false
	for _, u := range e.Uses {
		switch {
		case g.Ended(u):
			stay = stay || g.Stay
		case u.stands():
			left = append(left, u)
		}
	}
	if len(left) == len(e.Uses) && len(left) > 0 {
		return nil, nil
	}
	if len(left) > 0 {
		e.Uses = left
		return nil, r.write(name, e)
	}
	var given *Given
	if !stay {
		changed, err := e.restore()
		if err != nil {
			return nil, err
		}
		if changed {
			given = &Given{Path: e.Is.Path}
			if n := len(e.Uses); n > 0 {
				given.Use = e.Uses[n-1]
			}
		}
	}
	// Only now: a run that is killed before does it again.
	return given, os.Remove(filepath.Join(r.Dir, name))
}

// Restore makes files, which have the user uid and are not in the registry, those of
// their owners.
func (r Registry) Restore(owners []Owner, uid uint32) error {
	if err := os.MkdirAll(r.Dir, 0o700); err != nil {
		return fmt.Errorf("folder for the owners of files: %w", err)
	}
	return r.locked(func() error {
		var failed []error
		for _, o := range owners {
			if _, err := os.Stat(filepath.Join(r.Dir, r.name(o.Path))); err == nil {
				continue // of a disk that still needs it
			}
			h, err := hold(o.Path)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				failed = append(failed, err)
				continue
			}
			if h.path == o.Path && h.stat.Uid == uid && relabelable(&h.stat) == nil {
				failed = append(failed, h.give(o))
			}
			h.close()
		}
		return errors.Join(failed...)
	})
}

// restore gives the file back, if it is still as it was made.
func (e *entry) restore() (bool, error) {
	h, err := hold(e.Is.Path)
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
	return true, h.give(e.Was)
}

// stands tells whether the VM of a use is still there. One whose process is not known
// is, until somebody says otherwise or the host has been started again.
func (u Use) stands() bool {
	if u.Boot != hostproc.BootID() {
		return false
	}
	return u.Process.PID == 0 || u.Process.Alive()
}

// locked calls f while no other process works with the registry.
func (r Registry) locked(f func() error) error {
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

func (r Registry) read(name string) (*entry, error) {
	text, err := os.ReadFile(filepath.Join(r.Dir, name))
	if err != nil {
		return nil, fmt.Errorf("whose a file was: %w", err)
	}
	e := &entry{}
	if err := json.Unmarshal(text, e); err != nil {
		return nil, fmt.Errorf("whose a file was: %s: %w", filepath.Join(r.Dir, name), err)
	}
	return e, nil
}

// write is done when the disk has it.
func (r Registry) write(name string, e *entry) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	o := fsutil.Options{Mode: 0o600, Durable: true, Temporary: filepath.Join(r.Dir, name+unfinished)}
	if err := fsutil.Replace(nil, filepath.Join(r.Dir, name), append(text, '\n'), o); err != nil {
		return fmt.Errorf("write down whose a file was: %w", err)
	}
	return nil
}
