package qmp

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// FilePasser gives QEMU one command together with a file, by a way that is not
// the client's own, and returns QEMU's reply. command is one JSON object
// without an id; it never holds a Sensitive value. f is the passer's until it
// returns, which it must do soon after ctx has ended.
//
// An error that wraps ErrNotSent says that QEMU has not got the command. After
// any other, the command's outcome is unknown.
type FilePasser func(ctx context.Context, command []byte, f *os.File) (reply []byte, err error)

// WithFilePasser makes a client of NewLibvirt use p for commands with a File,
// see Virsh. Other clients ignore it.
func WithFilePasser(p FilePasser) Option { return func(o *options) { o.passFile = p } }

// runner returns the function that runs c, and one that makes it give up.
func (t *serial) runner(ctx context.Context, c *call) (run func([]byte) ([]byte, error), stop func(), err error) {
	if c.file == nil {
		return t.runRaw, func() {}, nil
	}
	file, err := duplicate(c.file)
	if err != nil {
		return nil, nil, err
	}
	ctx, stop = context.WithCancel(ctx)
	return func(command []byte) ([]byte, error) {
		defer func() { _ = file.Close() }() // a copy: the file itself is its owner's
		return t.passFile(ctx, command, file)
	}, stop, nil
}

// duplicate gives a passer a descriptor of its own: it may still be at work when
// its caller, whose context has ended, closes the file, and the kernel would
// give the number to another file.
func duplicate(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errFile, err)
	}
	var fd int
	var dupErr error
	err = raw.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if err == nil {
		err = dupErr
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errFile, err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
