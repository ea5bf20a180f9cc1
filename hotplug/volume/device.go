package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets/luks"
)

// ErrSignature reports that a block device holds a file system or other data, and may not be overwritten.
var ErrSignature = errors.New("the block device holds data")

// device is a block device that holds the image. It is open for exclusive use, so that the kernel mounts nothing of it
// meanwhile (open(2), O_EXCL).
type device struct {
	*os.File
	path   string
	size   int64  // bytes
	sector int    // logical block size, bytes
	old    []byte // what was in the header's place; nil before it is written
}

// openDevice opens the block device for exclusive use. The error wraps [ErrInUse], or is of the file system.
func openDevice(path string, found *fsutil.Handle) (*device, error) {
	f, err := image.OpenUnheld(found, os.O_RDWR)
	if errors.Is(err, image.ErrHeld) {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrInUse, err)
	}
	if err != nil {
		return nil, err
	}
	d := &device{File: f, path: path}
	if d.size, err = f.Seek(0, io.SeekEnd); err == nil {
		d.sector, err = unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	}
	if err != nil {
		fsutil.CloseRead(f)
		return nil, fmt.Errorf("%s: query its size: %w", path, err)
	}
	return d, nil
}

// Size implements [image.Reader].
func (d *device) Size() int64 { return d.size }

// check refuses a device that holds data, or is too small for the request, and returns warnings.
func (d *device) check(ctx context.Context, r Request) (warnings []string, err error) {
	if err := unlocked(d.path); err != nil {
		return nil, err
	}
	found, err := new(image.Searches).Signatures(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("%s: search it for data: %w", d.path, err)
	}
	if warnings, err = d.checkSignatures(r, found); err != nil {
		return nil, err
	}
	if d.sector != luks.SectorSize {
		warnings = append(warnings, fmt.Sprintf("%s has sectors of %d bytes, and LUKS for QEMU encrypts sectors of %d: QEMU reads before each write that is smaller or not aligned; "+
			"give the guest the same sectors, by <blockio logical_block_size='%d' physical_block_size='%d'/> in the <disk>", d.path, d.sector, luks.SectorSize, d.sector, d.sector))
	}
	if r.Mode != defaultMode || r.Owner != nil || r.Group != nil || r.Label != "" || r.NoCOW {
		warnings = append(warnings, d.path+" keeps its owner, mode and label, which are udev's")
	}
	return warnings, nil
}

// checkSignatures refuses a device with data, unless the request forces it.
func (d *device) checkSignatures(r Request, found []image.Signature) (warnings []string, err error) {
	if r.Force != 0 && r.Force != d.size {
		return nil, fmt.Errorf("%s: %w: it has %d bytes, and data on a device of %d bytes may be overwritten", d.path, ErrSignature, d.size, r.Force)
	}
	for _, s := range found {
		switch {
		case r.Header != "":
			return nil, fmt.Errorf("%s %w: %s, which would stay there, because the header is elsewhere, and no disk with it is attached; clear it first if it is not needed: wipefs --all %s", d.path, ErrExists, s, d.path)
		case r.Force == 0:
			return nil, fmt.Errorf("%s: %w: %s, and %d bytes in all; look at it, and clear it if it is not needed: wipefs --all %s", d.path, ErrSignature, s, d.size, d.path)
		case s.Offset >= r.LUKS.PayloadOffset:
			warnings = append(warnings, fmt.Sprintf("%s has %s, which stays there until the guest overwrites it", d.path, s))
		}
	}
	return warnings, nil
}

// fit returns the size of the guest's disk on the device. The error wraps [ErrRequest].
func (d *device) fit(r Request) (size int64, warning string, err error) {
	size = (d.size - r.LUKS.PayloadOffset) / luks.SectorSize * luks.SectorSize
	switch {
	case size <= 0 || r.Size > size:
		return 0, "", fmt.Errorf("%w: %s has %d bytes, of which the header takes %d, and the disk is to have %d", ErrRequest, d.path, d.size, r.LUKS.PayloadOffset, r.Size)
	case r.Size > 0 && r.Size < size:
		warning = fmt.Sprintf("the disk has all %d bytes of %s after the header, and not only the %d that were asked for: a LUKS header does not limit the size", size, d.path, r.Size)
	}
	return size, warning, nil
}

// read implements [output].
func (d *device) read(do func(io.ReaderAt) error) error { return do(d) }

// fill writes the header and clears the rest of its area, in bytes. remove writes back what was there.
func (d *device) fill(header []byte, area int64) error {
	old := make([]byte, area)
	if _, err := d.ReadAt(old, 0); err != nil {
		return fmt.Errorf("%s: read what is in the header's place: %w", d.path, err)
	}
	d.old = old
	content := make([]byte, area)
	copy(content, header)
	return d.write(content)
}

// write writes the header's area, and reads it back.
func (d *device) write(content []byte) error {
	if _, err := d.WriteAt(content, 0); err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		return err
	}
	if err := same(d, content); err != nil {
		return fmt.Errorf("%s: %w", d.path, err)
	}
	return nil
}

func (d *device) publish() error { return nil } // it has its name

func (d *device) remove() []string {
	if d.old == nil {
		return nil
	}
	if err := d.write(d.old); err != nil {
		return []string{fmt.Sprintf("the first %d bytes of %s, which are overwritten (%v)", len(d.old), d.path, err)}
	}
	return nil
}
