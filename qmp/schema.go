package qmp

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/internal/qapi"
)

// Schema is QEMU's description of its own commands (query-qmp-schema; the
// format is that of qapi/introspect.json). It does not change after it was
// parsed, and may be shared by any number of goroutines and clients.
type Schema struct {
	commands map[string]*schemaType // a command's arguments type, by the command's name
	events   map[string]struct{}
}

// metaType is the kind of a schema entity (introspect.json, SchemaMetaType).
type metaType string

const (
	metaBuiltin   metaType = "builtin"
	metaEnum      metaType = "enum"
	metaArray     metaType = "array"
	metaObject    metaType = "object"
	metaAlternate metaType = "alternate"
	metaCommand   metaType = "command"
	metaEvent     metaType = "event"
)

// schemaType is one type, with its references to other types resolved.
type schemaType struct {
	meta     metaType
	json     string         // builtin: "string", "int", "number", "boolean", "null", "value", ...
	values   []string       // enum, sorted
	element  *schemaType    // array
	members  []schemaMember // object
	tag      string         // object: the member whose value selects a variant
	variants map[string]*schemaType
	branches []*schemaType // alternate
	features []string      // object: abilities of the type that its members do not show
}

type schemaMember struct {
	name     string
	typ      *schemaType
	optional bool
}

func (t *schemaType) member(name string) *schemaMember {
	for i := range t.members {
		if t.members[i].name == name {
			return &t.members[i]
		}
	}
	return nil
}

// schemaEntity is one entry of the answer to query-qmp-schema (SchemaInfo).
type schemaEntity struct {
	Name     string          `json:"name"`
	MetaType metaType        `json:"meta-type"`
	JSONType string          `json:"json-type,omitempty"`
	Values   []string        `json:"values,omitempty"`
	Element  string          `json:"element-type,omitempty"`
	Members  []entityMember  `json:"members,omitempty"`
	Tag      string          `json:"tag,omitempty"`
	Variants []entityVariant `json:"variants,omitempty"`
	ArgType  string          `json:"arg-type,omitempty"`
	Features []string        `json:"features,omitempty"`
}

// allValues returns the values of an enumeration, sorted: QEMU 6.2 and later have them as members as well, and the list
// "values" is deprecated.
func (e *schemaEntity) allValues() []string {
	values := slices.Clone(e.Values)
	for _, m := range e.Members {
		values = append(values, m.Name)
	}
	slices.Sort(values)
	return slices.Compact(values)
}

type entityMember struct {
	Name    string          `json:"name,omitempty"`
	Type    string          `json:"type,omitempty"`
	Default json.RawMessage `json:"default,omitempty"` // present (as null): the member is optional
}

type entityVariant struct {
	Case string `json:"case"`
	Type string `json:"type"`
}

// ParseSchema parses the "return" value of query-qmp-schema. data may be kept
// in a file and used again for the same QEMU binary.
func ParseSchema(data []byte) (*Schema, error) {
	var entities []schemaEntity
	if err := qapi.Unmarshal(data, &entities); err != nil {
		return nil, fmt.Errorf("query-qmp-schema: %w: %w", ErrProtocol, err)
	}
	types := make(map[string]*schemaType, len(entities))
	for _, e := range entities {
		if e.MetaType != metaCommand && e.MetaType != metaEvent {
			types[e.Name] = &schemaType{meta: e.MetaType}
		}
	}
	r := schemaResolver{types: types}
	s := &Schema{commands: make(map[string]*schemaType), events: make(map[string]struct{})}
	for _, e := range entities {
		switch e.MetaType {
		case metaCommand:
			s.commands[e.Name] = r.lookup(e.Name, e.ArgType, metaObject)
		case metaEvent:
			s.events[e.Name] = struct{}{}
		default:
			r.fill(types[e.Name], e)
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	return s, nil
}

// schemaResolver turns type names into pointers, and keeps the first error.
type schemaResolver struct {
	types map[string]*schemaType
	err   error
}

// lookup finds the type that user refers to. It must be of one of the kinds, if any are given: QAPI has, for example,
// no arrays of arrays and no alternates of alternates, and a schema with them could have cycles.
func (r *schemaResolver) lookup(user, name string, kinds ...metaType) *schemaType {
	t, ok := r.types[name]
	switch {
	case r.err != nil:
	case !ok:
		r.err = fmt.Errorf("query-qmp-schema: %w: %q refers to type %q, which is missing", ErrProtocol, user, name)
	case len(kinds) > 0 && !slices.Contains(kinds, t.meta):
		r.err = fmt.Errorf("query-qmp-schema: %w: %q cannot refer to type %q, which is of kind %s",
			ErrProtocol, user, name, t.meta)
	}
	return t
}

func (r *schemaResolver) fill(t *schemaType, e schemaEntity) {
	t.json, t.tag = e.JSONType, e.Tag
	switch e.MetaType {
	case metaBuiltin:
	case metaArray:
		t.element = r.lookup(e.Name, e.Element, metaBuiltin, metaEnum, metaObject, metaAlternate)
	case metaEnum:
		t.values = e.allValues()
	case metaObject:
		t.members, t.features = nil, e.Features
		for _, m := range e.Members {
			t.members = append(t.members, schemaMember{
				name: m.Name, typ: r.lookup(e.Name, m.Type), optional: m.Default != nil,
			})
		}
		t.variants = make(map[string]*schemaType, len(e.Variants))
		for _, v := range e.Variants {
			t.variants[v.Case] = r.lookup(e.Name, v.Type, metaObject)
		}
		if tag := t.member(t.tag); t.tag != "" && r.err == nil && (tag == nil || tag.typ.meta != metaEnum) {
			r.err = fmt.Errorf("query-qmp-schema: %w: %q has no enumeration %q to choose a variant by", ErrProtocol, e.Name, t.tag)
		}
	case metaAlternate:
		t.branches = nil
		composed := map[metaType]bool{}
		for _, m := range e.Members {
			branch := r.lookup(e.Name, m.Type, metaBuiltin, metaEnum, metaArray, metaObject)
			if r.err != nil {
				return
			}
			// QAPI's branches differ in their JSON types. Two objects would have to be tried in turn, and so at
			// each level of an argument or a path: their power in time.
			if composed[branch.meta] && (branch.meta == metaArray || branch.meta == metaObject) {
				r.err = fmt.Errorf("query-qmp-schema: %w: %q has two branches of kind %s", ErrProtocol, e.Name, branch.meta)
				return
			}
			composed[branch.meta] = true
			t.branches = append(t.branches, branch)
		}
	default:
		if r.err == nil {
			r.err = fmt.Errorf("query-qmp-schema: %w: %q has the unknown meta-type %q", ErrProtocol, e.Name, e.MetaType)
		}
	}
}

// Supports reports whether this QEMU knows a command, and in it what path names: members, the values that select a
// variant, and the values of enumerations, joined by dots. Arrays are passed through. A last part that begins with a
// dollar sign is a feature of an object, which marks a member with extended meanings ("features" in
// docs/devel/qapi-code-gen).
//
//	s.Supports("blockdev-add", "")             // the command itself
//	s.Supports("blockdev-add", "luks")         // the driver
//	s.Supports("blockdev-add", "luks.header")  // its member
//	s.Supports("blockdev-add", "discard.unmap") // a value
//	s.Supports("blockdev-add", "virtio-blk-vhost-vdpa.$fdset") // a feature
//
// The arguments of device_add are not in the schema, except driver, bus and id.
func (s *Schema) Supports(command, path string) bool {
	args, ok := s.commands[command]
	if !ok || path == "" {
		return ok
	}
	return args.supports(strings.Split(path, "."), 0)
}

// HasEvent reports whether this QEMU can send the event.
func (s *Schema) HasEvent(name string) bool {
	_, ok := s.events[name]
	return ok
}

// maxHops bounds how many arrays and alternates lie between two members. QEMU
// has 2 at most; an alternate may hold an array of itself, so there is a bound.
const maxHops = 6

// supports looks for path in t, which lies hops arrays and alternates below the
// last part of the path that was found.
func (t *schemaType) supports(path []string, hops int) bool {
	if len(path) == 0 {
		return true
	}
	if hops > maxHops {
		return false
	}
	switch t.meta {
	case metaArray:
		return t.element.supports(path, hops+1)
	case metaEnum:
		return len(path) == 1 && slices.Contains(t.values, path[0])
	case metaAlternate:
		return slices.ContainsFunc(t.branches, func(branch *schemaType) bool { return branch.supports(path, hops+1) })
	case metaObject:
		if feature, ok := strings.CutPrefix(path[0], "$"); ok {
			return len(path) == 1 && slices.Contains(t.features, feature)
		}
		// A member and a variant may have one name ("file"): try both.
		if m := t.member(path[0]); m != nil && m.typ.supports(path[1:], 0) {
			return true
		}
		if variant, ok := t.variants[path[0]]; ok {
			// A variant's object has the common members as well.
			return variant.supports(path[1:], 0) || t.member(path[1]) != nil && t.supports(path[1:], 0)
		}
	}
	return false
}
