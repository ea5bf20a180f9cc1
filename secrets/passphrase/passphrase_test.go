package passphrase_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/passphrase"
)

func Example() {
	secret, err := passphrase.Open("-", strings.NewReader("correct horse\n"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer secret.Wipe()
	fmt.Println(secret, secret.Len(), "bytes")
	if secret.Stray() != "" {
		fmt.Println("hint: it ends in a newline, which counts")
	}
	// Output:
	// [redacted] 14 bytes
	// hint: it ends in a newline, which counts
}

// awkward contains bytes that a reader might strip or convert.
var awkward = []byte(" \t\x00\xff\xfenot utf-8\r\n\n")

func open(t *testing.T, spec string) []byte {
	t.Helper()
	secret := must.Get(passphrase.Open(spec, nil))(t)
	return must.Use(t, secret)
}

func TestFileIsTakenExactly(t *testing.T) {
	t.Parallel()
	for _, value := range [][]byte{awkward, {0}, bytes.Repeat([]byte("x"), 100_000)} {
		path := must.File(t, value)
		if got := open(t, path); !bytes.Equal(got, value) {
			t.Errorf("%d bytes came back as %d other bytes", len(value), len(got))
		}
	}
}

func TestStandardInput(t *testing.T) {
	t.Parallel()
	secret := must.Get(passphrase.Open("-", bytes.NewReader(awkward)))(t)
	if got := must.Use(t, secret); !bytes.Equal(got, awkward) {
		t.Errorf("got %q", got)
	}
}

// inheritedPipe returns a descriptor like one inherited from a parent process:
// readable, and without close-on-exec.
func inheritedPipe(t *testing.T, value []byte) int {
	t.Helper()
	var p [2]int
	must.OK(t, unix.Pipe(p[:]))
	if _, err := unix.Write(p[1], value); err != nil {
		t.Fatal(err)
	}
	must.OK(t, unix.Close(p[1]))
	return p[0]
}

// Not parallel: the test checks a descriptor number after it was closed, and
// another test could reuse that number.
func TestInheritedDescriptorIsReadAndClosed(t *testing.T) {
	fd := inheritedPipe(t, awkward)
	if got := open(t, fmt.Sprintf("fd:%d", fd)); !bytes.Equal(got, awkward) {
		t.Errorf("got %q", got)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); !errors.Is(err, unix.EBADF) {
		t.Errorf("descriptor %d is still open (%v)", fd, err)
	}
}

func TestDescriptorOfOurOwnIsRefused(t *testing.T) {
	t.Parallel()
	f := must.Get(os.Open(os.DevNull))(t) // Go opens with close-on-exec
	defer func() { _ = f.Close() }()
	_, err := passphrase.Open(fmt.Sprintf("fd:%d", f.Fd()), nil)
	if !errors.Is(err, passphrase.ErrInvalidSource) {
		t.Errorf("got %v", err)
	}
	if _, err := f.Stat(); err != nil {
		t.Errorf("the descriptor was closed: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	must.Write(t, empty, "")
	huge := filepath.Join(dir, "huge")
	must.Write(t, huge, "")
	must.OK(t, os.Truncate(huge, secrets.MaxLen+1))
	for spec, want := range map[string]error{
		"":                         passphrase.ErrInvalidSource,
		"-":                        passphrase.ErrInvalidSource, // stdin is nil
		"fd:":                      passphrase.ErrInvalidSource,
		"fd:-1":                    passphrase.ErrInvalidSource,
		"fd:three":                 passphrase.ErrInvalidSource,
		"fd:1":                     passphrase.ErrInvalidSource,
		"fd:2":                     passphrase.ErrInvalidSource,
		"fd:1000000":               passphrase.ErrInvalidSource,
		"fd:99999999999999999999":  passphrase.ErrInvalidSource,
		empty:                      passphrase.ErrEmpty,
		huge:                       secrets.ErrTooLong,
		filepath.Join(dir, "gone"): fs.ErrNotExist,
		dir:                        unix.EISDIR,
	} {
		secret, err := passphrase.Open(spec, nil)
		if !errors.Is(err, want) || secret != nil {
			t.Errorf("%q: got %v, want %v", spec, err, want)
		}
	}
}
