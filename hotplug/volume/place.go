package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/fsutil"
)

// place is where a volume is going to be, as it was examined before anything was changed.
type place struct {
	size     int64                // of the guest's disk
	device   *device              // has the image, nil for a file
	replaces fs.FileInfo          // the file that the image replaces, nil for none
	backing  []diskxml.LocalLayer // the images below the image
	warnings []string
}

func (p place) close() {
	if p.device != nil {
		fsutil.CloseRead(p.device)
	}
}

// examine checks where the volume is going to be, and changes nothing. The caller closes the place, also after an error.
func (r Request) examine(ctx context.Context) (p place, err error) {
	p.size = r.Size
	if err := unattached(r.Attached, r.Path, ""); err != nil { // there may be no file at r.Header
		return p, err
	}
	if r.Header != "" {
		if err := absent(r.Header); err != nil {
			return p, err
		}
	}
	if err := p.findImage(ctx, r); err != nil {
		return p, err
	}
	if r.Backing != nil {
		var size int64
		if p.backing, size, err = r.Backing.chain(); err != nil {
			return p, err
		}
		if p.size == 0 {
			p.size = size
		}
	}
	if p.size == 0 {
		return p, fmt.Errorf("%w: a disk without a size", ErrRequest)
	}
	if p.device == nil && r.Preallocation.reserves() {
		return p, checkRoom(r.Path, p.size)
	}
	return p, nil
}

// findImage finds what is at the path of the image.
func (p *place) findImage(ctx context.Context, r Request) error {
	info, err := os.Lstat(r.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return r.checkNew()
	case err != nil:
		return err
	case info.Mode().IsRegular():
		return p.replace(r, info)
	}
	found, err := fsutil.Find(r.Path) // follows links that are not another user's, as those of /dev
	if err != nil || found.Mode()&fs.ModeDevice == 0 || found.Mode()&fs.ModeCharDevice != 0 {
		if err == nil {
			found.Close()
		}
		return fmt.Errorf("%s %w, and is neither a file nor a block device", r.Path, ErrExists)
	}
	defer found.Close()
	if r.Format != "raw" || r.Preallocation != PreallocationOff {
		return fmt.Errorf("%w: %s is a block device, which holds a raw image without preallocation", ErrRequest, r.Path)
	}
	if p.device, err = openDevice(r.Path, found); err != nil {
		return err
	}
	if p.warnings, err = p.device.check(ctx, r); err != nil {
		return err
	}
	size, warning, err := p.device.fit(r)
	if warning != "" {
		p.warnings = append(p.warnings, warning)
	}
	p.size = size
	return err
}

// checkNew refuses what is only for an image that exists.
func (r Request) checkNew() error {
	if r.Force != 0 {
		return fmt.Errorf("%w: data of %d bytes may be overwritten, and there is no %s", ErrRequest, r.Force, r.Path)
	}
	return nil
}

// replace lets the image replace a file that is empty, or has exactly the size of the request's Force.
func (p *place) replace(r Request, info fs.FileInfo) error {
	if _, err := image.Inspect(r.Path); errors.Is(err, ErrIncomplete) {
		return err
	}
	switch {
	case info.Size() == 0 && r.Force == 0:
	case info.Size() != r.Force || r.Force == 0:
		return fmt.Errorf("%s %w: it has %d bytes", r.Path, ErrExists, info.Size())
	}
	if err := unlocked(r.Path); err != nil {
		return err
	}
	p.replaces = info
	return nil
}
