package luks

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
)

// decoder decodes LUKS2's JSON. It keeps the first error; after that all reads return
// zero values. encoding/json's struct decoding is not used because it matches names
// case-insensitively and accepts null for every type: a reader more lenient than
// cryptsetup could interpret a volume differently.
type decoder struct{ err error }

// object is a JSON object and its path, for messages: "keyslots.0.area".
type object struct {
	d      *decoder
	path   string
	fields map[string]json.RawMessage
}

func (d *decoder) fail(path, format string, args ...any) { d.record(ErrDamaged, path, format, args) }

func (d *decoder) refuse(path, format string, args ...any) {
	d.record(ErrUnsupported, path, format, args)
}

func (d *decoder) record(kind error, path, format string, args []any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: in its JSON area, %s %s", kind, path, fmt.Sprintf(format, args...))
	}
}

func (d *decoder) root(data []byte) object {
	o := object{d: d}
	if err := json.Unmarshal(data, &o.fields); err != nil || o.fields == nil {
		d.fail("the text", "is not a JSON object")
	}
	return o
}

func (o object) at(name string) string {
	if o.path == "" {
		return name
	}
	return o.path + "." + name
}

func (o object) has(name string) bool {
	_, ok := o.fields[name]
	return ok
}

// take decodes the field name, whose value begins with the character first, into
// the value that v points to.
func (o object) take(name string, first byte, v any) {
	if o.d.err != nil {
		return
	}
	raw := o.fields[name]
	switch {
	case raw == nil:
		o.d.fail(o.at(name), "is missing")
	case raw[0] != first:
		o.d.fail(o.at(name), "has the wrong type")
	default:
		if err := json.Unmarshal(raw, v); err != nil {
			o.d.fail(o.at(name), "has elements of the wrong type")
		}
	}
}

func (o object) object(name string) object {
	child := object{d: o.d, path: o.at(name)}
	o.take(name, '{', &child.fields)
	return child
}

func (o object) text(name string) string {
	var s string
	o.take(name, '"', &s)
	return s
}

func (o object) texts(name string) []string {
	var list []*string // pointers, to detect null
	o.take(name, '[', &list)
	texts := make([]string, 0, len(list))
	for _, s := range list {
		if s == nil {
			o.d.fail(o.at(name), "has an element null")
			return nil
		}
		texts = append(texts, *s)
	}
	return texts
}

// decimal returns a number that is written as a string, which LUKS2 does for numbers
// of more than 32 bits.
func (o object) decimal(name string) uint64 {
	s := o.text(name)
	if o.d.err != nil {
		return 0
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		o.d.fail(o.at(name), "is %q: a number is needed", s)
	}
	return n
}

// number returns a JSON number, which must be an unsigned integer of 32 bits.
func (o object) number(name string) uint32 {
	if o.d.err != nil {
		return 0
	}
	raw, ok := o.fields[name]
	if !ok {
		o.d.fail(o.at(name), "is missing")
		return 0
	}
	n, err := strconv.ParseUint(string(raw), 10, 32)
	if err != nil {
		o.d.fail(o.at(name), "is not a whole number of 32 bits")
	}
	return uint32(n)
}

// bytes returns the decoded bytes of a base64 string, at least one.
func (o object) bytes(name string) []byte {
	s := o.text(name)
	if o.d.err != nil {
		return nil
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) == 0 {
		o.d.fail(o.at(name), "is not base64")
	}
	return b
}
