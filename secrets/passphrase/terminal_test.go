package passphrase_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/passphrase"
)

// TestTerminalShowsNothing: what is typed is not shown, whichever source names the terminal,
// and its newline is not part of the passphrase.
func TestTerminalShowsNothing(t *testing.T) {
	t.Parallel()
	for name, read := range map[string]func(tty *os.File) (*secrets.Secret, error){
		"standard input": func(tty *os.File) (*secrets.Secret, error) { return passphrase.Open("-", tty) },
		"its path":       func(tty *os.File) (*secrets.Secret, error) { return passphrase.Open(tty.Name(), nil) },
		"a descriptor": func(tty *os.File) (*secrets.Secret, error) {
			return passphrase.Options{}.Read(t.Context(), tty, "fd:3")
		},
	} {
		tty, person := must.Terminal(t)
		seen := make(chan string)
		go func() {
			var all strings.Builder
			buf := make([]byte, 256)
			for !strings.HasSuffix(all.String(), "passphrase: ") {
				n, err := person.Read(buf)
				if err != nil {
					break
				}
				all.Write(buf[:n])
			}
			_, _ = person.WriteString("hunter2\n") // a missing line fails the test
			n, _ := person.Read(buf)
			seen <- all.String() + string(buf[:n])
		}()
		value := must.Get(read(tty))(t)
		if got := string(must.Use(t, value)); got != "hunter2" {
			t.Errorf("%s: %q", name, got)
		}
		if screen := <-seen; strings.Contains(screen, "hunter") {
			t.Errorf("%s: the screen shows %q", name, screen)
		}
	}
}

// TestTerminalIsInterrupted: the wait for a person ends with the context, and says so.
func TestTerminalIsInterrupted(t *testing.T) {
	t.Parallel()
	tty, _ := must.Terminal(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := passphrase.OpenContext(ctx, "-", tty)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "standard input") || !strings.Contains(err.Error(), "time limit") {
		t.Errorf("got %v", err)
	}
}

// TestExposedFiles: a file that others may read is reported, and no pipe or file in memory.
func TestExposedFiles(t *testing.T) {
	t.Parallel()
	for mode, want := range map[fs.FileMode]bool{0o600: false, 0o400: false, 0o640: true, 0o644: true, 0o604: true, 0o602: true} {
		path := filepath.Join(t.TempDir(), "key")
		must.Write(t, path, "secret")
		must.OK(t, os.Chmod(path, mode))
		var got []string
		options := passphrase.Options{Exposed: func(name string, mode fs.FileMode) { got = append(got, fmt.Sprintf("%s %04o", name, mode)) }}
		must.Get(options.Open(t.Context(), path))(t)
		opened := must.Get(os.Open(path))(t)
		options.Stdin = opened
		must.Get(options.Open(t.Context(), "-"))(t)
		must.OK(t, opened.Close())
		wanted := []string{fmt.Sprintf("%s %04o", path, mode), fmt.Sprintf("standard input %04o", mode)}
		if want != (len(got) > 0) || want && strings.Join(got, "; ") != strings.Join(wanted, "; ") {
			t.Errorf("mode %04o: %v", mode, got)
		}
	}
	memory := os.NewFile(uintptr(must.Get(unix.MemfdCreate("key", unix.MFD_CLOEXEC))(t)), "memory")
	defer func() { _ = memory.Close() }() // nothing is lost
	must.Get(memory.WriteAt([]byte("secret"), 0))(t)
	options := passphrase.Options{Exposed: func(name string, _ fs.FileMode) { t.Errorf("%s is reported", name) }}
	must.Get(options.Read(t.Context(), memory, "fd:3"))(t)
}
