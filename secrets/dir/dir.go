package dir

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
)

// maxName is the longest file name, in bytes, that Linux file systems take.
const maxName = unix.NAME_MAX

// Store is a [secrets.Store] on a folder. Make one with [New].
type Store struct {
	path string
}

// New returns the store of the folder path. The folder is looked at by
// [Store.Lookup], each time anew: it need not exist yet.
func New(path string) *Store {
	return &Store{path: path}
}

// String returns "dir:" and the path, percent-encoded where a URI needs that.
func (s *Store) String() string { return "dir:" + (&url.URL{Path: s.path}).EscapedPath() }

// Lookup implements [secrets.Store]. A folder that does not exist is
// unreachable; a folder or file with unsafe permissions is denied.
func (s *Store) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	secret, err := s.lookup(ctx, ref)
	if err != nil {
		return nil, &secrets.StoreError{Store: s.String(), Ref: ref, Err: err}
	}
	return secret, nil
}

func (s *Store) lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := ref.Validate(); err != nil {
		return nil, err
	}
	name := FileName(ref)
	folder, err := s.openFolder()
	if err != nil {
		return nil, err
	}
	defer closeRead(folder)
	if len(name) > maxName {
		return nil, fmt.Errorf("%w: the usage makes a file name of %d bytes, %d is the limit: refer to the secret by uuid",
			secrets.ErrNotFound, len(name), maxName)
	}
	file, err := openFile(folder, name)
	if err != nil {
		return nil, err
	}
	defer closeRead(file)
	secret, err := secrets.Read(file)
	if err != nil {
		return nil, fmt.Errorf("%w: file %s: %w", secrets.ErrUnreachable, name, err)
	}
	return secret, nil
}

// openFolder opens and checks the folder.
func (s *Store) openFolder() (*os.File, error) {
	// O_PATH, because the folder is only passed through: whoever may not list
	// it may still have a secret in it.
	folder, err := open(unix.AT_FDCWD, s.path, unix.O_DIRECTORY|unix.O_PATH)
	switch {
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("%w: the folder cannot be opened: %w", secrets.ErrDenied, err)
	case err != nil:
		return nil, fmt.Errorf("%w: the folder cannot be opened: %w", secrets.ErrUnreachable, err)
	}
	if err := checkFolder(folder); err != nil {
		closeRead(folder)
		return nil, err
	}
	return folder, nil
}

func checkFolder(folder *os.File) error {
	st, err := stat(folder)
	if err != nil {
		return err
	}
	if st.Mode&0o022 != 0 {
		return fmt.Errorf("%w: others may write to the folder (mode %04o): chmod go-w it", secrets.ErrDenied, st.Mode&0o7777)
	}
	return checkOwner("the folder", st.Uid)
}

// openFile opens and checks one secret's file in the folder.
func openFile(folder *os.File, name string) (*os.File, error) {
	// Not blocking, or a pipe of that name would hold us here before it can
	// be refused.
	file, err := open(int(folder.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, fmt.Errorf("%w: there is no file %s", secrets.ErrNotFound, name)
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("%w: file %s is a symbolic link: put a regular file there", secrets.ErrDenied, name)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.ENXIO):
		// ENXIO: a socket.
		return nil, fmt.Errorf("%w: file %s cannot be opened: %w", secrets.ErrDenied, name, err)
	case err != nil:
		return nil, fmt.Errorf("%w: file %s cannot be opened: %w", secrets.ErrUnreachable, name, err)
	}
	if err := checkFile(file, name); err != nil {
		closeRead(file)
		return nil, err
	}
	return file, nil
}

func checkFile(file *os.File, name string) error {
	st, err := stat(file)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("%w: %s is not a regular file", secrets.ErrDenied, name)
	}
	if st.Mode&0o077 != 0 {
		return fmt.Errorf("%w: others may use file %s (mode %04o): chmod 600 it, and change the secret if they may have read it",
			secrets.ErrDenied, name, st.Mode&0o7777)
	}
	return checkOwner("file "+name, st.Uid)
}

func checkOwner(what string, owner uint32) error {
	if me := os.Geteuid(); owner != 0 && owner != uint32(me) {
		return fmt.Errorf("%w: %s belongs to user %d: it must belong to root or to the caller, user %d", secrets.ErrDenied, what, owner, me)
	}
	return nil
}

// open is openat(2) with close-on-exec, asked again where a signal came in
// between.
func open(at int, path string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Openat(at, path, flags|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return os.NewFile(uintptr(fd), path), nil
	}
}

func stat(f *os.File) (unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return st, fmt.Errorf("%w: %s: %w", secrets.ErrUnreachable, f.Name(), err)
	}
	return st, nil
}

// closeRead closes what was only read from: a failure loses nothing.
func closeRead(f *os.File) { _ = f.Close() }

// FileName returns the name of the file that holds ref's secret: the uuid, or
// the usage type, a "-" and the usage, in which every byte other than ASCII
// letters, digits and "-", ".", "_", "~" is written as "%" and two upper-case hex
// digits, as in URIs (RFC 3986 section 2). The usage type is a part of it because
// it is a part of a secret's identity for libvirt too: a CHAP password and a
// passphrase may have the same usage. The name may be longer than file systems
// take; Lookup says so then.
func FileName(ref secrets.Reference) string {
	if ref.UUID != uuid.Nil {
		return ref.UUID.String()
	}
	var b strings.Builder
	b.WriteString(string(ref.Type.UsageType()))
	b.WriteByte('-')
	for _, c := range []byte(ref.Usage) {
		if unreserved(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}
