package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/image"
)

// ErrNoAttributes reports that an image without encryption cannot be marked as incomplete: it is a block device, or its file system
// has no extended attributes of the class user.
var ErrNoAttributes = image.ErrNoAttributes

// Plain describes an image without encryption to be made, which a re-encryption fills. A file that exists is never replaced.
type Plain struct {
	// Path is that of the image, absolute.
	Path string
	// Format is raw, the default, or qcow2.
	Format blockgraph.Format
	// Size is that of the guest's disk, in bytes, a multiple of 512.
	Size int64
	// ID is the re-encryption's. The file has it as an attribute from before it has its name until [ReleasePlain].
	ID string
	// Qcow2, Mode, Owner, Group and Label are as in a [Request].
	Qcow2        Qcow2
	Mode         fs.FileMode
	Owner, Group *int
	Label        string
}

// complete fills in the defaults and checks the request.
func (p Plain) complete() (Request, error) {
	r := Request{Path: p.Path, Format: cmp.Or(p.Format, blockgraph.FormatRaw), Size: p.Size, Qcow2: p.Qcow2, Mode: cmp.Or(p.Mode, defaultMode), Owner: p.Owner, Group: p.Group, Label: p.Label, Preallocation: PreallocationOff, made: p.ID}
	switch {
	case p.ID == "":
		return r, fmt.Errorf("%w: an image without encryption is made for a re-encryption, which has an id", ErrRequest)
	case p.Size <= 0:
		return r, fmt.Errorf("%w: a disk of %d bytes", ErrRequest, p.Size)
	}
	return r, r.check()
}

// CheckPlain makes the checks that [CreatePlain] makes before its first change. It changes nothing. The errors are those of
// CreatePlain.
func CheckPlain(p Plain) error {
	r, err := p.complete()
	if err == nil {
		err = r.examinePlain()
	}
	if err != nil {
		return fmt.Errorf("check the image without encryption: %w", err)
	}
	return nil
}

// examinePlain checks where the image is going to be, and changes nothing.
func (r Request) examinePlain() error {
	if info, err := image.Inspect(r.Path); err == nil && info.Block {
		return fmt.Errorf("%s is a block device: %w", r.Path, ErrNoAttributes)
	}
	if err := absent(r.Path); err != nil {
		return err
	}
	dir := filepath.Dir(r.Path)
	if err := unix.Faccessat(unix.AT_FDCWD, dir, unix.W_OK, unix.AT_EACCESS); err != nil {
		return &fs.PathError{Op: "write to the directory", Path: dir, Err: err}
	}
	return image.AttributeIncomplete.Possible(r.Path)
}

// CreatePlain makes a sparse image without encryption. Errors before the first change wrap [ErrRequest], [ErrExists] or
// [ErrNoAttributes]; later ones are those of the file system, which wrap [ErrLabel] for a label and ErrNoAttributes, and of
// qemu-img. A [*LeftError] tells what is left, which is nothing otherwise.
func CreatePlain(ctx context.Context, p Plain) error {
	r, err := p.complete()
	if err == nil {
		err = r.examinePlain()
	}
	if err != nil {
		return fmt.Errorf("make the image without encryption: %w", err)
	}
	c := &creation{Request: r, begin: begin}
	if err := c.plain(ctx); err != nil {
		err = fmt.Errorf("make the image without encryption: %w", err)
		if left := c.undo(context.WithoutCancel(ctx)); len(left) > 0 {
			return &LeftError{err, left}
		}
		return err
	}
	return nil
}

// plain makes the file, reads it back, and gives it its name.
func (c *creation) plain(ctx context.Context) error {
	f, err := c.file(c.Path, c.Mode, nil)
	if err != nil {
		return err
	}
	if c.Format == blockgraph.FormatRaw {
		err = fill(f, nil, c.Size)
	} else if err = f.qcow2(ctx, c.Request, nil); err == nil {
		err = f.read(c.isQcow2)
	}
	if err != nil {
		return err
	}
	return f.publish()
}

// isQcow2 returns an error for what is not the qcow2 image that was requested.
func (c *creation) isQcow2(r io.ReaderAt) error {
	q, err := image.ReadQcow2(r)
	switch {
	case err != nil:
		return fmt.Errorf("read the image back: %w", err)
	case q.VirtualSize != c.Size || q.Crypt != image.CryptNone:
		return fmt.Errorf("qemu-img has made an image of %d bytes (encryption %s), and not of %d without", q.VirtualSize, q.Crypt, c.Size)
	}
	return nil
}

// MarkPlain marks an image without encryption as one that lacks data: luksplug opens it no more until [CompletePlain] is called.
// QEMU and libvirt do not know the mark. It stores the image before, and returns once the mark is stored. The image may be
// attached. It may be repeated. id is that of the re-encryption.
//
// The error wraps [ErrNoAttributes], or is that of the file system.
func MarkPlain(path, id string) error {
	if err := image.AttributeIncomplete.Set(path, id); err != nil {
		return fmt.Errorf("mark as incomplete: %w", err)
	}
	return nil
}

// CompletePlain stores an image, and then removes the mark of [MarkPlain]. It does the former only for an image that cannot have the
// mark.
func CompletePlain(path string) error {
	err := image.AttributeIncomplete.Remove(path)
	if errors.Is(err, ErrNoAttributes) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("mark as complete: %w", err)
	}
	return nil
}

// PlainMarks returns the ids of the re-encryptions that have made an image without encryption, and that have marked it as
// incomplete; "" for none. The errors are those of the file system.
func PlainMarks(path string) (made, incomplete string, err error) {
	if made, err = image.AttributeMade.Get(path); err != nil {
		return "", "", err
	}
	incomplete, err = image.AttributeIncomplete.Get(path)
	return made, incomplete, err
}

// ReleasePlain removes the attribute that [CreatePlain] has given an image: it is like any other then.
func ReleasePlain(path string) error {
	if err := image.AttributeMade.Remove(path); err != nil && !errors.Is(err, ErrNoAttributes) {
		return fmt.Errorf("release the image: %w", err)
	}
	return nil
}
