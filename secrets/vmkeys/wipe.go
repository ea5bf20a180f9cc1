package vmkeys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets"
)

// ErrNotWiped reports that a file of a key still had other content after it was overwritten.
var ErrNotWiped = errors.New("it was overwritten, and does not read back as zeros")

// Wipe destroys the keys of a VM: it overwrites every file in the VM's directories, checks
// that it reads back as zeros, and removes the directories. A VM without keys is not an
// error. Wipe continues after a failure and returns all errors. It changes nothing in a
// directory that another user can have put there.
//
// A file system or disk may keep what a file had before it was overwritten. On the disk
// that is encrypted, and unless [Places.Identity] is set, the identity that decrypts it is
// overwritten as well.
func (p Places) Wipe(vm string) error {
	id, err := parse(vm)
	if err != nil {
		return fmt.Errorf("destroy the keys of a VM: %w", err)
	}
	// In this order: a move that has begun ends before the second step, and one that begins
	// later finds nothing in memory.
	failed := []error{wipe(filepath.Join(p.Memory, id))}
	if p.Disk != "" {
		ctx, cancel := context.WithTimeout(context.Background(), moving)
		defer cancel()
		unlock, err := p.lock(ctx)
		defer unlock()
		failed = append(failed, err, wipe(filepath.Join(p.Disk, id)))
	}
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("destroy the keys of VM %s: %w", vm, err)
	}
	return nil
}

// moving bounds the wait for the end of a move.
const moving = 10 * time.Second

func wipe(path string) error {
	if err := fsutil.CheckDir(path); err != nil { // whose files would be overwritten?
		return err
	}
	// Not by paths: the directory's owner could replace entries by symbolic links.
	root, err := os.OpenRoot(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	err = errors.Join(overwrite(root), root.Close())
	removed := os.RemoveAll(path)
	if removed != nil {
		removed = os.RemoveAll(path) // a writer may just have made a file
	}
	return errors.Join(err, removed)
}

// shred overwrites and removes a file of a VM's directory.
func shred(path, name string) error {
	root, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	return errors.Join(zero(root, name), root.Remove(name), root.Close())
}

// overwrite fills every regular file below root with zeros. One that is removed meanwhile was
// overwritten by its move.
func overwrite(root *os.Root) error {
	var failed []error
	// WalkDir returns nil: the function collects all errors.
	_ = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			err = zero(root, name)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
		}
		return nil
	})
	return errors.Join(failed...)
}

// zero overwrites the content of a key's file, on the disk as well, and reads it back.
func zero(root *os.Root, name string) error {
	f, err := root.OpenFile(name, os.O_RDWR|unix.O_NONBLOCK, 0) // it may be a pipe by now
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() {
		size := min(info.Size(), secrets.MaxLen) // a larger file is no key
		zeros := make([]byte, size)
		if _, err = f.Write(zeros); err == nil {
			err = f.Sync()
		}
		if err == nil {
			err = wiped(f, size)
		}
	}
	return errors.Join(err, f.Close())
}

// wiped returns an error unless the first bytes of a file are zeros.
func wiped(f io.ReaderAt, size int64) error {
	content := make([]byte, size)
	defer clear(content)
	if _, err := f.ReadAt(content, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if len(bytes.Trim(content, "\x00")) > 0 {
		return ErrNotWiped
	}
	return nil
}
