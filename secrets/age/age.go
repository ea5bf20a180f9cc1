package age

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"filippo.io/age"
	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/privdir"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// ValueSuffix follows the uuid in the name of a value's file.
const ValueSuffix = ".age"

// documentSuffix follows the uuid in the name of a document's file.
const documentSuffix = privdir.DocumentSuffix

// Store is a [secrets.Keeper] on a directory. Create it with [New].
type Store struct {
	path    string
	options Options
	keys    *identity
}

// Options configure the encryption of the directory. The zero value is valid.
type Options struct {
	// Identity is the path of the identity; "" means identity.txt in the
	// directory.
	Identity string
	// PostQuantum makes a new identity a hybrid key.
	PostQuantum bool
	// Protect encrypts a new identity with a passphrase, and refuses an
	// identity in clear.
	Protect bool
	// Passphrase returns the passphrase of the identity; question names it. It
	// is called twice for a new passphrase. If it is nil, a protected identity
	// fails with [secrets.ErrLocked].
	Passphrase func(ctx context.Context, question string) (*secrets.Secret, error)
	// Seal and Unseal encrypt the file of the identity in another way than by a passphrase,
	// such as under a key of the host. Both are set or none; Protect is not used then.
	Seal, Unseal func(ctx context.Context, content *secrets.Secret) (*secrets.Secret, error)
	// WorkFactor is the logarithm to base 2 of scrypt's cost for a new
	// passphrase, 1 to 22; 0 means age's default, which takes about a second.
	WorkFactor int
}

// New returns the store of the directory path. Each call of the store opens the
// directory anew. It need not exist yet: the first Define creates it.
func New(path string, options Options) *Store {
	return &Store{path: path, options: options, keys: newIdentity(path, options)}
}

// String returns "age:" and the path, percent-encoded as a URI requires.
func (s *Store) String() string { return "age:" + (&url.URL{Path: s.path}).EscapedPath() }

// Lookup implements [secrets.Store]. It asks for the passphrase of a protected
// identity. The error wraps ErrDenied for a value that is encrypted to other
// recipients, and for a file or directory with unsafe permissions.
func (s *Store) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	value, err := storecall.Files(ctx, s.path, func() (*secrets.Secret, error) { return s.lookup(ctx, ref) }, (*secrets.Secret).Wipe)
	return value, storecall.Fail(s, ref, err)
}

func (s *Store) lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	if err := errors.Join(ctx.Err(), ref.Validate()); err != nil {
		return nil, err
	}
	f, err := s.open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d, err := find(f, ref)
	if err != nil {
		return nil, err
	}
	name := d.UUID.String() + ValueSuffix
	encrypted, err := f.Read(name)
	if errors.Is(err, secrets.ErrNotFound) {
		return nil, fmt.Errorf("%w: there is no file %s", secrets.ErrNoValue, name)
	}
	if err != nil {
		return nil, err
	}
	defer encrypted.Wipe()
	keys, err := s.keys.open(ctx)
	if err != nil {
		return nil, err
	}
	return decrypt(encrypted, name, keys)
}

// Describe implements [secrets.Describer]. It needs no identity.
func (s *Store) Describe(ctx context.Context, ref secrets.Reference) (secrets.Document, error) {
	d, err := storecall.Files(ctx, s.path, func() (secrets.Document, error) { return s.describe(ctx, ref) }, nil)
	return d, storecall.Fail(s, ref, err)
}

func (s *Store) describe(ctx context.Context, ref secrets.Reference) (d secrets.Document, err error) {
	if err := errors.Join(ctx.Err(), ref.Validate()); err != nil {
		return d, err
	}
	f, err := s.open()
	if err != nil {
		return d, err
	}
	defer f.Close()
	return find(f, ref)
}

// List implements [secrets.Lister]. It needs no identity.
func (s *Store) List(ctx context.Context) ([]secrets.Document, error) {
	documents, err := storecall.Files(ctx, s.path, func() ([]secrets.Document, error) { return s.list(ctx) }, nil)
	return documents, storecall.Fail(s, secrets.Reference{}, err)
}

func (s *Store) list(ctx context.Context) ([]secrets.Document, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := s.open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	documents, unread, err := list(f)
	return documents, errors.Join(err, unread)
}

// Define implements [secrets.Keeper]. An ephemeral secret needs a directory in memory.
func (s *Store) Define(ctx context.Context, d secrets.Document) error {
	return storecall.Fail(s, d.Reference(), storecall.Change(ctx, s.path, func() error { return s.define(ctx, d) }))
}

func (s *Store) define(ctx context.Context, d secrets.Document) error {
	if err := errors.Join(ctx.Err(), storecall.Definable(d)); err != nil {
		return err
	}
	f, err := privdir.Make(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Keep(d); err != nil {
		return err
	}
	return locked(ctx, f, func(w *privdir.Writer) error {
		// Damaged documents are ignored: they must not block others, and
		// Define replaces them.
		documents, _, err := list(f)
		if err != nil {
			return err
		}
		if err := secrets.CheckDefine(documents, d); err != nil {
			return err
		}
		if _, err := s.recipients(ctx, f, w); err != nil {
			return err
		}
		return w.Write(d.UUID.String()+documentSuffix, d.XML())
	})
}

// Set implements [secrets.Keeper]. It needs only the recipients.
func (s *Store) Set(ctx context.Context, ref secrets.Reference, value *secrets.Secret) error {
	return storecall.Fail(s, ref, s.change(ctx, ref, func(f *privdir.Dir, w *privdir.Writer, d secrets.Document) error {
		if err := f.Keep(d); err != nil {
			return err
		}
		recipients, err := s.recipients(ctx, f, w)
		if err != nil {
			return err
		}
		encrypted, err := encrypt(value, recipients)
		if err != nil {
			return err
		}
		return w.Write(d.UUID.String()+ValueSuffix, encrypted)
	}))
}

// Remove implements [secrets.Keeper].
func (s *Store) Remove(ctx context.Context, ref secrets.Reference) error {
	return storecall.Fail(s, ref, s.change(ctx, ref, func(_ *privdir.Dir, w *privdir.Writer, d secrets.Document) error {
		if err := w.Remove(d.UUID.String() + ValueSuffix); err != nil {
			return err
		}
		return w.Remove(d.UUID.String() + documentSuffix)
	}))
}

// change runs the function on the secret that ref names, with the writers' lock held.
func (s *Store) change(ctx context.Context, ref secrets.Reference, change func(*privdir.Dir, *privdir.Writer, secrets.Document) error) error {
	if err := errors.Join(ctx.Err(), ref.Validate()); err != nil {
		return err
	}
	return storecall.Change(ctx, s.path, func() error {
		f, err := s.open()
		if err != nil {
			return err
		}
		defer f.Close()
		return locked(ctx, f, func(w *privdir.Writer) error {
			d, err := find(f, ref)
			if err != nil {
				return err
			}
			return change(f, w, d)
		})
	})
}

func locked(ctx context.Context, f *privdir.Dir, run func(w *privdir.Writer) error) error {
	w, err := f.Lock(ctx)
	if err != nil {
		return err
	}
	defer w.Unlock()
	return run(w)
}

func (s *Store) open() (*privdir.Dir, error) {
	f, err := privdir.Open(s.path)
	if errors.Is(err, secrets.ErrUnreachable) {
		err = fmt.Errorf("%w; the first secret that is defined makes it", err)
	}
	return f, err
}

// find returns the document of the secret that ref names. An unreadable document is
// an error only if it may be that document.
func find(f *privdir.Dir, ref secrets.Reference) (secrets.Document, error) {
	if ref.UUID != uuid.Nil {
		d, err := read(f, ref.UUID)
		if errors.Is(err, secrets.ErrNotFound) {
			if documents, _, listed := list(f); listed == nil {
				return secrets.Find(documents, ref) // which says what is similar
			}
		}
		if err != nil {
			return d, err
		}
		_, err = d.Answers(ref)
		return d, err
	}
	documents, unread, err := list(f)
	if err != nil {
		return secrets.Document{}, err
	}
	d, err := secrets.Find(documents, ref)
	if errors.Is(err, secrets.ErrNotFound) && unread != nil {
		err = unread
	}
	return d, err
}

// list returns the documents of all secrets, and an error that names those whose
// document could not be read.
func list(f *privdir.Dir) (documents []secrets.Document, unread, err error) {
	names, err := f.Names()
	if err != nil {
		return nil, nil, err
	}
	seen := map[uuid.UUID]bool{}
	for _, name := range names {
		id, ok := idOf(name)
		if !ok || seen[id] {
			continue
		}
		seen[id] = true
		d, err := read(f, id)
		switch {
		case err == nil:
			documents = append(documents, d)
		case !errors.Is(err, secrets.ErrNotFound): // a document not found was removed meanwhile
			unread = errors.Join(unread, fmt.Errorf("secret with uuid %s: %w", id, err))
		}
	}
	return documents, unread, nil
}

// idOf returns the uuid in the name of a secret's file.
func idOf(name string) (uuid.UUID, bool) {
	base, ok := strings.CutSuffix(name, documentSuffix)
	if !ok {
		base, ok = strings.CutSuffix(name, ValueSuffix)
	}
	id, err := secrets.ParseUUID(base)
	return id, ok && err == nil && base == id.String()
}

// read returns the document of one secret.
func read(f *privdir.Dir, id uuid.UUID) (secrets.Document, error) {
	d, err := f.Document(id)
	if errors.Is(err, secrets.ErrNotFound) {
		// A value without a document is a secret without usage.
		if has, hasErr := f.Has(id.String() + ValueSuffix); has || hasErr != nil {
			return secrets.Document{UUID: id}, hasErr
		}
	}
	return d, err
}

// decrypt returns the value in the file name.
func decrypt(encrypted *secrets.Secret, name string, keys []age.Identity) (*secrets.Secret, error) {
	var value *secrets.Secret
	err := encrypted.Use(func(b []byte) error {
		var err error
		value, err = open(b, keys...)
		return err
	})
	var stranger *age.NoIdentityMatchError
	switch {
	case errors.As(err, &stranger):
		return nil, fmt.Errorf("%w: file %s is not encrypted to the store's identity", secrets.ErrDenied, name)
	case err != nil:
		return nil, fmt.Errorf("%w: file %s: %w", secrets.ErrDamaged, name, err)
	}
	return value, nil
}

func encrypt(value *secrets.Secret, recipients []age.Recipient) ([]byte, error) {
	var out []byte
	err := value.Use(func(b []byte) (err error) { out, err = seal(b, recipients); return err })
	switch {
	case err != nil:
		return nil, fmt.Errorf("encrypt the value: %w", err)
	case len(out) > secrets.MaxLen:
		return nil, fmt.Errorf("%w: more than %d bytes when encrypted", secrets.ErrTooLong, secrets.MaxLen)
	}
	return out, nil
}
