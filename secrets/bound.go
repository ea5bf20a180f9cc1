package secrets

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/google/uuid"
)

// ErrOtherVolume reports that a secret is bound to another volume than the one for which it
// was looked up.
var ErrOtherVolume = errors.New("the secret is for another volume")

// Describer is a [Store] that has documents. A store that wraps another one has to be one,
// too: what a document forbids is not known of a store without documents.
type Describer interface {
	Store

	// Describe returns the document of the secret that ref names, without reading its
	// value. For a secret without document it returns [Reference.Undocumented]. The
	// errors are those of Lookup.
	Describe(ctx context.Context, ref Reference) (Document, error)
}

// Undocumented returns what r says about its secret.
func (r Reference) Undocumented() Document {
	if r.UUID != uuid.Nil {
		return Document{UUID: r.UUID}
	}
	return Document{UsageType: r.Type.UsageType(), Usage: r.Usage}
}

// Volume returns the path of the volume that the secret is bound to: the usage of the type
// volume, if it is an absolute path; "" if there is none.
func (d Document) Volume() string {
	if d.UsageType != UsageVolume || !filepath.IsAbs(d.Usage) {
		return ""
	}
	return filepath.Clean(d.Usage)
}

// Describe returns the document of the secret that ref names in store. A store that is no
// [Describer] has no documents. The errors are those of Lookup.
func Describe(ctx context.Context, store Store, ref Reference) (Document, error) {
	if d, ok := store.(Describer); ok {
		return d.Describe(ctx, ref)
	}
	return ref.Undocumented(), nil
}

// BindVolumes returns a store with the secrets of store that are not bound to a volume, or to
// one of those that volumes returns for the reference. For others, Lookup returns an error
// that wraps [ErrOtherVolume] and does not read the value. A store that is no [Describer] has
// no documents: its secrets are bound only if a reference names them by a volume.
func BindVolumes(store Store, volumes func(Reference) []string) Store {
	return restrict(store, func(d Document, ref Reference) error { return checkVolume(d, volumes(ref)) })
}

func checkVolume(d Document, volumes []string) error {
	bound := d.Volume()
	if bound == "" {
		return nil
	}
	for _, v := range volumes {
		if v != "" && filepath.Clean(v) == bound {
			return nil
		}
	}
	return fmt.Errorf("%w: it is bound to %q by its usage, and the disk uses it for %q: correct the path in the secret's document, or define it without usage", ErrOtherVolume, bound, volumes)
}

// restrict returns a store with the secrets of store for whose documents check returns nil.
// For others, Lookup returns the error of check, and does not read the value.
func restrict(store Store, check func(Document, Reference) error) Store {
	switch s := store.(type) {
	case chain:
		all := make(chain, len(s))
		for i, store := range s {
			all[i] = restrict(store, check)
		}
		return all
	case lazy:
		return lazy{s.name, func() (Store, error) {
			inner, err := s.open()
			if err != nil {
				return nil, err
			}
			return restrict(inner, check), nil
		}}
	}
	return restricted{store, check}
}

// restricted is one store of restrict. It is a [Describer], so that it can be restricted
// again.
type restricted struct {
	store Store
	check func(Document, Reference) error
}

// String implements [Store].
func (s restricted) String() string { return s.store.String() }

// Describe implements [Describer].
func (s restricted) Describe(ctx context.Context, ref Reference) (Document, error) {
	return Describe(ctx, s.store, ref)
}

// Lookup implements [Store].
func (s restricted) Lookup(ctx context.Context, ref Reference) (*Secret, error) {
	document, err := s.Describe(ctx, ref)
	if err != nil {
		return nil, err
	}
	if err := s.check(document, ref); err != nil {
		return nil, &StoreError{Store: s.String(), Ref: ref, Err: err}
	}
	return s.store.Lookup(ctx, ref)
}

// Lazy returns the store that open returns, which it calls at each look-up. name is the text
// of its String.
func Lazy(name string, open func() (Store, error)) Store { return lazy{name, open} }

type lazy struct {
	name string
	open func() (Store, error)
}

// String implements [Store].
func (l lazy) String() string { return l.name }

// Lookup implements [Store].
func (l lazy) Lookup(ctx context.Context, ref Reference) (*Secret, error) {
	store, err := l.open()
	if err != nil {
		return nil, err
	}
	return store.Lookup(ctx, ref)
}
