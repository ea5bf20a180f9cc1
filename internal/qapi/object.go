package qapi

import "slices"

// Object is a JSON object whose members keep their order.
//
// A member's value may be nil, a bool, a string, any integer or unsigned integer type, a float64, a
// json.Number, an Object, a map[string]any (written sorted by key), a []any, a []string, a json.RawMessage, a
// [Sensitive], or of a type that embeds [Placeholder]. Every other type, structs and pointers among them, is
// refused with an [*EncodeError] when the object is encoded.
type Object []Member

// Member is one name and value of an Object. It is an alias so that the literal
// {"driver", "raw"} is not one of a foreign struct type, which go vet wants keyed.
type Member = struct {
	Name  string
	Value any
}

// Placeholder is embedded by a type whose values replace secrets. Such a value is shown as "[redacted]" and
// never sent: [Line] refuses it.
type Placeholder struct{}

func (Placeholder) placeholder() {}

func (o Object) index(name string) int {
	return slices.IndexFunc(o, func(m Member) bool { return m.Name == name })
}

// Get returns the value of the member called name, nil if there is none.
func (o Object) Get(name string) any {
	if i := o.index(name); i >= 0 {
		return o[i].Value
	}
	return nil
}

// Text returns the member called name if it is a string, "" otherwise.
func (o Object) Text(name string) string {
	s, _ := o.Get(name).(string)
	return s
}

// Has reports whether there is a member called name.
func (o Object) Has(name string) bool { return o.index(name) >= 0 }

// With returns a copy of o with the member name set to value: replaced in its place, or added at the end.
func (o Object) With(name string, value any) Object {
	out := slices.Clone(o)
	if i := o.index(name); i >= 0 {
		out[i].Value = value
		return out
	}
	return append(out, Member{name, value})
}

// Without returns a copy of o that lacks the member name.
func (o Object) Without(name string) Object {
	return slices.DeleteFunc(slices.Clone(o), func(m Member) bool { return m.Name == name })
}

// Add adds a member at the end.
func (o *Object) Add(name string, value any) { *o = append(*o, Member{name, value}) }

// AddText adds a member unless its value is empty: most settings of a disk are absent,
// and QEMU then uses its own default, as it does for libvirt.
func (o *Object) AddText(name, value string) {
	if value != "" {
		o.Add(name, value)
	}
}

// AddNumber adds a member unless its value is 0.
func (o *Object) AddNumber(name string, value uint) {
	if value != 0 {
		o.Add(name, int(value))
	}
}
