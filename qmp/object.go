package qmp

import "github.com/luksplug/luksplug/internal/qapi"

// Object is a JSON object whose members keep their order: the same Object always gives
// the same bytes. It is the type of the same name in package blockgraph.
//
// A member's value may be nil, a bool, a string, any integer or unsigned integer type, a float64, a
// json.Number, an Object, a map[string]any (written sorted by key), a []any, a []string, a json.RawMessage,
// or a Sensitive. Everything else, structs and pointers among them, is refused with ErrEncode when the
// command is executed: nothing that could hide a secret from redaction by type is ever encoded.
//
// String and MarshalJSON render it with every secret as "[redacted]".
type Object = qapi.Object

// Member is one name and value of an Object.
type Member = qapi.Member

// Sensitive is a string argument that is real on the wire only. Every other rendering of it is "[redacted]":
// all verbs of fmt, JSON, text, slog and logrus. Its zero value is not usable: encoding it is an error.
type Sensitive = qapi.Sensitive

// NewSensitive wraps value, which must be valid UTF-8 (in practice base64) and is sent as
// a JSON string. The slice is kept, not copied, so that its owner can wipe it, which must
// not happen before the Execute that carries it has returned.
func NewSensitive(value []byte) Sensitive { return qapi.NewSensitive(value) }
