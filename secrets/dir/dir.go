package dir

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/nearname"
	"github.com/luksplug/luksplug/secrets/internal/privdir"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// Store is a [secrets.Keeper] on a directory. Create it with [New].
type Store struct {
	path string
}

// New returns the store of the directory path. Each call of the store opens the
// directory anew, so it need not exist yet.
func New(path string) *Store {
	return &Store{path: path}
}

// Path returns the directory.
func (s *Store) Path() string { return s.path }

// String returns "dir:" and the path, percent-encoded as a URI requires.
func (s *Store) String() string { return "dir:" + (&url.URL{Path: s.path}).EscapedPath() }

// Lookup implements [secrets.Store]. The error wraps ErrUnreachable if the directory
// does not exist, and ErrDenied if it or the file has unsafe permissions.
func (s *Store) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	secret, err := storecall.Files(ctx, s.path, func() (*secrets.Secret, error) { return s.lookup(ctx, ref) }, (*secrets.Secret).Wipe)
	return secret, storecall.Fail(s, ref, err)
}

func (s *Store) lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	f, err := s.open(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	e, err := find(f, ref)
	if err != nil {
		return nil, err
	}
	value, err := f.Read(e.value)
	if errors.Is(err, secrets.ErrNotFound) && e.defined {
		return nil, secrets.ErrNoValue
	}
	return value, err
}

// Describe implements [secrets.Describer].
func (s *Store) Describe(ctx context.Context, ref secrets.Reference) (secrets.Document, error) {
	d, err := storecall.Files(ctx, s.path, func() (secrets.Document, error) { return s.describe(ctx, ref) }, nil)
	return d, storecall.Fail(s, ref, err)
}

func (s *Store) describe(ctx context.Context, ref secrets.Reference) (d secrets.Document, err error) {
	f, err := s.open(ctx, ref)
	if err != nil {
		return d, err
	}
	defer f.Close()
	e, err := find(f, ref)
	if err != nil {
		return d, err
	}
	return e.describe(f, ref)
}

// ValueFile returns the path of the file that holds the value of ref's secret,
// for a program that reads the file itself. The file need not exist. If the secret
// is not found, the path ends in [FileName] of ref.
func (s *Store) ValueFile(ctx context.Context, ref secrets.Reference) string {
	name := FileName(ref)
	if f, err := s.open(ctx, ref); err == nil {
		defer f.Close()
		if e, err := find(f, ref); err == nil {
			name = e.value
		}
	}
	return filepath.Join(s.path, name)
}

// open checks ctx and ref, and opens the directory.
func (s *Store) open(ctx context.Context, ref secrets.Reference) (*privdir.Dir, error) {
	if err := errors.Join(ctx.Err(), ref.Validate()); err != nil {
		return nil, err
	}
	return privdir.Open(s.path)
}

// entry names the files of a secret.
type entry struct {
	value    string // the value's file, which need not exist
	document string // the document's file; "" for a secret without uuid
	defined  bool   // the document exists
}

// describe returns the secret's document; without one, what ref says about it.
func (e entry) describe(f *privdir.Dir, ref secrets.Reference) (d secrets.Document, err error) {
	if !e.defined {
		return ref.Undocumented(), nil
	}
	id, err := secrets.ParseUUID(e.value)
	if err != nil {
		return d, err
	}
	return f.Document(id)
}

// find returns the files of the secret that ref names. The error wraps
// secrets.ErrNotFound or ErrWrongType, or is a read error.
func find(f *privdir.Dir, ref secrets.Reference) (entry, error) {
	name := FileName(ref)
	there, err := f.Has(name)
	if err != nil {
		return entry{}, err
	}
	if ref.UUID != uuid.Nil {
		e := entry{value: name, document: name + privdir.DocumentSuffix}
		d, err := f.Document(ref.UUID)
		switch {
		case err == nil:
			e.defined = true
			_, err = d.Answers(ref)
			return e, err
		case errors.Is(err, secrets.ErrNotFound) && there:
			return e, nil
		case errors.Is(err, secrets.ErrNotFound):
			return e, missing(f, ref)
		}
		return e, err
	}
	if there {
		return entry{value: name}, nil
	}
	documents, err := readDocuments(f)
	d, findErr := secrets.Find(documents, ref)
	if findErr == nil {
		id := d.UUID.String()
		return entry{value: id, document: id + privdir.DocumentSuffix, defined: true}, nil
	}
	switch {
	case errors.Is(err, secrets.ErrDenied) && documents == nil:
		// The caller may enter the directory but not list it; a file named after
		// ref would have been found.
	case err != nil:
		// The unreadable document may be that of ref's secret.
		return entry{}, err
	}
	if len(name) > privdir.MaxName {
		return entry{}, fmt.Errorf("%w: the usage gives a file name of %d bytes, the limit is %d: refer to the secret by uuid",
			secrets.ErrNotFound, len(name), privdir.MaxName)
	}
	var near *secrets.NotFoundError
	if errors.As(findErr, &near) && len(documents) > 0 {
		return entry{}, findErr
	}
	return entry{}, missing(f, ref)
}

// missing is the error for a secret without a file. A directory that cannot be listed has no
// similar files.
func missing(f *privdir.Dir, ref secrets.Reference) error {
	names, _ := f.Names()
	return nearname.Missing(ref, FileName(ref), names)
}

// readDocuments returns all readable documents, and an error that names the others.
// The documents are nil if the directory cannot be listed.
func readDocuments(f *privdir.Dir) ([]secrets.Document, error) {
	names, err := f.Names()
	if err != nil {
		return nil, err
	}
	documents := []secrets.Document{}
	var failed []error
	for _, name := range names {
		id, isDocument := strings.CutSuffix(name, privdir.DocumentSuffix)
		u, isUUID := uuidOf(id)
		if !isDocument || !isUUID {
			continue
		}
		d, err := f.Document(u)
		switch {
		case err == nil:
			documents = append(documents, d)
		case !errors.Is(err, secrets.ErrNotFound): // a document not found was removed meanwhile
			failed = append(failed, err)
		}
	}
	return documents, errors.Join(failed...)
}
