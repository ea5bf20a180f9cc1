package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Attribute is an extended attribute of an image without encryption that takes part in a re-encryption: it has no header that could
// be marked. Its value is the re-encryption's id.
type Attribute string

// The attributes.
const (
	// AttributeIncomplete marks an image that lacks data, see luks.ErrIncomplete.
	AttributeIncomplete Attribute = "user.luksplug.incomplete"
	// AttributeMade marks an image that a re-encryption has made.
	AttributeMade Attribute = "user.luksplug.reencryption"
)

// ErrNoAttributes reports an image that cannot have an [Attribute].
var ErrNoAttributes = errors.New("only files have extended attributes of the class user, and not on all file systems (xattr(7))")

// longestAttribute is more than the length of any value that luksplug writes, in bytes.
const longestAttribute = 256

// of returns the value of an attribute, and whether the image has it.
func (a Attribute) of(f *os.File) (value string, has bool, err error) {
	var b [longestAttribute]byte
	n, err := unix.Fgetxattr(int(f.Fd()), string(a), b[:])
	switch {
	case err == nil:
		return string(b[:n]), true, nil
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.EOPNOTSUPP):
		return "", false, nil
	}
	return "", false, fmt.Errorf("read the attribute %s: %w", a, err)
}

// Get returns the value of the attribute of an image, "" for none. The errors are those of [Open].
func (a Attribute) Get(path string) (string, error) {
	f, err := Open(path, os.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer fsutil.CloseRead(f)
	value, _, err := a.of(f)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return value, nil
}

// Possible returns an error that wraps [ErrNoAttributes] if a new file at path could not have the attribute. It changes nothing.
func (a Attribute) Possible(path string) error {
	dir := filepath.Dir(path)
	_, err := unix.Getxattr(dir, string(a), nil)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%s: %w", path, ErrNoAttributes)
	case err != nil && !errors.Is(err, unix.ENODATA):
		return fmt.Errorf("%s: read the attribute %s: %w", dir, a, err)
	}
	return nil
}

// Set stores what was written to an image, and then the attribute. It may be repeated, and while the image is attached. The error
// wraps [ErrNoAttributes] if the image cannot have it, or is that of [Open].
func (a Attribute) Set(path, value string) error {
	return a.change(path, func(f *os.File) error { return a.SetFile(f, value) })
}

// SetFile sets the attribute of an opened file, and stores nothing. The error wraps [ErrNoAttributes], and names no path.
func (a Attribute) SetFile(f *os.File, value string) error {
	err := unix.Fsetxattr(int(f.Fd()), string(a), []byte(value), 0)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return ErrNoAttributes
	}
	return err
}

// Remove stores what was written to an image, and then removes the attribute. It may be repeated.
func (a Attribute) Remove(path string) error {
	return a.change(path, func(f *os.File) error {
		if err := unix.Fremovexattr(int(f.Fd()), string(a)); !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		return nil
	})
}

func (a Attribute) change(path string, change func(*os.File) error) error {
	f, info, err := open(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer fsutil.CloseRead(f) // synced
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: %w", path, ErrNoAttributes)
	}
	if err = f.Sync(); err == nil {
		err = change(f)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return fmt.Errorf("%s: change the attribute %s: %w", path, a, err)
	}
	return nil
}

// checkComplete returns an error that wraps luks.ErrIncomplete for an image with the attribute.
func checkComplete(f *os.File) error {
	_, marked, err := AttributeIncomplete.of(f)
	switch {
	case err != nil:
		return err
	case marked:
		return errIncomplete
	}
	return nil
}

// errIncomplete is that of luks.ReadHeader for an image without a header.
var errIncomplete = fmt.Errorf("%w: use the other one, which has all of them", luks.ErrIncomplete)
