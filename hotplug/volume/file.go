package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
)

// file is a file that is being made. Until it is published it has a name of its own.
type file struct {
	path       string
	temporary  string // "" once it is published
	attributes attributes
	made       fs.FileInfo // of the temporary file
	// replaces is the file of that name that may be replaced, nil for none.
	replaces fs.FileInfo
}

// begin makes an empty file that only this process's user can open.
func begin(path string, a attributes, replaces fs.FileInfo) (newFile, error) {
	f, err := os.CreateTemp(filepath.Dir(path), temporaryPrefix(path)+"*")
	if err != nil {
		return nil, err
	}
	made, err := f.Stat()
	return &file{path: path, temporary: f.Name(), attributes: a, made: made, replaces: replaces}, errors.Join(err, f.Close())
}

// open opens the file. It returns an error if the name leads to another file now: a user who may write to the directory could
// have exchanged it, and would have that file's owner and mode changed.
func (f *file) open(flags int) (*os.File, error) {
	opened, err := os.OpenFile(f.temporary, flags|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if now, err := opened.Stat(); err != nil || !os.SameFile(now, f.made) {
		fsutil.CloseRead(opened)
		return nil, errors.Join(err, fmt.Errorf("the file %s was exchanged meanwhile", f.temporary))
	}
	return opened, nil
}

// change opens the file, and syncs it after do.
func (f *file) change(do func(*os.File) error) (err error) {
	opened, err := f.open(os.O_RDWR)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	if err := do(opened); err != nil {
		return err
	}
	return opened.Sync()
}

// write implements [newFile].
func (f *file) write(do func(growing) error) (err error) {
	opened, err := f.open(os.O_RDWR)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	return do(durable{opened})
}

// read implements [output].
func (f *file) read(do func(io.ReaderAt) error) error {
	opened, err := f.open(os.O_RDONLY)
	if err != nil {
		return err
	}
	defer fsutil.CloseRead(opened)
	return do(opened)
}

// preallocate reserves or writes all of the file.
func (f *file) preallocate(ctx context.Context, p Preallocation, report Report) error {
	if !p.reserves() {
		return nil
	}
	return f.change(func(opened *os.File) error { return preallocate(ctx, opened, p, report) })
}

// noCOW implements [newFile].
func (f *file) noCOW() error { return f.change(switchOffCOW) }

// publish gives the file its attributes and its name, which must be free or that of the file that it replaces, and syncs the
// directory.
func (f *file) publish() error {
	if err := f.change(f.attributes.apply); err != nil {
		return fmt.Errorf("%s: %w", f.path, err)
	}
	var err error
	if f.replaces == nil {
		err = fsutil.RenameNew(f.temporary, f.path)
	} else {
		now, statErr := os.Lstat(f.path)
		switch {
		case statErr != nil:
			return statErr
		case !os.SameFile(now, f.replaces), now.Size() != f.replaces.Size():
			return fmt.Errorf("%s %w: it was changed meanwhile", f.path, ErrExists)
		}
		err = os.Rename(f.temporary, f.path)
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%s %w", f.path, ErrExists)
	case err != nil:
		return err
	}
	f.temporary = ""
	return fsutil.SyncDir(nil, filepath.Dir(f.path))
}

func (f *file) remove() []string {
	name := f.temporary
	if name == "" {
		name = f.path
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return []string{fmt.Sprintf("the file %s (%v)", name, err)}
	}
	return nil
}

// temporaryPrefix begins the names that the file at path has until it is complete.
func temporaryPrefix(path string) string { return "." + filepath.Base(path) + ".luksplug-" }

// RemoveUnfinished removes what a [Create] has left that was killed before the file at path, absolute, had its name. The caller knows
// that no other one makes a file with that name. Only files that are not older than since are removed. It may be repeated.
func RemoveUnfinished(path string, since time.Time) error {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove what was not finished: %w", err)
	}
	for _, e := range entries {
		digits, ours := strings.CutPrefix(e.Name(), temporaryPrefix(path))
		info, err := e.Info()
		if !ours || strings.Trim(digits, "0123456789") != "" || err != nil || !info.Mode().IsRegular() || info.ModTime().Before(since) {
			continue
		}
		if err := os.Remove(filepath.Join(filepath.Dir(path), e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what was not finished: %w", err)
		}
	}
	return nil
}
