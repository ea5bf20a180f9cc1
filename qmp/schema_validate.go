package qmp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/internal/qapi"
)

// maxUnions bounds how often a union's variant is a union itself. QEMU's deepest
// is 2; a schema that leads back to itself ends here.
const maxUnions = 8

// ArgumentError says which argument of a command QEMU would refuse, and why.
type ArgumentError struct {
	Command string
	Path    string // for example "file.filename" or "levels[2]"; empty for the command itself
	Reason  string
}

// Error names the command and the argument.
func (e *ArgumentError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("%s: %s", e.Command, e.Reason)
	}
	return fmt.Sprintf("%s: argument %q: %s", e.Command, e.Path, e.Reason)
}

// Validate checks a command's name and all its arguments: mandatory, unknown and duplicate members, types,
// enumeration values, variants, alternates, arrays. The error is an *ArgumentError for the first fault found;
// it never shows an argument's value unless the value selects among names that QEMU knows.
//
// The members of device_add that belong to the device are not checked, since
// the schema does not have them. A Sensitive counts as a string.
func (s *Schema) Validate(command string, args Object) error {
	t, ok := s.commands[command]
	if !ok {
		return &ArgumentError{Command: command, Reason: "this QEMU has no such command"}
	}
	// The schema does not have the device's own properties ('gen': false in QEMU's qapi/qdev.json).
	v := validator{open: command == "device_add"}
	if fault := v.object(t, "", args, 0); fault != nil {
		fault.Command = command
		return fault
	}
	return nil
}

type validator struct {
	open bool // unknown members of the outermost object are accepted
}

func fault(path, format string, args ...any) *ArgumentError {
	return &ArgumentError{Path: path, Reason: fmt.Sprintf(format, args...)}
}

// value checks v against t. Its result is nil or the fault.
func (v validator) value(t *schemaType, path string, value any, depth int) *ArgumentError {
	if depth > qapi.MaxDepth {
		return fault(path, "is nested more than %d levels deep", qapi.MaxDepth)
	}
	value, bad := normalize(path, value)
	if bad != nil {
		return bad
	}
	switch t.meta {
	case metaBuiltin:
		if kind := kindOf(value); !accepts(t.json, kind) {
			return fault(path, "is %s, QEMU wants %s", kind, t.json)
		}
	case metaEnum:
		return enum(t, path, value)
	case metaArray:
		list, ok := value.([]any)
		if !ok {
			return fault(path, "is %s, QEMU wants an array", kindOf(value))
		}
		for i, element := range list {
			if bad := v.value(t.element, fmt.Sprintf("%s[%d]", path, i), element, depth+1); bad != nil {
				return bad
			}
		}
	case metaObject:
		o, ok := value.(Object)
		if !ok {
			return fault(path, "is %s, QEMU wants an object", kindOf(value))
		}
		return v.object(t, path, o, depth+1)
	case metaAlternate:
		return v.alternate(t, path, value, depth)
	}
	return nil
}

// object checks o against t, its variants included.
func (v validator) object(t *schemaType, path string, o Object, depth int) *ArgumentError {
	given := make(map[string]any, len(o))
	for _, m := range o {
		if _, twice := given[m.Name]; twice {
			return fault(joinPath(path, m.Name), "is given twice")
		}
		given[m.Name] = m.Value
	}
	known := make(map[string]*schemaMember)
	for level, unions := t, 0; level != nil && unions < maxUnions; unions++ {
		for i := range level.members {
			m := &level.members[i]
			known[m.name] = m
			if _, ok := given[m.name]; !ok && !m.optional {
				return fault(joinPath(path, m.name), "is missing")
			}
		}
		if level.tag == "" {
			break
		}
		// The variant may be a union again, hence the loop.
		next, bad := variant(level, path, given)
		if bad != nil {
			return bad
		}
		level = next
	}
	for _, m := range o { // in o's order, so that the first fault is always the same one
		inner := joinPath(path, m.Name)
		member, ok := known[m.Name]
		switch {
		case ok:
			if bad := v.value(member.typ, inner, m.Value, depth); bad != nil {
				return bad
			}
		case !v.open || path != "":
			return fault(inner, "is not known to this QEMU")
		}
	}
	return nil
}

// variant returns the type whose members the tag's value adds, or nil.
func variant(t *schemaType, path string, given map[string]any) (*schemaType, *ArgumentError) {
	tag := t.member(t.tag)
	value, ok := given[t.tag]
	if tag == nil || !ok {
		return nil, nil // a missing tag that is mandatory has been found already
	}
	value, bad := normalize(joinPath(path, t.tag), value)
	if bad != nil {
		return nil, bad
	}
	if bad := enum(tag.typ, joinPath(path, t.tag), value); bad != nil {
		return nil, bad
	}
	name, _ := value.(string) // enum has checked it
	return t.variants[name], nil
}

func enum(t *schemaType, path string, value any) *ArgumentError {
	text, ok := value.(string)
	if !ok {
		return fault(path, "is %s, QEMU wants one of %s", kindOf(value), names(t.values))
	}
	if !slices.Contains(t.values, text) {
		return fault(path, "is %q, this QEMU knows %s", text, names(t.values))
	}
	return nil
}

// alternate checks value against the branch for its JSON kind; two branches of
// one kind (a string and an enumeration) are tried in turn.
func (v validator) alternate(t *schemaType, path string, value any, depth int) *ArgumentError {
	var first *ArgumentError
	var kinds []string
	for _, branch := range t.branches {
		kinds = append(kinds, branch.kind())
		if !accepts(branch.kind(), kindOf(value)) {
			continue
		}
		bad := v.value(branch, path, value, depth+1)
		if bad == nil {
			return nil
		}
		if first == nil {
			first = bad
		}
	}
	if first != nil {
		return first
	}
	return fault(path, "is %s, QEMU wants one of: %s", kindOf(value), strings.Join(kinds, ", "))
}

// kind returns the JSON kind of the type's values.
func (t *schemaType) kind() string {
	switch t.meta {
	case metaEnum:
		return "string"
	case metaBuiltin:
		return t.json
	default:
		return string(t.meta) // object, array
	}
}

// normalize turns a value into nil, bool, string, Sensitive, json.Number,
// Object or []any; elements of those are not normalized yet.
func normalize(path string, value any) (any, *ArgumentError) {
	switch v := value.(type) {
	case nil, bool, string, Sensitive, json.Number, Object, []any:
		return value, nil
	case map[string]any:
		return qapi.Sorted(v), nil
	case []string:
		list := make([]any, len(v))
		for i, s := range v {
			list[i] = s
		}
		return list, nil
	case json.RawMessage:
		decoder := json.NewDecoder(bytes.NewReader(v))
		decoder.UseNumber()
		var decoded any
		if err := decoder.Decode(&decoded); err != nil || decoder.More() {
			return nil, fault(path, "is a json.RawMessage that is no JSON")
		}
		return normalize(path, decoded)
	}
	if number, ok := qapi.Number(value); ok {
		return number, nil
	}
	return nil, fault(path, "has a type that cannot be sent: %T", value)
}

// kindOf returns the JSON kind of a normalized value. QEMU distinguishes an integer
// from another number by its spelling (qobject/json-lexer.c).
func kindOf(value any) string {
	switch v := value.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string, Sensitive:
		return "string"
	case json.Number:
		if strings.ContainsAny(string(v), ".eE") {
			return "number"
		}
		return "int"
	case Object:
		return "object"
	case []any:
		return "array"
	}
	return "unknown"
}

// accepts reports whether a type of kind want takes values of kind got.
func accepts(want, got string) bool {
	return want == got || want == "value" || want == "number" && got == "int"
}

// names lists the values of an enumeration, or the first few of many.
func names(values []string) string {
	const few = 12
	if len(values) > few {
		return fmt.Sprintf("%s and %d more", strings.Join(values[:few], ", "), len(values)-few)
	}
	return strings.Join(values, ", ")
}

func joinPath(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
