package passphrase

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/secrets"
)

// Errors of [Open]. Those of the operating system (fs.ErrNotExist,
// fs.ErrPermission) and [secrets.ErrTooLong] are wrapped as well.
var (
	ErrInvalidSource = errors.New("invalid passphrase source")
	ErrEmpty         = errors.New("the passphrase is empty")
)

// Open reads the passphrase that spec names, to the end:
//
//   - "-" is standard input, given as stdin;
//   - "fd:N" is the file descriptor N, which the parent process left open for
//     this one (3<file in a shell); it is closed afterwards;
//   - anything else is the path of a file, which may be a pipe ("./-" and
//     "./fd:3" name files with such names).
//
// An empty passphrase gives [ErrEmpty], one of more than [secrets.MaxLen] bytes
// [secrets.ErrTooLong]. Open blocks for as long as its source does.
func Open(spec string, stdin io.Reader) (*secrets.Secret, error) {
	r, err := source(spec, stdin)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // read-only: a failing close loses nothing
	return Read(r, name(spec))
}

// Read reads a passphrase to the end of r, as [Open] does. from says in errors
// what r is.
func Read(r io.Reader, from string) (*secrets.Secret, error) {
	secret, err := secrets.Read(r)
	if err != nil {
		return nil, fmt.Errorf("read the passphrase from %s: %w", from, err)
	}
	if secret.Len() == 0 {
		return nil, fmt.Errorf("read the passphrase from %s: %w", from, ErrEmpty)
	}
	return secret, nil
}

// Inherited returns the descriptor that "fd:N" names, for a program that takes it
// before it changes what else it has inherited; the caller closes it. It is nil
// for other sources.
func Inherited(spec string) (*os.File, error) {
	if number, ok := strings.CutPrefix(spec, "fd:"); ok {
		return inherited(number)
	}
	return nil, nil
}

// EndsInNewline reports whether the last byte is a newline: worth a hint when
// the passphrase turns out to be wrong.
func EndsInNewline(s *secrets.Secret) bool {
	found := false
	// Use fails for a wiped secret only, which ends in nothing.
	_ = s.Use(func(value []byte) error {
		found = len(value) > 0 && value[len(value)-1] == '\n'
		return nil
	})
	return found
}

func source(spec string, stdin io.Reader) (io.ReadCloser, error) {
	switch {
	case spec == "":
		return nil, fmt.Errorf("%w: it is empty: give a path, - or fd:N", ErrInvalidSource)
	case spec == "-":
		if stdin == nil {
			return nil, fmt.Errorf("%w: there is no standard input", ErrInvalidSource)
		}
		return io.NopCloser(stdin), nil
	case strings.HasPrefix(spec, "fd:"):
		return inherited(strings.TrimPrefix(spec, "fd:"))
	}
	f, err := os.Open(spec)
	if err != nil {
		return nil, fmt.Errorf("open the passphrase file: %w", err)
	}
	return f, nil
}

// inherited returns the descriptor that the parent process left open.
func inherited(number string) (*os.File, error) {
	n, err := strconv.ParseUint(number, 10, 31)
	if err != nil {
		return nil, fmt.Errorf("%w: %q: N in fd:N is a decimal number", ErrInvalidSource, "fd:"+number)
	}
	if n == 1 || n == 2 {
		return nil, fmt.Errorf("%w: fd:%d is where output goes", ErrInvalidSource, n)
	}
	// Whatever came through exec has no close-on-exec flag, and everything
	// that Go opens itself has it: so that a wrong number cannot take away
	// the runtime's own descriptors.
	flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC != 0 {
		return nil, fmt.Errorf("%w: descriptor %d was not left open by the parent process: in a shell, add %d<FILE", ErrInvalidSource, n, n)
	}
	// Not inherited further by the programs that we start.
	unix.CloseOnExec(int(n))
	return os.NewFile(uintptr(n), "fd:"+number), nil
}

func name(spec string) string {
	if spec == "-" {
		return "standard input"
	}
	return spec
}
