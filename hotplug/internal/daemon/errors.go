package daemon

import (
	"errors"
	"fmt"
)

var (
	// ErrNotRunning: the folder has no running daemon. It may be stale, or not
	// be there at all.
	ErrNotRunning = errors.New("no storage daemon is running")
	// ErrRunning: the folder has a running daemon already.
	ErrRunning = errors.New("a storage daemon is running already")
	// ErrFolder: the folder is not fit to hold a daemon: it is not private, is
	// somebody else's, is a symbolic link or has other files in it.
	ErrFolder = errors.New("not a private folder of a storage daemon")
	// ErrPathTooLong: the sockets would have names that are too long for Linux
	// (unix(7): 107 bytes).
	ErrPathTooLong = errors.New("path of a unix socket is too long")
	// ErrKilled: the daemon did not end when it was asked to, and was killed.
	// What had not been flushed to the image may be lost.
	ErrKilled = errors.New("the storage daemon had to be killed")
)

// StartError says why a daemon did not come up. Nothing of it is left.
type StartError struct {
	Program string
	// Stderr is the last line that it wrote to its standard error, if any.
	Stderr string
	Err    error // how it ended, or why it was not waited for any longer
}

// Error implements error.
func (e *StartError) Error() string {
	if e.Stderr == "" {
		return fmt.Sprintf("start %s: %v", e.Program, e.Err)
	}
	return fmt.Sprintf("start %s: %v: %s", e.Program, e.Err, e.Stderr)
}

// Unwrap returns the cause.
func (e *StartError) Unwrap() error { return e.Err }
