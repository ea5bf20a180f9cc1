package dir

import (
	"context"
	"errors"
	"fmt"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/privdir"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// List implements [secrets.Lister]. For a value without a document it returns one with
// only the uuid or the usage.
func (s *Store) List(ctx context.Context) ([]secrets.Document, error) {
	documents, err := storecall.Files(ctx, s.path, func() ([]secrets.Document, error) { return s.list(ctx) }, nil)
	return documents, storecall.Fail(s, secrets.Reference{}, err)
}

func (s *Store) list(ctx context.Context) ([]secrets.Document, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := privdir.Open(s.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return listAll(f)
}

// listAll returns the documents, and one for each value without a document.
func listAll(f *privdir.Dir) ([]secrets.Document, error) {
	documents, err := readDocuments(f)
	if documents == nil {
		return nil, err
	}
	failed := []error{err}
	names, err := f.Names()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		var d secrets.Document
		if id, ok := uuidOf(name); ok {
			if defined, err := f.Has(name + privdir.DocumentSuffix); defined || err != nil {
				continue // already in documents or in failed
			}
			d = secrets.Document{UUID: id}
		} else if ref, ok := usageOf(name); ok {
			d = secrets.Document{UsageType: ref.Type.UsageType(), Usage: ref.Usage}
			if err := d.Validate(); err != nil {
				failed = append(failed, fmt.Errorf("%w: file %s: %w", secrets.ErrDamaged, name, err))
				continue
			}
		} else {
			continue // not a secret's file
		}
		documents = append(documents, d)
	}
	return documents, errors.Join(failed...)
}

// Define implements [secrets.Keeper]. An ephemeral secret needs a directory in
// memory, such as a tmpfs. The error wraps ErrConflict if a value's file is named
// after d's usage, because that is another secret.
func (s *Store) Define(ctx context.Context, d secrets.Document) error {
	return storecall.Fail(s, d.Reference(), s.define(ctx, d))
}

func (s *Store) define(ctx context.Context, d secrets.Document) error {
	if err := storecall.Definable(d); err != nil {
		return err
	}
	return s.change(ctx, d.Reference(), func(f *privdir.Dir, w *privdir.Writer) error {
		if err := f.Keep(d); err != nil {
			return err
		}
		documents, err := readDocuments(f)
		if err != nil {
			return err // an unreadable document may have the same usage
		}
		if err := secrets.CheckDefine(documents, d); err != nil {
			return err
		}
		if d.Usage != "" {
			name := FileName(secrets.Reference{Type: d.UsageType.Type(), Usage: d.Usage})
			if there, err := f.Has(name); there || err != nil {
				return errors.Join(err, fmt.Errorf("%w: file %s holds a secret with this usage: remove it first", secrets.ErrConflict, name))
			}
		}
		return w.Write(d.UUID.String()+privdir.DocumentSuffix, d.XML())
	})
}

// Set implements [secrets.Keeper]. It does not erase the old value's blocks in the
// file system.
func (s *Store) Set(ctx context.Context, ref secrets.Reference, value *secrets.Secret) error {
	return storecall.Fail(s, ref, s.change(ctx, ref, func(f *privdir.Dir, w *privdir.Writer) error {
		e, err := find(f, ref)
		if err != nil {
			return err
		}
		d, err := e.describe(f, ref)
		if err == nil {
			err = f.Keep(d) // the directory may have been copied from a tmpfs
		}
		if err != nil {
			return err
		}
		return value.Use(func(b []byte) error { return w.Write(e.value, b) })
	}))
}

// Remove implements [secrets.Keeper].
func (s *Store) Remove(ctx context.Context, ref secrets.Reference) error {
	return storecall.Fail(s, ref, s.change(ctx, ref, func(f *privdir.Dir, w *privdir.Writer) error {
		e, err := find(f, ref)
		if err != nil {
			return err
		}
		// The value first, so that a crash leaves a secret without a value and
		// not a value that is not listed.
		if err := w.Remove(e.value); err != nil || e.document == "" {
			return err
		}
		return w.Remove(e.document)
	}))
}

// change runs do with the writers' lock held.
func (s *Store) change(ctx context.Context, ref secrets.Reference, do func(*privdir.Dir, *privdir.Writer) error) error {
	return storecall.Change(ctx, s.path, func() error {
		f, err := s.open(ctx, ref)
		if err != nil {
			return err
		}
		defer f.Close()
		w, err := f.Lock(ctx)
		if err != nil {
			return err
		}
		defer w.Unlock()
		return do(f, w)
	})
}
