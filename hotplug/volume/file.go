package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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
func begin(path string, mode fs.FileMode) (newFile, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".luksplug-*")
	if err != nil {
		return nil, err
	}
	return &file{path: path, temporary: f.Name(), mode: mode}, f.Close()
}

// write implements [newFile].
func (f *file) write(do func(growing) error) (err error) {
	opened, err := os.OpenFile(f.temporary, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	return do(durable{opened})
}

// read implements [newFile].
func (f *file) read(do func(io.ReaderAt) error) error {
	opened, err := os.OpenFile(f.temporary, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer fsutil.CloseRead(opened)
	return do(opened)
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
	args := append(append([]string{"create", "-q", "-f", "qcow2"}, options...), f.temporary, strconv.FormatInt(size, 10))
	if err := qemuImg(ctx, extra, args...); err != nil {
		return err
	}
	if header == nil {
		return f.write(func(opened growing) error { return opened.Sync() })
	}
	return f.write(func(opened growing) error {
		q, err := image.ReadQcow2(opened)
		if err != nil {
			return err
		}
		if q.LUKS == nil || q.LUKSLength < int64(len(header)) {
			return fmt.Errorf("qemu-img has left no place for a LUKS header of %d bytes", len(header))
		}
		if _, err = opened.WriteAt(header, q.LUKSOffset); err != nil {
			return err
		}
		return opened.Sync()
	})
}

// qemu-img measures how fast it derives keys, and fails where the clock of processor time does not advance meanwhile, which
// happens by chance on a busy host (crypto/pbkdf.c).
const (
	noCPUTime       = "Unable to get accurate CPU usage"
	qemuImgAttempts = 20
)

// qemuImg runs qemu-img, whose descriptors from 3 on are extra.
func qemuImg(ctx context.Context, extra []*os.File, args ...string) error {
	for attempt := 1; ; attempt++ {
		cmd := exec.CommandContext(ctx, "qemu-img", args...)
		cmd.ExtraFiles = extra
		var complaint bytes.Buffer
		cmd.Stderr = &complaint
		switch err := cmd.Run(); {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case attempt == qemuImgAttempts || !strings.Contains(complaint.String(), noCPUTime):
			return fmt.Errorf("qemu-img create: %w: %s", err, strings.TrimSpace(complaint.String()))
		}
	}
}

// oneTimeKey returns a file in memory with a random passphrase.
func oneTimeKey() (*os.File, error) {
	passphrase := randomPassphrase()
	defer passphrase.Wipe()
	return keyFile(passphrase)
}

// keyFile returns a file in memory with a passphrase, for a program that reads it by its descriptor.
func keyFile(passphrase *secrets.Secret) (*os.File, error) {
	return fsutil.MemoryFile("luksplug-passphrase", func(f *os.File) error {
		return passphrase.Use(func(value []byte) error {
			_, err := f.WriteAt(value, 0)
			return err
		})
	})
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
