package passphrase_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/passphrase"
)

// TestPipeIsWaitedFor: a pipe may get its writer late, and in parts, and the wait ends with
// the context.
func TestPipeIsWaitedFor(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "pipe")
	must.OK(t, unix.Mkfifo(pipe, 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := passphrase.OpenContext(ctx, pipe, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a writer: %v", err)
	}
	written := make(chan error)
	go func() {
		time.Sleep(100 * time.Millisecond) // the reader waits before there is a writer
		w, err := os.OpenFile(pipe, os.O_WRONLY, 0)
		if err == nil {
			_, err = w.WriteString("one ")
			time.Sleep(100 * time.Millisecond)
			_, err2 := w.WriteString("two")
			err = errors.Join(err, err2, w.Close())
		}
		written <- err
	}()
	got, err := passphrase.Open(pipe, nil)
	must.OK(t, <-written, err)
	if text := string(must.Use(t, got)); text != "one two" {
		t.Errorf("read %q", text)
	}
}

// TestStandardInputIsInterrupted: so is the wait for a pipe that is inherited.
func TestStandardInputIsInterrupted(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	must.OK(t, err)
	defer func() { _, _ = r.Close(), w.Close() }()
	must.Get(w.WriteString("a part"))(t)
	for what, read := range map[string]func(ctx context.Context) error{
		"standard input": func(ctx context.Context) error { _, err := passphrase.OpenContext(ctx, "-", r); return err },
		"a descriptor":   func(ctx context.Context) error { _, err := passphrase.Options{}.Read(ctx, r, "fd:3"); return err },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := read(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", what, err)
		}
		cancel()
	}
}

// TestDevicesAreNotOpened: a character device that is no terminal is refused unopened, and a
// file without end is read up to a bound.
func TestDevicesAreNotOpened(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "socket")
	must.OK(t, unix.Mknod(socket, unix.S_IFSOCK|0o600, 0))
	for _, path := range []string{"/dev/zero", "/dev/urandom", socket} {
		if _, err := passphrase.Open(path, nil); !errors.Is(err, passphrase.ErrInvalidSource) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := passphrase.Open("/dev/null", nil); !errors.Is(err, passphrase.ErrEmpty) {
		t.Errorf("/dev/null: %v", err)
	}
	large := filepath.Join(t.TempDir(), "large")
	must.OK(t, os.WriteFile(large, nil, 0o600), os.Truncate(large, 1<<40))
	if _, err := passphrase.Open(large, nil); !errors.Is(err, secrets.ErrTooLong) {
		t.Errorf("a file of 1 TiB: %v", err)
	}
}
