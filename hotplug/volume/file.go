package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets"
)

// file is a file that is being made. Until it is published it has a name of its own.
type file struct {
	path      string
	temporary string // "" once it is published
	mode      fs.FileMode
}

// begin makes an empty file that only this process's user can open.
func begin(path string, mode fs.FileMode) (*file, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".luksplug-*")
	if err != nil {
		return nil, err
	}
	return &file{path: path, temporary: f.Name(), mode: mode}, f.Close()
}

// change opens the file, and syncs it after f.
func (f *file) change(do func(*os.File) error) (err error) {
	opened, err := os.OpenFile(f.temporary, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	if err := do(opened); err != nil {
		return err
	}
	return opened.Sync()
}

// fill writes the beginning of a file of size bytes.
func (f *file) fill(beginning []byte, size int64) error {
	return f.change(func(opened *os.File) error {
		if _, err := opened.WriteAt(beginning, 0); err != nil {
			return err
		}
		return opened.Truncate(size)
	})
}

// qcow2 makes a qcow2 image of size bytes. With a LUKS header the image is encrypted: qemu-img reserves the place with a
// one-time passphrase, and the header replaces its own.
func (f *file) qcow2(ctx context.Context, size int64, header []byte) error {
	options := []string{}
	var extra []*os.File
	if header != nil {
		key, err := oneTimeKey()
		if err != nil {
			return err
		}
		defer fsutil.CloseRead(key)
		extra = []*os.File{key}
		options = []string{"--object", "secret,id=key,file=/proc/self/fd/3", "-o", "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10"}
	}
	cmd := exec.CommandContext(ctx, "qemu-img", append(append([]string{"create", "-q", "-f", "qcow2"}, options...), f.temporary, strconv.FormatInt(size, 10))...)
	cmd.ExtraFiles = extra
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	switch err := cmd.Run(); {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("qemu-img create: %w: %s", err, strings.TrimSpace(complaint.String()))
	case header == nil:
		return f.change(func(*os.File) error { return nil })
	}
	return f.change(func(opened *os.File) error {
		q, err := image.ReadQcow2(opened)
		if err != nil {
			return err
		}
		if q.LUKS == nil || q.LUKSLength < int64(len(header)) {
			return fmt.Errorf("qemu-img has left no place for a LUKS header of %d bytes", len(header))
		}
		_, err = opened.WriteAt(header, q.LUKSOffset)
		return err
	})
}

// oneTimeKey returns a file in memory with a random passphrase.
func oneTimeKey() (*os.File, error) {
	passphrase := randomPassphrase()
	defer passphrase.Wipe()
	return keyFile(passphrase)
}

// keyFile returns a file in memory with a passphrase, for a program that reads it by its descriptor.
func keyFile(passphrase *secrets.Secret) (*os.File, error) {
	fd, err := unix.MemfdCreate("luksplug-passphrase", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "luksplug-passphrase")
	if err := passphrase.Use(func(value []byte) error {
		_, err := f.WriteAt(value, 0)
		return err
	}); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// publish gives the file its mode and its name, which must be free, and syncs the directory.
func (f *file) publish() error {
	if err := os.Chmod(f.temporary, f.mode); err != nil {
		return err
	}
	err := unix.Renameat2(unix.AT_FDCWD, f.temporary, unix.AT_FDCWD, f.path, unix.RENAME_NOREPLACE)
	switch {
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%s %w", f.path, ErrExists)
	case err != nil:
		return fmt.Errorf("rename %s to %s: %w", f.temporary, f.path, err)
	}
	f.temporary = ""
	return fsutil.SyncDir(nil, filepath.Dir(f.path))
}

// remove removes the file, and returns its name if that is not possible.
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
