package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Info is what an image of this host and its LUKS header say of a volume. A guest or another user may have written both.
type Info struct {
	Path, Header string
	Format       string // of the image: "raw", "qcow2"
	Block        bool   // the image is a block device
	// Size is that of the guest's disk, and Stored how much of the image is allocated, in bytes. 0 is unknown.
	Size, Stored int64
	LUKS         *luks.Header
	// Inside is true if the header is inside a qcow2 image.
	Inside bool
	// Problem is why luksplug cannot open the volume, nil if it can. QEMU is why QEMU's LUKS driver alone cannot.
	Problem, QEMU error
	// Slots are the key slots in use.
	Slots []luks.SlotCost
	// Attached are the VMs of this host to which luksplug has attached the volume.
	Attached []hotplug.Use
}

// ErrNoVolume reports that an image has no LUKS header, and that none was named.
var ErrNoVolume = errors.New("it has no LUKS header")

// Inspect reads an image and its header, header being "" for one in the image. uses are the disks that are attached on
// this host, as [hotplug.Uses] returns them. It changes nothing and needs no passphrase. The errors wrap [ErrNoVolume],
// those of the file system and those of luks.ReadHeader. It measures for some milliseconds, and ends when ctx ends.
func Inspect(ctx context.Context, path, header string, uses []hotplug.Use) (*Info, error) {
	probed, err := image.Probe(path)
	if err != nil {
		return nil, err
	}
	i, err := layoutOf(probed, header)
	if err != nil {
		return nil, err
	}
	if i.Stored, err = stored(path); err != nil {
		return nil, err
	}
	i.Size = i.guestSize(probed)
	i.Problem, i.QEMU = i.LUKS.Usable(), i.LUKS.QEMUOpens()
	if i.Slots, err = i.LUKS.SlotCosts(ctx); err != nil {
		return nil, err
	}
	for _, u := range uses {
		if image.SameFile(u.Payload, path) {
			i.Attached = append(i.Attached, u)
		}
	}
	return i, nil
}

// layoutOf returns what an image and its header are, header being "" for one in the image.
func layoutOf(probed *image.Info, header string) (*Info, error) {
	i := &Info{Path: probed.Path, Header: header, Format: string(probed.Format), Block: probed.Block, LUKS: probed.LUKS}
	if probed.Format == image.LUKS {
		i.Format = string(image.Raw)
	}
	if probed.Qcow2 != nil {
		i.LUKS, i.Inside = probed.Qcow2.LUKS, probed.Qcow2.LUKS != nil
	}
	if header != "" {
		var err error
		if i.LUKS, err = readHeader(header); err != nil {
			return nil, fmt.Errorf("%s: %w", header, err)
		}
		i.Inside = false
	}
	if i.LUKS == nil {
		return nil, fmt.Errorf("%s: %w: name its header if that is in a file of its own", probed.Path, ErrNoVolume)
	}
	return i, nil
}

// guestSize returns the size of the guest's disk.
func (i *Info) guestSize(probed *image.Info) int64 {
	size := probed.Size
	if probed.Qcow2 != nil {
		size = probed.Qcow2.VirtualSize
	}
	if i.Inside {
		return size
	}
	return max(size-max(i.LUKS.PayloadOffset(), 0), 0)
}

// readHeader reads the header in a file of its own, which may be a qcow2 image.
func readHeader(path string) (*luks.Header, error) {
	format := image.Raw
	probed, err := image.Probe(path)
	if err != nil {
		return nil, err
	}
	if probed.Qcow2 != nil {
		format = image.Qcow2
	}
	r, err := image.OpenGuest(path, format, "")
	if err != nil {
		return nil, err
	}
	defer fsutil.CloseRead(r)
	return luks.ReadHeader(r)
}

// stored returns how many bytes of a file are allocated.
func stored(path string) (int64, error) {
	stat, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	if s, ok := stat.Sys().(*syscall.Stat_t); ok {
		return s.Blocks * 512, nil // stat(2): always of 512 bytes
	}
	return 0, nil
}
