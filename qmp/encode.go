package qmp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"sort"
	"strconv"
	"unicode/utf8"
)

// redacted is what every rendering of a secret but the wire shows.
const redacted = "[redacted]"

// maxDepth bounds the nesting of arguments. QEMU's own parser refuses more than
// 1024 levels (qobject/json-streamer.c); a value that contains itself ends here.
const maxDepth = 1000

// slack is the room kept for what is appended without asking: punctuation and
// numbers.
const slack = 64

// Object is a JSON object whose members keep their order: the same Object
// always gives the same bytes.
//
// A member's value may be nil, a bool, a string, any integer or unsigned
// integer type, a float64, a json.Number, an Object, a map[string]any (written
// sorted by key), a []any, a []string, a json.RawMessage, or a Sensitive.
// Everything else, structs and pointers among them, is refused with ErrEncode
// when the command is executed: nothing that could hide a secret from redaction
// by type is ever encoded.
type Object []Member

// Member is one name and value of an Object.
type Member struct {
	Name  string
	Value any
}

// MarshalJSON renders the object with every Sensitive value as "[redacted]".
func (o Object) MarshalJSON() ([]byte, error) {
	e := encoder{redact: true}
	if err := e.object("", o, 0); err != nil {
		return nil, err
	}
	return e.buf, nil
}

// String renders the object as MarshalJSON does.
func (o Object) String() string {
	text, err := o.MarshalJSON()
	if err != nil {
		return "[" + err.Error() + "]"
	}
	return string(text)
}

// encoder appends JSON to buf. It exists instead of encoding/json for three
// reasons: member order, the closed set of types, and two renderings (the wire
// and the redacted one) that cannot drift apart.
type encoder struct {
	buf     []byte
	redact  bool
	secrets [][]byte // values of the Sensitive members met, in order
}

// value appends v, found at path.
func (e *encoder) value(path string, v any, depth int) error {
	if depth > maxDepth {
		return encodeError(path, "is nested more than %d levels deep; does it contain itself?", maxDepth)
	}
	e.grow(slack)
	switch v := v.(type) {
	case nil:
		e.buf = append(e.buf, "null"...)
	case bool:
		e.buf = strconv.AppendBool(e.buf, v)
	case string:
		return e.string(path, v)
	case Sensitive:
		return e.sensitive(path, v)
	case float64:
		return e.float(path, v)
	case json.Number:
		if !validNumber(v) {
			return encodeError(path, "is a json.Number that is no JSON number")
		}
		e.grow(len(v) + slack)
		e.buf = append(e.buf, v...)
	case json.RawMessage:
		return e.raw(path, v)
	case Object:
		return e.object(path, v, depth)
	case map[string]any:
		return e.object(path, sortedObject(v), depth)
	case []any:
		return appendArray(e, path, v, depth)
	case []string:
		return appendArray(e, path, v, depth)
	default:
		number, ok := integer(v)
		if !ok {
			return encodeError(path, "has type %T; use a basic type, Object, map[string]any, []any, []string, json.RawMessage or Sensitive", v)
		}
		e.buf = append(e.buf, number...)
	}
	return nil
}

// integer renders any of Go's predeclared integer types.
func integer(v any) (string, bool) {
	switch v := v.(type) {
	case int:
		return strconv.FormatInt(int64(v), 10), true
	case int8:
		return strconv.FormatInt(int64(v), 10), true
	case int16:
		return strconv.FormatInt(int64(v), 10), true
	case int32:
		return strconv.FormatInt(int64(v), 10), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case uint:
		return strconv.FormatUint(uint64(v), 10), true
	case uint8:
		return strconv.FormatUint(uint64(v), 10), true
	case uint16:
		return strconv.FormatUint(uint64(v), 10), true
	case uint32:
		return strconv.FormatUint(uint64(v), 10), true
	case uint64:
		return strconv.FormatUint(v, 10), true
	}
	return "", false
}

func (e *encoder) object(path string, o Object, depth int) error {
	e.buf = append(e.buf, '{')
	for i, m := range o {
		inner := joinPath(path, m.Name)
		// Objects are small: comparing beats the allocation of a set.
		for _, earlier := range o[:i] {
			if earlier.Name == m.Name {
				return encodeError(inner, "is given twice")
			}
		}
		if i > 0 {
			e.buf = append(e.buf, ',')
		}
		if err := e.string(inner, m.Name); err != nil {
			return err
		}
		e.buf = append(e.buf, ':')
		if err := e.value(inner, m.Value, depth+1); err != nil {
			return err
		}
	}
	e.buf = append(e.buf, '}')
	return nil
}

func appendArray[T any](e *encoder, path string, values []T, depth int) error {
	e.buf = append(e.buf, '[')
	for i, v := range values {
		if i > 0 {
			e.buf = append(e.buf, ',')
		}
		if err := e.value(indexPath(path, i), v, depth+1); err != nil {
			return err
		}
	}
	e.buf = append(e.buf, ']')
	return nil
}

func (e *encoder) sensitive(path string, s Sensitive) error {
	value, err := s.reveal()
	if err != nil {
		return encodeError(path, "%v", err)
	}
	if e.redact {
		return e.string(path, redacted)
	}
	if !utf8.Valid(value) {
		return encodeError(path, "is a Sensitive value that is not valid UTF-8; encode it as base64")
	}
	if len(value) > 0 {
		e.secrets = append(e.secrets, value)
	}
	// Growing buf would leave copies of the secret in memory that nobody wipes
	// later, so room is made first (an escape needs at most six bytes).
	e.grow(6*len(value) + slack)
	e.buf = appendQuoted(e.buf, value)
	return nil
}

// grow makes room for n more bytes and wipes the buffer it leaves behind when
// that may hold a secret.
func (e *encoder) grow(n int) {
	if cap(e.buf)-len(e.buf) >= n {
		return
	}
	old := e.buf
	e.buf = append(make([]byte, 0, 2*cap(old)+n), old...)
	if len(e.secrets) > 0 {
		clear(old)
	}
}

func (e *encoder) string(path, s string) error {
	// encoding/json would replace invalid bytes silently, and a file name that
	// has them would name another file.
	if !utf8.ValidString(s) {
		return encodeError(path, "is not valid UTF-8, and QMP carries nothing else")
	}
	e.grow(6*len(s) + slack)
	e.buf = appendQuoted(e.buf, s)
	return nil
}

func (e *encoder) float(path string, f float64) error {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return encodeError(path, "is %v, which JSON cannot express", f)
	}
	e.buf = strconv.AppendFloat(e.buf, f, 'g', -1, 64)
	return nil
}

func (e *encoder) raw(path string, raw json.RawMessage) error {
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return encodeError(path, "is a json.RawMessage that is no JSON (%v)", err)
	}
	if !utf8.Valid(compact.Bytes()) {
		return encodeError(path, "is not valid UTF-8, and QMP carries nothing else")
	}
	e.grow(compact.Len() + slack)
	e.buf = append(e.buf, compact.Bytes()...)
	return nil
}

// appendQuoted appends text, which is valid UTF-8, as a JSON string.
func appendQuoted[T string | []byte](buf []byte, text T) []byte {
	const hex = "0123456789abcdef"
	buf = append(buf, '"')
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"' || c == '\\':
			buf = append(buf, '\\', c)
		case c < 0x20 || c == 0x7f:
			buf = append(buf, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			buf = append(buf, c)
		}
	}
	return append(buf, '"')
}

// validNumber says whether n is a number in JSON's grammar (RFC 8259, section 6).
func validNumber(n json.Number) bool {
	if n == "" || (n[0] != '-' && (n[0] < '0' || n[0] > '9')) {
		return false
	}
	last := n[len(n)-1]
	return last >= '0' && last <= '9' && json.Valid([]byte(n))
}

func sortedObject(m map[string]any) Object {
	o := make(Object, 0, len(m))
	for name, value := range m {
		o = append(o, Member{Name: name, Value: value})
	}
	sort.Slice(o, func(i, j int) bool { return o[i].Name < o[j].Name })
	return o
}

func joinPath(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func indexPath(path string, i int) string {
	return path + "[" + strconv.Itoa(i) + "]"
}

func encodeError(path, format string, args ...any) error {
	return fmt.Errorf("%w: argument %q %s", ErrEncode, path, fmt.Sprintf(format, args...))
}
