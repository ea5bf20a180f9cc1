// Package dialing says in words why there is no connection to an address: the errors of
// package net name system calls, and the same number of the system for different faults.
package dialing

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/ending"
)

// Kind is what is wrong with an address.
type Kind string

// The kinds.
const (
	Missing   Kind = "missing"      // there is no such socket
	Dead      Kind = "dead"         // no process listens
	Denied    Kind = "denied"       // this user may not connect
	Busy      Kind = "busy"         // the queue of the socket is full
	NotSocket Kind = "not a socket" // the path is that of something else, or of a socket of another type
	Address   Kind = "address"      // the address itself is wrong
	Silent    Kind = "silent"       // there is no answer
	Other     Kind = "other"        // none of these
)

// Reason is why there is no connection.
type Reason struct {
	Kind Kind
	Text string // "it is a directory and not a socket"; the error's own text with Other
}

// longestPath is the longest path of a unix socket (unix(7), sun_path without its final NUL).
const longestPath = len(unix.RawSockaddrUnix{}.Path) - 1

// Unix returns why there is no connection to a stream socket at path. err is that of package net.
func Unix(path string, err error) Reason {
	switch {
	case path == "":
		return Reason{Address, "the path is empty"}
	case len(path) > longestPath:
		return Reason{Address, fmt.Sprintf("the path has %d bytes, and that of a socket at most %d: use a shorter one, such as a symbolic link to it", len(path), longestPath)}
	case errors.Is(err, fs.ErrPermission):
		return Reason{Denied, "no permission"}
	case errors.Is(err, unix.ELOOP):
		return Reason{NotSocket, "it is a loop of symbolic links"}
	case errors.Is(err, unix.EAGAIN):
		return Reason{Busy, "others wait there already"}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return Reason{Missing, "there is no such socket"}
	case timedOut(err):
		return Reason{Silent, "it does not answer in time"}
	}
	if kind := kindOf(path); kind != "" {
		return Reason{NotSocket, "it is " + kind + " and not a socket"}
	}
	switch {
	case errors.Is(err, unix.EPROTOTYPE):
		return Reason{NotSocket, "it is a socket of another type, such as that of a system log"}
	case errors.Is(err, unix.ECONNREFUSED):
		return Reason{Dead, "no process listens there"}
	}
	return Reason{Other, err.Error()}
}

// timedOut reports whether a limit of the system or of package net has passed, whose text says
// nothing. The errors of package ending have a text.
func timedOut(err error) bool {
	var worded *ending.Error
	var timeout net.Error
	return !errors.As(err, &worded) && errors.As(err, &timeout) && timeout.Timeout()
}

// kindOf describes the file at path, "" for a socket, and if it cannot be examined.
func kindOf(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	switch mode := info.Mode(); {
	case mode&fs.ModeSocket != 0:
		return ""
	case mode.IsRegular():
		return "a regular file"
	case mode.IsDir():
		return "a directory"
	case mode&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case mode&fs.ModeCharDevice != 0:
		return "a character device"
	case mode&fs.ModeDevice != 0:
		return "a block device"
	}
	return "another file"
}

// TCP returns why there is no connection to a TCP port. err is that of package net.
func TCP(err error) Reason {
	var lookup *net.DNSError
	var address *net.AddrError
	switch {
	case errors.As(err, &lookup):
		return Reason{Other, fmt.Sprintf("the host name %s cannot be resolved (%s): correct it, or give the address", lookup.Name, lookup.Err)}
	case errors.As(err, &address):
		return Reason{Address, address.Err}
	case errors.Is(err, unix.ECONNREFUSED):
		return Reason{Dead, "no process listens there"}
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		return Reason{Silent, "there is no route to that host"}
	case timedOut(err):
		return Reason{Silent, "it does not answer in time"}
	}
	return Reason{Other, err.Error()}
}

// Error is an error with a text of its own, in which errors.Is and errors.As find that of
// package net.
type Error struct {
	Text string
	Err  error
}

// Error implements error.
func (e *Error) Error() string { return e.Text }

// Unwrap returns the error of package net.
func (e *Error) Unwrap() error { return e.Err }
