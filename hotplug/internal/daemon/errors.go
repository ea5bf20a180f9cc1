package daemon

import (
	"errors"
	"fmt"
)

var (
	// ErrNotRunning reports that the directory has no running daemon, or does not exist.
	ErrNotRunning = errors.New("no storage daemon is running")
	// ErrRunning reports that the directory has a running daemon already.
	ErrRunning = errors.New("a storage daemon is running already")
	// ErrDirectory reports that a daemon cannot use the directory: it is not private,
	// belongs to another user, is a symbolic link, or has other files in it.
	ErrDirectory = errors.New("not a private directory of a storage daemon")
	// ErrPathTooLong reports that the sockets' names would be too long (unix(7): 107 bytes).
	ErrPathTooLong = errors.New("path of a unix socket is too long")
	// ErrKilled reports that the daemon did not end in time and was killed. Data that it
	// had not flushed to the image may be lost.
	ErrKilled = errors.New("the storage daemon had to be killed")
)

// StartError reports why a daemon did not start. Nothing of it is left.
type StartError struct {
	Program string
	Stderr  string // the last line of its standard error, if any
	Err     error
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
