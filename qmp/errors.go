package qmp

import (
	"errors"
	"fmt"
	"strings"
)

// Errors of the client itself. Those with which QEMU refuses a command are in errtext.go.
var (
	// ErrClosed: Close was called on this client.
	ErrClosed = errors.New("QMP client is closed")
	// ErrConnectionLost: the connection to QEMU ended: QEMU exited, the socket
	// failed, or a command could only be written in part.
	ErrConnectionLost = errors.New("QMP connection lost")
	// ErrNoGreeting: the peer took the connection but did not greet.
	ErrNoGreeting = errors.New("no QMP greeting")
	// ErrProtocol: the peer sent something that is not QMP.
	ErrProtocol = errors.New("not the QMP protocol")
	// ErrMessageTooLarge: the peer sent a message beyond the bounds of this client, see WithLineLimit. The
	// connection has ended.
	ErrMessageTooLarge = errors.New("a QMP message is larger than this client accepts")
	// ErrEventsLost: a subscription has ended, because its events came faster than they were read.
	ErrEventsLost = errors.New("QMP events were lost: they came faster than they were read")
	// ErrEncode: a command's arguments cannot be encoded; nothing was sent.
	ErrEncode = errors.New("cannot encode QMP command")
	// ErrFileUnsupported: Command.File was set on a transport that cannot pass
	// descriptors; nothing was sent. Check PassesFiles before.
	ErrFileUnsupported = errors.New("this QMP transport cannot pass file descriptors")
	// ErrFileWithSecret: a command with a File carried a Sensitive value over a Transport, which may expose
	// it when it passes the file; nothing was sent.
	ErrFileWithSecret = errors.New("a command that another program passes on must not hold a secret")
	// ErrNotSent is wrapped by the errors of a Transport which mean that QEMU did not get the command.
	ErrNotSent = errors.New("the command has not reached QEMU")
)

// Error is QEMU's refusal of a command: it was executed, and failed.
//
// errors.Is matches it against the sentinels ErrNodeNotFound and so on.
type Error struct {
	Command     string // the command, for example "blockdev-add"
	Class       string // QEMU's error class, nearly always "GenericError"
	Description string // QEMU's own text, scrubbed of the command's secrets
}

// Error names the command and gives QEMU's own words.
func (e *Error) Error() string {
	if e.Class == "" || e.Class == genericError {
		return fmt.Sprintf("QEMU refused %s: %s", e.Command, e.Description)
	}
	return fmt.Sprintf("QEMU refused %s: %s (%s)", e.Command, e.Description, e.Class)
}

// UnknownOutcomeError says that a command, or a part of it, was sent, and that no answer came. QEMU may have
// executed it, may still execute it, or may never do so: query QEMU for what exists, unless the command is a
// Query.
type UnknownOutcomeError struct {
	Command string
	Err     error // the cause: a context's error, ErrConnectionLost, ErrClosed, ...
}

// Query reports whether the command changes nothing, whatever QEMU has done with it.
func (e *UnknownOutcomeError) Query() bool {
	switch e.Command {
	case "qom-list", "qom-get", "qom-list-types", "qom-list-properties", "device-list-properties", "qmp_capabilities":
		return true
	}
	return strings.HasPrefix(e.Command, "query-") || strings.HasPrefix(e.Command, "x-debug-query-")
}

// Error names the command and the cause.
func (e *UnknownOutcomeError) Error() string {
	if e.Query() {
		return fmt.Sprintf("QEMU has not answered %s: %v", e.Command, e.Err)
	}
	return fmt.Sprintf("QEMU has not answered %s, and may or may not have executed it: %v", e.Command, e.Err)
}

// Unwrap returns the cause.
func (e *UnknownOutcomeError) Unwrap() error { return e.Err }

// notSent wraps the reason why a command never left this process.
func notSent(command string, cause error) error {
	return fmt.Errorf("%s was not sent: %w", command, cause)
}
