//go:build pkcs11 && cgo

package pkcs11

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	p11 "github.com/miekg/pkcs11"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// The prefixes of luksplug's data objects: of CKA_LABEL, before the uuid, and of
// CKA_APPLICATION, before the generation.
const (
	documentLabel = "document "
	valueLabel    = "value "
	generationOf  = "luksplug "
)

// Store is a [secrets.Keeper] of data objects on a token. [New] creates it.
type Store struct{ *token }

// Lookup implements [secrets.Store].
func (s *Store) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	if err := ref.Validate(); err != nil {
		return nil, s.fail(ref, err)
	}
	value, err := within(ctx, s.token, func(c *session) (*secrets.Secret, error) {
		d, err := find(c, ref)
		if err != nil {
			return nil, err
		}
		b, err := content(c, valueLabel+d.UUID.String())
		switch {
		case errors.Is(err, secrets.ErrNotFound):
			return nil, secrets.ErrNoValue
		case err != nil:
			return nil, err
		}
		return secrets.New(b), nil
	})
	return value, s.fail(ref, err)
}

// Describe implements [secrets.Describer]. It needs the PIN.
func (s *Store) Describe(ctx context.Context, ref secrets.Reference) (secrets.Document, error) {
	if err := ref.Validate(); err != nil {
		return secrets.Document{}, s.fail(ref, err)
	}
	d, err := within(ctx, s.token, func(c *session) (secrets.Document, error) { return find(c, ref) })
	return d, s.fail(ref, err)
}

// List implements [secrets.Lister]. It needs the PIN.
func (s *Store) List(ctx context.Context) ([]secrets.Document, error) {
	all, err := within(ctx, s.token, func(c *session) (listed, error) { return list(c) })
	if err == nil {
		err = all.damaged
	}
	return all.documents, s.fail(secrets.Reference{}, err)
}

// listed holds the documents of a token, and an error for the damaged ones.
type listed struct {
	documents []secrets.Document
	damaged   error
}

func list(c *session) (all listed, err error) {
	objects, err := ours(c)
	if err != nil {
		return all, err
	}
	seen := map[string]bool{}
	for _, o := range objects {
		id, is := strings.CutPrefix(o.label, documentLabel)
		if !is || seen[id] {
			continue
		}
		seen[id] = true
		d, err := read(c, id)
		switch {
		case err == nil:
			all.documents = append(all.documents, d)
		case errors.Is(err, secrets.ErrDamaged):
			all.damaged = errors.Join(all.damaged, err)
		case !errors.Is(err, secrets.ErrNotFound): // an object not found was removed meanwhile
			return all, err
		}
	}
	return all, nil
}

// read returns the document of the secret with the uuid.
func read(c *session, id string) (secrets.Document, error) {
	text, err := content(c, documentLabel+id)
	if err != nil {
		return secrets.Document{}, err
	}
	known, _ := secrets.ParseUUID(id) // zero for another program's label; no document has it
	return storecall.ParseDocument(text, known, fmt.Sprintf("data object %q", documentLabel+id))
}

// find returns the document of the secret that ref names.
func find(c *session, ref secrets.Reference) (secrets.Document, error) {
	if ref.UUID != uuid.Nil {
		d, err := read(c, ref.UUID.String())
		if err == nil {
			_, err = d.Answers(ref)
		}
		return d, err
	}
	all, err := list(c)
	if err != nil {
		return secrets.Document{}, err
	}
	d, err := secrets.Find(all.documents, ref)
	if errors.Is(err, secrets.ErrNotFound) && all.damaged != nil {
		err = all.damaged // a damaged document may be that of ref's secret
	}
	return d, err
}

// Define implements [secrets.Keeper]. Tokens have no locks: two concurrent calls for
// the same usage may both succeed.
func (s *Store) Define(ctx context.Context, d secrets.Document) error {
	if err := storecall.Definable(d); err != nil {
		return s.fail(d.Reference(), err)
	}
	return s.change(ctx, d.Reference(), func(c *session) error {
		if d.Ephemeral {
			return fmt.Errorf("%w: use a dir: store on a tmpfs", secrets.ErrPersistent)
		}
		all, err := list(c) // ignores damaged documents: Define replaces them
		if err != nil {
			return err
		}
		if err := secrets.CheckDefine(all.documents, d); err != nil {
			return err
		}
		return write(c, documentLabel+d.UUID.String(), d.XML())
	})
}

// Set implements [secrets.Keeper].
func (s *Store) Set(ctx context.Context, ref secrets.Reference, value *secrets.Secret) error {
	if err := ref.Validate(); err != nil {
		return s.fail(ref, err)
	}
	var own []byte // a copy: the module may still run after this method has returned
	if err := value.Use(func(b []byte) error { own = bytes.Clone(b); return nil }); err != nil {
		return s.fail(ref, err)
	}
	return s.change(ctx, ref, func(c *session) error {
		defer clear(own)
		d, err := find(c, ref)
		if err != nil {
			return err
		}
		if len(own) == 0 {
			return errors.New("a token cannot store an empty value")
		}
		return write(c, valueLabel+d.UUID.String(), own)
	})
}

// Remove implements [secrets.Keeper].
func (s *Store) Remove(ctx context.Context, ref secrets.Reference) error {
	if err := ref.Validate(); err != nil {
		return s.fail(ref, err)
	}
	return s.change(ctx, ref, func(c *session) error {
		d, err := find(c, ref)
		if err != nil {
			return err
		}
		for _, label := range []string{valueLabel, documentLabel} {
			err := steady(func() error {
				objects, err := oursOnce(c, []*p11.Attribute{p11.NewAttribute(p11.CKA_LABEL, label+d.UUID.String())})
				if err != nil {
					return err
				}
				return destroy(c, objects)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Store) change(ctx context.Context, ref secrets.Reference, f func(*session) error) error {
	_, err := within(ctx, s.token, func(c *session) (struct{}, error) { return struct{}{}, f(c) })
	return s.fail(ref, err)
}

// finder is a [secrets.Store] of data objects that other programs created.
type finder struct{ *token }

// Lookup implements [secrets.Store].
func (f *finder) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	if err := ref.Validate(); err != nil {
		return nil, f.fail(ref, err)
	}
	label, hasLabel := storecall.Template(f.options.URI.path["object"]).Expand(ref)
	name, hasName := storecall.Template(f.options.Application).Expand(ref)
	value, err := within(ctx, f.token, func(c *session) (*secrets.Secret, error) {
		if !hasLabel || !hasName {
			return nil, secrets.ErrNotFound
		}
		attributes := []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_DATA)}
		if name != "" {
			attributes = append(attributes, p11.NewAttribute(p11.CKA_APPLICATION, name))
		}
		if label != "" {
			attributes = append(attributes, p11.NewAttribute(p11.CKA_LABEL, label))
		}
		found, err := c.objects(attributes...)
		switch {
		case err != nil:
			return nil, err
		case len(found) == 0:
			return nil, secrets.ErrNotFound
		case len(found) > 1:
			return nil, fmt.Errorf("%w: the token has %d data objects with label %q and application %q: exactly one is needed",
				secrets.ErrDamaged, len(found), label, name)
		}
		b, err := c.read(found[0], p11.CKA_VALUE)
		switch {
		case err != nil:
			return nil, err
		case len(b) == 0:
			return nil, secrets.ErrNoValue
		}
		return secrets.New(b), nil
	})
	return value, f.fail(ref, err)
}
