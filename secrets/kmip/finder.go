package kmip

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ovh/kmip-go"
	"github.com/ovh/kmip-go/payloads"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// ErrInvalidTemplate is wrapped by the errors of [ParseTemplate].
var ErrInvalidTemplate = errors.New("invalid template")

// Template is a query for objects of other programs, in the form WHAT:TEXT. WHAT is
// name, for the attribute Name; id, for the server's unique identifier; or the name
// of a custom attribute, which begins with "x-" or "y-". {uuid}, {usage} and {type}
// in TEXT are replaced by the fields of the reference. Without {uuid} and {usage},
// all references of one type find the same object.
type Template struct {
	what string
	text storecall.Template
}

// ParseTemplate parses a template. The error wraps [ErrInvalidTemplate].
func ParseTemplate(s string) (Template, error) {
	what, text, found := strings.Cut(s, ":")
	if !found || text == "" {
		return Template{}, fmt.Errorf("%w: %q: write it like name:disks/{uuid}", ErrInvalidTemplate, s)
	}
	if _, custom := cutX(kmip.AttributeName(what)); what != "name" && what != "id" && !custom {
		return Template{}, fmt.Errorf("%w: %q: objects are found by name, id or a custom attribute, as in x-disk:{uuid}", ErrInvalidTemplate, s)
	}
	t := Template{what, storecall.Template(text)}
	if !t.text.Valid() {
		return Template{}, fmt.Errorf("%w: %q: the placeholders are {uuid}, {usage} and {type}", ErrInvalidTemplate, s)
	}
	return t, nil
}

// expand returns the text for a reference; false if the reference lacks a field that
// the text needs.
func (t Template) expand(ref secrets.Reference) (string, bool) {
	text, ok := t.text.Expand(ref)
	return text, ok && secrets.IsText(text)
}

// Finder is a [secrets.Store] of objects that other programs have created on a KMIP
// server. Make one with [NewFinder].
type Finder struct {
	server
	template Template
}

// NewFinder returns the store of the objects that t finds on a server; see [New].
func NewFinder(o Options, t Template) *Finder { return &Finder{server{o.withTimeout()}, t} }

// Lookup implements [secrets.Store]. If several objects match that are not revoked,
// the error wraps [secrets.ErrDamaged].
func (f *Finder) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	var value *secrets.Secret
	err := f.with(ctx, ref, func(c *connection) error {
		if err := ref.Validate(); err != nil {
			return err
		}
		text, ok := f.template.expand(ref)
		if !ok {
			return secrets.ErrNotFound
		}
		return steady(func() error {
			id, err := f.one(c, text)
			if err != nil {
				return err
			}
			value, err = c.get(id)
			if errors.Is(err, secrets.ErrNotFound) && f.template.what != "id" {
				return errChanged
			}
			return err
		})
	})
	return value, err
}

// one returns the identifier of the only usable object that matches text.
func (f *Finder) one(c *connection, text string) (string, error) {
	ids := []string{text}
	if f.template.what != "id" {
		located, err := ask[*payloads.LocateResponsePayload](c, &payloads.LocateRequestPayload{Attribute: []kmip.Attribute{f.attribute(text)}})
		if err != nil {
			return "", err
		}
		ids = located.UniqueIdentifier
	}
	var usable, gone []string
	for _, id := range ids {
		got, err := ask[*payloads.GetAttributesResponsePayload](c, &payloads.GetAttributesRequestPayload{
			UniqueIdentifier: id, AttributeName: []kmip.AttributeName{f.attribute("").AttributeName, kmip.AttributeNameState},
		})
		switch {
		case errors.Is(err, secrets.ErrNotFound):
			continue
		case err != nil:
			return "", err
		case !f.matches(got.Attribute, text):
			continue // the server returned an object that does not match
		case stateOf(got.Attribute) > kmip.StateActive:
			gone = append(gone, id)
		default:
			usable = append(usable, id)
		}
	}
	switch {
	case len(usable) == 1:
		return usable[0], nil
	case len(usable) > 1:
		return "", fmt.Errorf("%w: %d objects of the server have %s %q, which is ambiguous: %s",
			secrets.ErrDamaged, len(usable), f.template.what, text, strings.Join(usable, ", "))
	case len(gone) > 0:
		return "", revoked(gone[0])
	}
	return "", secrets.ErrNotFound
}

func (f *Finder) attribute(text string) kmip.Attribute {
	switch f.template.what {
	case "name":
		return kmip.Attribute{AttributeName: kmip.AttributeNameName, AttributeValue: kmip.Name{NameValue: text, NameType: kmip.NameTypeUninterpretedTextString}}
	case "id":
		return kmip.Attribute{AttributeName: kmip.AttributeNameUniqueIdentifier, AttributeValue: text}
	}
	return kmip.Attribute{AttributeName: kmip.AttributeName(f.template.what), AttributeValue: text}
}

// matches reports whether an object with these attributes matches the query.
func (f *Finder) matches(attributes []kmip.Attribute, text string) bool {
	if f.template.what == "id" {
		return true
	}
	for _, a := range attributes {
		if name, ok := a.AttributeValue.(kmip.Name); ok && f.template.what == "name" && name.NameValue == text {
			return true
		}
		if value, ok := textOf(a.AttributeValue); ok && string(a.AttributeName) == f.template.what && value == text {
			return true
		}
	}
	return false
}

func stateOf(attributes []kmip.Attribute) kmip.State {
	for _, a := range attributes {
		if s, ok := a.AttributeValue.(kmip.State); ok {
			return s
		}
	}
	return 0
}
