package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// HelperProgram is the program that issues persistent reservations for a QEMU that may
// not, which is looked up in PATH; see qemu-pr-helper(8) and QEMU's
// docs/interop/pr-helper.rst.
const HelperProgram = "qemu-pr-helper"

// HelperOptions are the options of a qemu-pr-helper.
type HelperOptions struct {
	// Dir is its directory, like that of a storage daemon. The socket is next to it, see
	// [HelperSocket]: QEMU's user must be able to pass through the parent, and only this
	// process's user may write to it. A file with the socket's name is removed.
	Dir string
	// Program is the helper, qemu-pr-helper from PATH if empty.
	Program string
	// User may connect to it; nil is this process's user, that of the helper itself.
	User *Credential
	// Timeout bounds the wait until the helper answers; 0 is 15 s.
	Timeout time.Duration
	// Owner is as in [Options].
	Owner Process
}

// HelperSocket returns the path at which the helper of a directory listens.
func HelperSocket(dir string) string { return dir + ".sock" }

// StartHelper starts a qemu-pr-helper and waits until it listens. It outlives this process
// as a storage daemon does, and [Inspect], [Stop] and [Watch] work on it. It ends only when
// its clients have left; killing one that has clients loses nothing and is no error.
//
// The error is a [*StartError] if the helper does not come up, and nothing of it is left.
func StartHelper(ctx context.Context, o HelperOptions) (Info, error) {
	info, _, err := launch{
		dir: o.Dir, program: o.Program, usual: HelperProgram, debian: "qemu-system-common", kind: KindHelper, timeout: o.Timeout, owner: o.Owner,
		arguments: func(info Info) []string { return []string{"--socket", info.Socket} },
		connect: func(ctx context.Context, info Info) error {
			conn, err := (&net.Dialer{}).DialContext(ctx, "unix", info.Socket)
			if err != nil {
				return err
			}
			return conn.Close()
		},
		client: o.User.Needed(),
	}.start(ctx)
	return info, err
}

// removeHelperSocket removes the socket next to the directory, if there is one.
func (d *directory) removeHelperSocket() error {
	if err := os.Remove(HelperSocket(d.path)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the socket of a reservation helper: %w", err)
	}
	return nil
}
