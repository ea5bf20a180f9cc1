package qapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Redacted replaces a secret in every rendering but that for the wire.
const Redacted = "[redacted]"

// maxDepth bounds the nesting. QEMU's own parser refuses more than 1024 levels
// (qobject/json-streamer.c); a value that contains itself ends here.
const maxDepth = 1000

// slack is the room kept for what is appended without a call of grow: punctuation and numbers.
const slack = 64

// EncodeError says which value of an Object cannot be encoded.
type EncodeError struct {
	Path   string // for example "file.filename" or "children[1]"
	Reason string // for example "is given twice"
}

// Error names the value and the reason.
func (e *EncodeError) Error() string { return fmt.Sprintf("argument %q %s", e.Path, e.Reason) }

// within returns e with its path seen from the enclosing value.
func (e *EncodeError) within(outer string) *EncodeError {
	if e.Path != "" && !strings.HasPrefix(e.Path, "[") {
		outer += "."
	}
	return &EncodeError{Path: outer + e.Path, Reason: e.Reason}
}

func cannotEncode(format string, args ...any) *EncodeError {
	return &EncodeError{Reason: fmt.Sprintf(format, args...)}
}

// MarshalJSON renders the object with every secret as "[redacted]". The error is an [*EncodeError].
func (o Object) MarshalJSON() ([]byte, error) {
	e := encoder{redact: true}
	if err := e.object(o, 0); err != nil {
		return nil, err
	}
	return e.buf, nil
}

// String renders the object as MarshalJSON does.
func (o Object) String() string {
	text, err := o.MarshalJSON()
	if err != nil {
		return "invalid object: " + err.Error()
	}
	return string(text)
}

// Line encodes the object as QEMU reads it: one line, ending in a newline, with the value of each Sensitive.
// It returns those values as well, in their order and not copied. If there are any, the caller wipes the
// line, which is the only copy that Line leaves. The error is an [*EncodeError].
func Line(o Object) (line []byte, secrets [][]byte, err error) {
	e := encoder{buf: make([]byte, 0, 256)}
	if err := e.object(o, 0); err != nil {
		clear(e.buf)
		return nil, nil, err
	}
	e.grow(1)
	return append(e.buf, '\n'), e.secrets, nil
}

// encoder appends JSON to buf. It exists instead of encoding/json for three reasons: member order, the closed
// set of types, and two renderings (the wire and the redacted one) that cannot drift apart.
type encoder struct {
	buf     []byte
	redact  bool
	secrets [][]byte // values of the Sensitive members met, in order
}

func (e *encoder) value(v any, depth int) *EncodeError {
	if depth > maxDepth {
		return cannotEncode("is nested more than %d levels deep; does it contain itself?", maxDepth)
	}
	e.grow(slack)
	switch v := v.(type) {
	case nil:
		e.buf = append(e.buf, "null"...)
	case bool:
		e.buf = strconv.AppendBool(e.buf, v)
	case string:
		return e.string(v)
	case Sensitive:
		return e.sensitive(v)
	case interface{ placeholder() }:
		if !e.redact {
			return cannotEncode("stands for a secret, whose value was not put in")
		}
		return e.string(Redacted)
	case json.Number:
		if !validNumber(v) {
			return cannotEncode("is a json.Number that is no JSON number")
		}
		e.grow(len(v) + slack)
		e.buf = append(e.buf, v...)
	case json.RawMessage:
		return e.raw(v)
	case Object:
		return e.object(v, depth)
	case map[string]any:
		return e.object(Sorted(v), depth)
	case []any:
		return appendArray(e, v, depth)
	case []string:
		return appendArray(e, v, depth)
	default:
		n, ok := number(v)
		if f, float := v.(float64); float && !ok {
			return cannotEncode("is %v, which JSON cannot express", f)
		}
		if !ok {
			return cannotEncode("has type %T; use a basic type, Object, map[string]any, []any, []string, json.RawMessage or Sensitive", v)
		}
		e.buf = append(e.buf, n...)
	}
	return nil
}

// number renders a value of any of Go's predeclared integer types, or a float64 that JSON
// can express. It reports false for every other value.
func number(v any) (json.Number, bool) {
	r := reflect.ValueOf(v)
	switch f, float := v.(float64); {
	case float && !math.IsNaN(f) && !math.IsInf(f, 0):
		return json.Number(strconv.FormatFloat(f, 'g', -1, 64)), true
	case float, !r.IsValid(), r.Type().PkgPath() != "", r.Kind() == reflect.Uintptr:
		return "", false
	case r.CanInt():
		return json.Number(strconv.FormatInt(r.Int(), 10)), true
	case r.CanUint():
		return json.Number(strconv.FormatUint(r.Uint(), 10)), true
	}
	return "", false
}

func (e *encoder) object(o Object, depth int) *EncodeError {
	e.buf = append(e.buf, '{')
	for i, m := range o {
		// Objects are small: comparing beats the allocation of a set.
		for _, earlier := range o[:i] {
			if earlier.Name == m.Name {
				return cannotEncode("is given twice").within(m.Name)
			}
		}
		if i > 0 {
			e.buf = append(e.buf, ',')
		}
		err := e.string(m.Name)
		if err == nil {
			e.buf = append(e.buf, ':')
			err = e.value(m.Value, depth+1)
		}
		if err != nil {
			return err.within(m.Name)
		}
	}
	e.buf = append(e.buf, '}')
	return nil
}

func appendArray[T any](e *encoder, values []T, depth int) *EncodeError {
	e.buf = append(e.buf, '[')
	for i, v := range values {
		if i > 0 {
			e.buf = append(e.buf, ',')
		}
		if err := e.value(v, depth+1); err != nil {
			return err.within("[" + strconv.Itoa(i) + "]")
		}
	}
	e.buf = append(e.buf, ']')
	return nil
}

func (e *encoder) sensitive(s Sensitive) *EncodeError {
	if s.get == nil {
		return cannotEncode("is a zero Sensitive; make it with NewSensitive")
	}
	if e.redact {
		return e.string(Redacted)
	}
	value := s.get()
	if !utf8.Valid(value) {
		return cannotEncode("is a Sensitive value that is not valid UTF-8; encode it as base64")
	}
	if len(value) > 0 {
		e.secrets = append(e.secrets, value)
	}
	// Growing buf would leave copies of the secret in memory that are not wiped
	// later, so room is made first (an escape needs at most six bytes).
	e.grow(6*len(value) + slack)
	e.buf = AppendQuoted(e.buf, value)
	return nil
}

// grow makes room for n more bytes and wipes the buffer it leaves behind when that may hold a secret.
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

func (e *encoder) string(s string) *EncodeError {
	// encoding/json would silently replace invalid bytes, and a file name with them would name another file.
	if !utf8.ValidString(s) {
		return cannotEncode("is not valid UTF-8, and QMP carries nothing else")
	}
	e.grow(6*len(s) + slack)
	e.buf = AppendQuoted(e.buf, s)
	return nil
}

func (e *encoder) raw(raw json.RawMessage) *EncodeError {
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return cannotEncode("is a json.RawMessage that is no JSON (%v)", err)
	}
	if !utf8.Valid(compact.Bytes()) {
		return cannotEncode("is not valid UTF-8, and QMP carries nothing else")
	}
	e.grow(compact.Len() + slack)
	e.buf = append(e.buf, compact.Bytes()...)
	return nil
}

// AppendQuoted appends text, which is valid UTF-8, as a JSON string. Like encoding/json
// it escapes <, > and &, and it also escapes every character that is not printable, such as
// DEL, C1 and those that change the direction of text: the JSON is shown to people, and a
// shell reads it.
func AppendQuoted[T string | []byte](buf []byte, text T) []byte {
	const hex, special, letters = "0123456789abcdef", "\"\\\b\f\n\r\t", `"\bfnrt`
	buf = append(buf, '"')
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c >= utf8.RuneSelf {
			var start [utf8.UTFMax]byte // text may be a secret, of which no copy may stay in the heap
			r, size := utf8.DecodeRune(start[:copy(start[:], text[i:])])
			if strconv.IsPrint(r) {
				buf = append(buf, text[i:i+size]...)
			} else {
				buf = appendEscaped(buf, r)
			}
			i += size - 1
		} else if n := strings.IndexByte(special, c); n >= 0 {
			buf = append(buf, '\\', letters[n])
		} else if c < 0x20 || c == 0x7f || c == '<' || c == '>' || c == '&' {
			buf = append(buf, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		} else {
			buf = append(buf, c)
		}
	}
	return append(buf, '"')
}

// appendEscaped appends a character as JSON's \u escapes, beyond U+FFFF as two.
func appendEscaped(buf []byte, r rune) []byte {
	high, low := utf16.EncodeRune(r)
	if high == utf8.RuneError {
		return fmt.Appendf(buf, "\\u%04x", r)
	}
	return fmt.Appendf(buf, "\\u%04x\\u%04x", high, low)
}

// validNumber reports whether n is a number in JSON's grammar (RFC 8259, section 6).
func validNumber(n json.Number) bool {
	if n == "" || (n[0] != '-' && (n[0] < '0' || n[0] > '9')) {
		return false
	}
	last := n[len(n)-1]
	return last >= '0' && last <= '9' && json.Valid([]byte(n))
}

// Sorted returns the members of m, sorted by name.
func Sorted(m map[string]any) Object {
	o := make(Object, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		o = append(o, Member{name, m[name]})
	}
	return o
}
