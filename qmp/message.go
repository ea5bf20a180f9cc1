package qmp

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/internal/qapi"
)

// Command is one command for QEMU.
type Command struct {
	// Execute is the command's name, for example "blockdev-add".
	Execute string
	// Arguments are its arguments; none are sent when it is empty.
	Arguments Object
	// File, if set, is passed to QEMU together with this command (add-fd,
	// getfd), by SCM_RIGHTS (unix(7)). Not every client can: see PassesFiles.
	// The file stays the caller's, and may be closed when Execute has returned.
	File *os.File
}

// Result is the outcome of one command of ExecuteAll.
type Result struct {
	Value json.RawMessage // QEMU's "return" value; nil if Err is set
	Err   error           // see the package comment for the three outcomes
}

// idStyle is the form of a command's id.
type idStyle int

const (
	numericID idStyle = iota // our own sockets
	stringID                 // a Transport; go-qemu declares ids as strings and fails on numbers
	noID                     // WithoutIDs; libvirt adds an id itself and refuses a second one
)

// call is one command in progress.
type call struct {
	name    string
	id      uint64
	wire    []byte   // the command, ending in a newline; wiped after sending if it holds secrets
	shown   []byte   // the same, redacted and without the newline; nil unless traced
	secrets [][]byte // to scrub from the answer, longest first
	file    *os.File
	answer  chan answer // one answer, buffered: delivering it never waits
}

// answer is a reply, or the reason why there will be none.
type answer struct {
	message message
	lost    error
}

// newCall encodes cmd.
func newCall(cmd Command, id uint64, style idStyle, traced bool) (*call, error) {
	if cmd.Execute == "" {
		return nil, fmt.Errorf("%w: it has no name (Execute is empty)", ErrEncode)
	}
	c := &call{name: cmd.Execute, id: id, file: cmd.File, answer: make(chan answer, 1)}
	line := cmd.object(id, style)
	var err error
	if c.wire, c.secrets, err = qapi.Line(line); err == nil && traced {
		c.shown, err = line.MarshalJSON()
	}
	if err != nil {
		c.wipe()
		return nil, encodeError(cmd.Execute, err)
	}
	c.secrets = longestFirst(c.secrets)
	return c, nil
}

// object returns the JSON object that cmd is on the wire.
func (cmd Command) object(id uint64, style idStyle) Object {
	o := make(Object, 0, 3)
	o.Add("execute", cmd.Execute)
	if len(cmd.Arguments) > 0 {
		o.Add("arguments", cmd.Arguments)
	}
	switch style {
	case numericID:
		o.Add("id", id)
	case stringID:
		o.Add("id", strconv.FormatUint(id, 10))
	case noID:
	}
	return o
}

// encodeError names an argument as the caller does, without the object that it is wrapped in.
func encodeError(command string, err error) error {
	var fault *qapi.EncodeError
	if errors.As(err, &fault) {
		err = &qapi.EncodeError{Path: strings.TrimPrefix(fault.Path, "arguments."), Reason: fault.Reason}
	}
	return fmt.Errorf("%s: %w: %w", command, ErrEncode, err)
}

// wipe clears the encoded command if it holds a secret.
func (c *call) wipe() {
	if len(c.secrets) > 0 {
		clear(c.wire)
	}
}

// unknown is the error for a call that was sent and not answered.
func (c *call) unknown(cause error) error {
	return &UnknownOutcomeError{Command: c.name, Err: cause}
}

// result turns an answer into the caller's Result.
func (c *call) result(a answer) Result {
	switch {
	case a.lost != nil:
		return Result{Err: c.unknown(a.lost)}
	case a.message.Error != nil:
		return Result{Err: &Error{
			Command: c.name, Class: a.message.Error.Class, Description: a.message.Error.Description,
		}}
	}
	return Result{Value: a.message.Return}
}

// message is anything that QEMU sends (qmp-spec.rst, "Protocol Specification").
type message struct {
	Greeting *greeting       `json:"QMP"`
	ID       json.RawMessage `json:"id"`
	Return   json.RawMessage `json:"return"`
	Error    *refusal        `json:"error"`
	Event    string          `json:"event"`
}

type greeting struct {
	Version Version `json:"version"`
}

type refusal struct {
	Class       string `json:"class"`
	Description string `json:"desc"`
}

// parseMessage decodes one message, whose shape has been checked. It shares no memory with text.
func parseMessage(text []byte) (message, error) {
	var m message
	if err := json.Unmarshal(text, &m); err != nil {
		return message{}, fmt.Errorf("%w: a message is not a JSON object of QEMU's", ErrProtocol)
	}
	if m.Greeting == nil && m.Return == nil && m.Error == nil && m.Event == "" {
		return message{}, fmt.Errorf("%w: a message is neither reply, event nor greeting", ErrProtocol)
	}
	return m, nil
}

// callID returns the id of a reply to one of our numbered commands.
func (m *message) callID() (uint64, bool) {
	text := m.ID
	if len(text) >= 2 && text[0] == '"' {
		text = text[1 : len(text)-1]
	}
	id, err := strconv.ParseUint(string(text), 10, 64)
	return id, err == nil
}

// scrub removes the values of secrets from a reply, and then shortens an error's text: a cut through a secret
// would leave a part of it.
func (m *message) scrub(secrets [][]byte) {
	if len(secrets) > 0 {
		m.Return = scrubJSON(m.Return, secrets)
	}
	if m.Error != nil {
		m.Error.Description = shorten(string(scrubText([]byte(m.Error.Description), secrets)))
	}
}

// line renders a reply for the trace.
func (m *message) line() []byte {
	var buf []byte
	if m.Error != nil {
		buf = qapi.AppendQuoted(append(buf, `{"error":{"class":`...), m.Error.Class)
		buf = qapi.AppendQuoted(append(buf, `,"desc":`...), m.Error.Description)
		buf = append(buf, '}')
	} else {
		buf = append(append(buf, `{"return":`...), m.Return...)
	}
	if m.ID != nil {
		buf = append(append(buf, `,"id":`...), m.ID...)
	}
	return append(buf, '}')
}
