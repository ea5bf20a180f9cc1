package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/luksplug/luksplug/internal/hostproc"
)

// HelperProgram is the program that issues persistent reservations for a QEMU
// which may not, as it is found in PATH; see qemu-pr-helper(8) and QEMU's
// docs/interop/pr-helper.rst.
const HelperProgram = "qemu-pr-helper"

// HelperOptions say how to start a qemu-pr-helper.
type HelperOptions struct {
	// Dir is its folder, as that of a storage daemon. Beside it is the socket, see
	// [HelperSocket]: in a folder that QEMU's user may pass through, and that
	// nobody else writes. What is there under that name is removed.
	Dir string
	// Program is the helper, qemu-pr-helper from PATH if empty.
	Program string
	// User may connect to it; nil is ourselves. The helper itself runs as we do:
	// it is there for what QEMU's user may not.
	User *Credential
	// Timeout bounds the wait until the helper answers; 0 is 15 s.
	Timeout time.Duration
}

// HelperSocket is where the helper of a folder listens.
func HelperSocket(dir string) string { return dir + ".sock" }

// StartHelper starts a qemu-pr-helper and waits until it listens. It lives on as
// a storage daemon does, and [Inspect], [Stop] and [Watch] are for it, too. It
// ends by itself only when its clients have left: one that has some is killed,
// which is no error, because it has nothing to lose.
//
// A helper that does not come up is killed, and the error is a [StartError].
func StartHelper(ctx context.Context, o HelperOptions) (Info, error) {
	program, err := lookUp(o.Program, HelperProgram, "qemu-system-common")
	if err != nil {
		return Info{}, err
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	f, err := makeFolder(ctx, o.Dir, nil)
	if err != nil {
		return Info{}, err
	}
	defer f.close()
	info, err := f.startHelper(ctx, program, o)
	if err != nil {
		return Info{}, errors.Join(err, f.undo())
	}
	return info, nil
}

// startHelper starts the helper in a folder that is ready and locked.
func (f *folder) startHelper(ctx context.Context, program string, o HelperOptions) (Info, error) {
	if err := f.removeHelperSocket(); err != nil {
		return Info{}, err
	}
	stderr, err := f.create(stderrName, os.O_RDWR|os.O_APPEND, nil)
	if err != nil {
		return Info{}, fmt.Errorf("start %s: %w", program, err)
	}
	defer func() { _ = stderr.Close() }() // the helper writes it, by its own descriptor
	c, err := spawn(program, []string{"--socket", HelperSocket(f.path)}, stderr, Options{})
	if err != nil {
		return Info{}, &StartError{Program: program, Err: err}
	}
	s, err := f.awaitHelper(ctx, program, c, o)
	if err != nil {
		c.kill()
		return Info{}, &StartError{Program: program, Stderr: lastWords(stderr), Err: err}
	}
	return f.info(s), nil
}

// awaitHelper records the new helper, waits until it listens, and lets the user
// connect.
func (f *folder) awaitHelper(ctx context.Context, program string, c *child, o HelperOptions) (state, error) {
	process, err := hostproc.ProcessOf(c.process.Pid)
	if errors.Is(err, hostproc.ErrEnded) {
		<-c.done
		return state{}, c.exit()
	}
	if err != nil {
		return state{}, err
	}
	s := state{Process: process, Program: program, Kind: KindHelper}
	if err := f.writeState(s, nil); err != nil {
		return s, err
	}
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", HelperSocket(f.path))
		if err == nil {
			_ = conn.Close() // nothing was said
			break
		}
		select {
		case <-c.done:
			return s, c.exit()
		case <-ctx.Done():
			return s, fmt.Errorf("it does not listen: %w: %w", ctx.Err(), err)
		case <-time.After(backoff):
		}
	}
	if user := o.User.Needed(); user != nil {
		uid, gid := user.Owner()
		if err := os.Lchown(HelperSocket(f.path), uid, gid); err != nil {
			return s, fmt.Errorf("let user %d connect (only root can): %w", uid, err)
		}
	}
	return s, nil
}

// removeHelperSocket removes the socket beside the folder, if it is there.
func (f *folder) removeHelperSocket() error {
	if err := os.Remove(HelperSocket(f.path)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the socket of a reservation helper: %w", err)
	}
	return nil
}
