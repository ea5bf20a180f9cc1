package qmp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
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
// enumeration values, variants, alternates, arrays, and that they can be sent. The error is an *ArgumentError for
// the first fault found; it never shows an argument's value unless the value selects among names that QEMU knows.
//
// The members of device_add that belong to the device are not checked, since the schema does not have them. A
// Sensitive counts as a string.
func (s *Schema) Validate(command string, args Object) error {
	t, ok := s.commands[command]
	if !ok {
		return &ArgumentError{Command: command, Reason: "this QEMU has no such command"}
	}
	text, err := args.MarshalJSON()
	var unsendable *qapi.EncodeError
	if errors.As(err, &unsendable) {
		return &ArgumentError{Command: command, Path: unsendable.Path, Reason: unsendable.Reason}
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var members map[string]any
	if err := decoder.Decode(&members); err != nil {
		return &ArgumentError{Command: command, Reason: err.Error()}
	}
	// The schema does not have the device's own properties ('gen': false in QEMU's qapi/qdev.json).
	v := validator{open: command == "device_add"}
	names := make([]string, len(args))
	for i, m := range args {
		names[i] = m.Name
	}
	if fault := v.object(t, "", names, members); fault != nil {
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

// value checks decoded JSON against t. Its result is nil or the fault.
func (v validator) value(t *schemaType, path string, value any) *ArgumentError {
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
			if bad := v.value(t.element, fmt.Sprintf("%s[%d]", path, i), element); bad != nil {
				return bad
			}
		}
	case metaObject:
		o, ok := value.(map[string]any)
		if !ok {
			return fault(path, "is %s, QEMU wants an object", kindOf(value))
		}
		return v.object(t, path, slices.Sorted(maps.Keys(o)), o)
	case metaAlternate:
		return v.alternate(t, path, value)
	}
	return nil
}

// object checks the members of an object against t, its variants included. names is the order in which unknown and
// invalid members are found.
func (v validator) object(t *schemaType, path string, names []string, given map[string]any) *ArgumentError {
	known := make(map[string]*schemaMember)
	for level, unions := t, 0; level != nil && unions < maxUnions; unions++ {
		for i := range level.members {
			m := &level.members[i]
			known[m.name] = m
			if _, ok := given[m.name]; !ok && !m.optional {
				return fault(joinPath(path, m.name), "is missing")
			}
		}
		// The variant that the tag's value adds may be a union again, hence the loop. A missing tag that is mandatory
		// has been found already.
		tag := level.member(level.tag)
		value, ok := given[level.tag]
		if tag == nil || !ok {
			break
		}
		if bad := enum(tag.typ, joinPath(path, level.tag), value); bad != nil {
			return bad
		}
		name, _ := value.(string) // enum has checked it
		level = level.variants[name]
	}
	for _, name := range names {
		inner := joinPath(path, name)
		if member, ok := known[name]; ok {
			if bad := v.value(member.typ, inner, given[name]); bad != nil {
				return bad
			}
		} else if !v.open || path != "" {
			return fault(inner, "is not known to this QEMU")
		}
	}
	return nil
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

// alternate checks value against the branch for its JSON kind; two branches of one kind (a string and an
// enumeration) are tried in turn.
func (v validator) alternate(t *schemaType, path string, value any) (first *ArgumentError) {
	var kinds []string
	for _, branch := range t.branches {
		kinds = append(kinds, branch.kind())
		if !accepts(branch.kind(), kindOf(value)) {
			continue
		}
		bad := v.value(branch, path, value)
		if bad == nil {
			return nil
		}
		if first == nil {
			first = bad
		}
	}
	if first == nil {
		first = fault(path, "is %s, QEMU wants one of: %s", kindOf(value), strings.Join(kinds, ", "))
	}
	return first
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

// kindOf returns the JSON kind of a decoded value. QEMU distinguishes an integer from another number by its
// spelling (qobject/json-lexer.c).
func kindOf(value any) string {
	switch v := value.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case json.Number:
		if strings.ContainsAny(string(v), ".eE") {
			return "number"
		}
		return "int"
	case []any:
		return "array"
	}
	return "object"
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
