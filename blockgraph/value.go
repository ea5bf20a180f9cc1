package blockgraph

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/luksplug/luksplug/secrets"
)

// Object is a JSON object whose members keep their order, so that the same
// plan always prints the same bytes.
//
// The values are nil, bool, string, int, int64, uint64, Object, []any (of the
// same kinds) and SecretData.
type Object []Member

// Member is one name and value of an Object.
type Member struct {
	Name  string
	Value any
}

// SecretData stands where the value of a secret goes. A plan holds no secret
// value; the executor puts it in at the last moment. It prints as
// "[redacted]".
type SecretData struct {
	// Ref names the secret.
	Ref secrets.Reference
	// Text is the secret itself, where the XML has it; Ref is then empty.
	Text SecretText
	// Object is the id of the object that holds the value.
	Object string
	// OneTime: the value is not the secret itself, but the one-time passphrase
	// of an ephemeral header. With an empty Ref it is that of an overlay, see
	// [Overlay].
	OneTime bool
}

// Kept tells whether the value, or what it is derived from, is in a key store: Ref
// names it there.
func (d SecretData) Kept() bool { return d.Ref != (secrets.Reference{}) }

// Redacted is what stands for a secret value in everything that is printed.
const Redacted = "[redacted]"

// String returns "[redacted]".
func (SecretData) String() string { return Redacted }

// SecretText is a secret that stands in the XML, such as a cookie. It prints as
// "[redacted]" in every verb of fmt, and in JSON.
type SecretText string

// Format implements [fmt.Formatter].
func (SecretText) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(Redacted)) } // fmt has nobody to tell

// MarshalText implements [encoding.TextMarshaler].
func (SecretText) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// Get returns the value of the member called name, nil when there is none.
func (o Object) Get(name string) any {
	for _, m := range o {
		if m.Name == name {
			return m.Value
		}
	}
	return nil
}

// Text returns the member called name if it is a string, "" otherwise.
func (o Object) Text(name string) string {
	s, _ := o.Get(name).(string)
	return s
}

// With returns a copy of o with the member name set to value: replaced where
// it stands, or added at the end.
func (o Object) With(name string, value any) Object {
	out := make(Object, 0, len(o)+1)
	found := false
	for _, m := range o {
		if m.Name == name {
			m.Value, found = value, true
		}
		out = append(out, m)
	}
	if !found {
		out = append(out, Member{name, value})
	}
	return out
}

// Without returns a copy of o that lacks the member name.
func (o Object) Without(name string) Object {
	out := make(Object, 0, len(o))
	for _, m := range o {
		if m.Name != name {
			out = append(out, m)
		}
	}
	return out
}

// MarshalJSON writes the members in their order, secret values redacted. A
// value of a kind that an Object does not hold is an error.
func (o Object) MarshalJSON() ([]byte, error) { return appendJSON(nil, o) }

// Has tells whether there is a member called name.
func (o Object) Has(name string) bool {
	return slices.ContainsFunc(o, func(m Member) bool { return m.Name == name })
}

func (o Object) String() string {
	b, err := appendJSON(nil, o)
	if err != nil {
		return "invalid object: " + err.Error()
	}
	return string(b)
}

func (o *Object) add(name string, value any) { *o = append(*o, Member{name, value}) }

// addText adds a member unless its value is empty: most settings of a disk are
// absent, and QEMU's own default is then what libvirt would get as well.
func (o *Object) addText(name, value string) {
	if value != "" {
		o.add(name, value)
	}
}

// addNumber adds a member unless its value is 0.
func (o *Object) addNumber(name string, value uint) {
	if value != 0 {
		o.add(name, int(value))
	}
}

// addSwitch adds a member unless the switch is left to QEMU.
func (o *Object) addSwitch(name string, s Switch) {
	if s != "" {
		o.add(name, s == On)
	}
}

func appendJSON(dst []byte, value any) ([]byte, error) {
	switch v := value.(type) {
	case nil:
		return append(dst, "null"...), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case int:
		return strconv.AppendInt(dst, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(dst, v, 10), nil
	case uint64:
		return strconv.AppendUint(dst, v, 10), nil
	case string:
		return appendString(dst, v)
	case SecretData:
		return append(dst, `"`+Redacted+`"`...), nil
	case Object:
		dst = append(dst, '{')
		for i, m := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			var err error
			if dst, err = appendString(dst, m.Name); err != nil {
				return nil, err
			}
			dst = append(dst, ':')
			if dst, err = appendJSON(dst, m.Value); err != nil {
				return nil, fmt.Errorf("%s: %w", m.Name, err)
			}
		}
		return append(dst, '}'), nil
	case []any:
		dst = append(dst, '[')
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			var err error
			if dst, err = appendJSON(dst, e); err != nil {
				return nil, err
			}
		}
		return append(dst, ']'), nil
	default:
		return nil, fmt.Errorf("blockgraph: a value of type %T has no place in a plan", value)
	}
}

// appendString writes s as a JSON string. Plain text, which is nearly all that
// a plan holds, is copied; everything else goes through encoding/json.
func appendString(dst []byte, s string) ([]byte, error) {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			return appendEscaped(dst, s)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"'), nil
}

func appendEscaped(dst []byte, s string) ([]byte, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return append(dst, b...), nil
}
