package passphrase

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets"
)

// Errors of [Open], which also wraps those of the operating system
// (fs.ErrNotExist, fs.ErrPermission) and [secrets.ErrTooLong].
var (
	ErrInvalidSource = errors.New("invalid passphrase source")
	ErrEmpty         = errors.New("the passphrase is empty")
)

// Open reads the passphrase from the source spec, to the end:
//
//   - "-" is standard input, given as stdin;
//   - "fd:N" is the file descriptor N, inherited from the parent process
//     (3<file in a shell); Open closes it;
//   - anything else is the path of a file, which may be a pipe ("./-" and
//     "./fd:3" name files with such names).
//
// The error wraps [ErrEmpty] for an empty passphrase, and [secrets.ErrTooLong] for
// more than [secrets.MaxLen] bytes. Of devices, only terminals and block devices are
// opened. At a terminal, whichever source names it, Open asks for one line and does not
// show it. Open blocks as long as its source does, see [OpenContext].
func Open(spec string, stdin io.Reader) (*secrets.Secret, error) {
	return OpenContext(context.Background(), spec, stdin)
}

// OpenContext is [Open] that waits no longer than until ctx ends, for a pipe or terminal;
// stdin can be interrupted if it is an [*os.File]. The error then wraps that of ctx.
func OpenContext(ctx context.Context, spec string, stdin io.Reader) (*secrets.Secret, error) {
	return Options{Stdin: stdin}.Open(ctx, spec)
}

// Options of a source. The zero value has no standard input.
type Options struct {
	// Stdin is the source "-".
	Stdin io.Reader
	// Exposed is called with the name and mode of a file from which a passphrase is read
	// although others than its owner have access to it; nil for nothing. A pipe, a
	// device, and a file without a name are never exposed.
	Exposed func(name string, mode fs.FileMode)
}

// Open is [OpenContext].
func (o Options) Open(ctx context.Context, spec string) (*secrets.Secret, error) {
	r, err := source(spec, o.Stdin)
	if err != nil {
		return nil, err
	}
	if f, ok := r.(*os.File); ok && r != o.Stdin {
		defer fsutil.CloseRead(f)
	}
	return o.Read(ctx, r, name(spec))
}

// Read is [Read] that ends with ctx, if r is an [*os.File]. At a terminal it asks for one
// line, which it does not show.
func (o Options) Read(ctx context.Context, r io.Reader, from string) (*secrets.Secret, error) {
	f, ok := r.(*os.File)
	if !ok {
		return Read(r, from)
	}
	if isTerminal(f) {
		secret, err := Ask(ctx, f, "passphrase")
		if err != nil {
			return nil, fmt.Errorf("read the passphrase from %s: %w", from, err)
		}
		return secret, nil
	}
	if mode, exposed := exposure(f); exposed && o.Exposed != nil {
		o.Exposed(from, mode)
	}
	return Read(fsutil.Waiting(ctx, f), from)
}

// Read reads a passphrase to the end of r, as [Open] does. from names r in
// errors.
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

// Inherited returns the descriptor of the source "fd:N", for a program that opens it
// before it changes its other inherited descriptors; the caller closes it. It
// returns nil for other sources.
func Inherited(spec string) (*os.File, error) {
	if number, ok := strings.CutPrefix(spec, "fd:"); ok {
		return inherited(number)
	}
	return nil, nil
}

// source returns what spec names. The caller closes it unless it is stdin.
func source(spec string, stdin io.Reader) (io.Reader, error) {
	switch {
	case spec == "":
		return nil, fmt.Errorf("%w: it is empty: give a path, - or fd:N", ErrInvalidSource)
	case spec == "-":
		if stdin == nil {
			return nil, fmt.Errorf("%w: there is no standard input", ErrInvalidSource)
		}
		return stdin, nil
	case strings.HasPrefix(spec, "fd:"):
		return inherited(strings.TrimPrefix(spec, "fd:"))
	}
	f, err := openFile(spec)
	if err != nil {
		return nil, fmt.Errorf("open the passphrase file: %w", err)
	}
	return f, nil
}

// inherited returns a descriptor that was inherited from the parent process.
func inherited(number string) (*os.File, error) {
	n, err := strconv.ParseUint(number, 10, 31)
	if err != nil {
		return nil, fmt.Errorf("%w: %q: N in fd:N is a decimal number", ErrInvalidSource, "fd:"+number)
	}
	if n == 1 || n == 2 {
		return nil, fmt.Errorf("%w: fd:%d is used for output", ErrInvalidSource, n)
	}
	// Descriptors inherited through exec have no close-on-exec flag, and all
	// that Go opens have it. Checking the flag prevents that a wrong number
	// closes a descriptor of the runtime.
	flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC != 0 {
		return nil, fmt.Errorf("%w: descriptor %d was not left open by the parent process: in a shell, add %d<FILE", ErrInvalidSource, n, n)
	}
	// Programs that this process starts must not inherit it.
	unix.CloseOnExec(int(n))
	return os.NewFile(uintptr(n), "fd:"+number), nil
}

func name(spec string) string {
	if spec == "-" {
		return "standard input"
	}
	return spec
}
