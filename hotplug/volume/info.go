package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets"
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
	// HeaderAlone is true if no payload follows the header: the file is a detached header, or a backup of one.
	HeaderAlone bool
	// Problem is why luksplug cannot open the volume, nil if it can. QEMU is why QEMU's LUKS driver alone cannot.
	Problem, QEMU error
	// Slots are the key slots in use.
	Slots []luks.SlotCost
	// Attached are the VMs of this host to which luksplug has attached the volume.
	Attached []hotplug.Use
	// Locked is true if a program of QEMU's has the image open, also one that luksplug does not know of. Holders are the
	// processes that have locks on the image, as far as this process can see.
	Locked  bool
	Holders []Holder
}

// Holder is a process that has locks on an image.
type Holder = image.Holder

// Layout is where the header and the payload of a volume are.
type Layout string

// The layouts.
const (
	LayoutRaw           Layout = "raw"             // the header is at the beginning of the image
	LayoutRawDetached   Layout = "raw, detached"   // the header is in a file of its own
	LayoutQcow2         Layout = "qcow2"           // the header is inside the image
	LayoutQcow2Detached Layout = "qcow2, detached" // the header is in a file of its own
	LayoutHeader        Layout = "header"          // a header without its image
)

// Layout returns the layout, "" if the image could not be read.
func (i *Info) Layout() Layout {
	switch {
	case i.LUKS == nil:
		return ""
	case i.HeaderAlone:
		return LayoutHeader
	case i.Format == string(image.Qcow2) && i.Header != "":
		return LayoutQcow2Detached
	case i.Format == string(image.Qcow2):
		return LayoutQcow2
	case i.Header != "":
		return LayoutRawDetached
	}
	return LayoutRaw
}

// ErrNoVolume reports that an image has no LUKS header, and that none was named.
var ErrNoVolume = errors.New("it has no LUKS header")

// Inspect reads an image and its header, header being "" for one in the image. uses are the disks that are attached on
// this host, as [hotplug.Uses] returns them. It changes nothing and needs no passphrase. Of an incomplete volume, LUKS.Incomplete
// is true, and Problem is [ErrIncomplete]. The errors wrap [ErrNoVolume],
// those of the file system and those of luks.ReadHeader. It measures for some milliseconds, and ends when ctx ends.
func Inspect(ctx context.Context, path, header string, uses []hotplug.Use) (*Info, error) {
	i, err := read(path, header)
	if err != nil {
		return nil, err
	}
	if i.Slots, err = i.LUKS.SlotCosts(ctx); err != nil {
		return nil, err
	}
	for _, u := range uses {
		if image.SameFile(u.Payload, path) {
			i.Attached = append(i.Attached, u)
		}
	}
	if i.Locked, err = image.Locked(path); err != nil {
		return nil, err
	}
	if i.Locked {
		i.Holders = image.ReadHolders().Of(path)
	}
	return i, nil
}

// read returns what the image and its header say, and nothing of what uses them.
func read(path, header string) (*Info, error) {
	i, probed, err := incomplete().layout(path, header)
	if err != nil {
		return nil, err
	}
	if i.Stored, err = stored(path); err != nil {
		return nil, err
	}
	i.Size = i.guestSize(probed)
	i.HeaderAlone = header == "" && !i.Inside && (i.LUKS.PayloadOffset() == 0 || probed.Size <= i.LUKS.PayloadOffset())
	i.Problem, i.QEMU = i.LUKS.Usable(), i.LUKS.QEMUOpens()
	if i.LUKS.Incomplete {
		i.Problem, i.QEMU = ErrIncomplete, ErrIncomplete
	}
	return i, nil
}

// TrySlot tries a passphrase on the key slots of a volume, which may be incomplete, and returns the first one that it opens. The errors are those of
// [Inspect] and of luks.Header.Unlock, among them [ErrWrongPassphrase].
func TrySlot(ctx context.Context, path, header string, passphrase *secrets.Secret) (slot int, err error) {
	r, err := incomplete().openHeader(path, header)
	if err != nil {
		return 0, err
	}
	defer fsutil.CloseRead(r)
	h, err := luks.ReadIncomplete(r)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", cmp.Or(header, path), err)
	}
	err = passphrase.Use(func(value []byte) error {
		key, err := h.Unlock(ctx, value)
		if err == nil {
			slot = key.Slot()
		}
		key.Wipe()
		return err
	})
	return slot, err
}

// openedHeader reads a header from where it begins.
type openedHeader struct {
	io.ReaderAt
	io.Closer
}

// openHeader opens the header of a volume for reading. The caller closes it.
func (r reading) openHeader(path, header string) (*openedHeader, error) {
	file := cmp.Or(header, path)
	probed, err := r.probe(file)
	if err != nil {
		return nil, err
	}
	format := image.Raw
	if probed.Qcow2 != nil && header != "" {
		format = image.Qcow2
	}
	g, err := image.OpenGuest(file, format, "")
	if err != nil {
		return nil, err
	}
	if q := probed.Qcow2; q != nil && header == "" {
		return &openedHeader{io.NewSectionReader(g, q.LUKSOffset, q.LUKSLength), g}, nil
	}
	return &openedHeader{g, g}, nil
}

// reading is how headers are read: only those of complete volumes, or also marked ones.
type reading struct {
	probe func(path string) (*image.Info, error)
	read  func(io.ReaderAt) (*luks.Header, error)
	qcow2 func(io.ReaderAt) (*image.Qcow2Header, error)
}

func complete() reading { return reading{image.Probe, luks.ReadHeader, image.ReadQcow2} }
func incomplete() reading {
	return reading{image.ProbeIncomplete, luks.ReadIncomplete, image.ReadQcow2Incomplete}
}

// layout probes an image, and returns what it and its header are, header being "" for one in the image.
func (r reading) layout(path, header string) (*Info, *image.Info, error) {
	probed, err := r.probe(path)
	if err != nil {
		return nil, nil, err
	}
	i, err := r.layoutOf(probed, header)
	return i, probed, err
}

func (r reading) layoutOf(probed *image.Info, header string) (*Info, error) {
	i := &Info{Path: probed.Path, Header: header, Format: string(probed.Format), Block: probed.Block, LUKS: probed.LUKS}
	if probed.LUKS != nil {
		i.Format = string(image.Raw)
	}
	if probed.Qcow2 != nil {
		i.LUKS, i.Inside = probed.Qcow2.LUKS, probed.Qcow2.LUKS != nil
	}
	if header != "" {
		var err error
		if i.LUKS, err = r.readHeader(header); err != nil {
			return nil, fmt.Errorf("%s: %w", header, err)
		}
		i.Inside = false
	}
	switch {
	case i.LUKS == nil && probed.Format.Encrypted():
		return nil, fmt.Errorf("%s: %w: it is %s", probed.Path, luks.ErrUnsupported, probed.Format)
	case i.LUKS == nil && probed.Marked:
		return nil, fmt.Errorf("%s: %w: use the other one, which has all of them", probed.Path, ErrIncomplete)
	case i.LUKS == nil:
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
func (r reading) readHeader(path string) (*luks.Header, error) {
	opened, err := r.openHeader("", path)
	if err != nil {
		return nil, err
	}
	defer fsutil.CloseRead(opened)
	return r.read(opened)
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
