package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/volume"
)

// Layout is how a disk is stored.
type Layout string

// The layouts.
const (
	LayoutRaw           Layout = "raw"             // plain
	LayoutQcow2         Layout = "qcow2"           // plain
	LayoutLUKS          Layout = "luks"            // raw, the header before the payload
	LayoutDetachedRaw   Layout = "luks over raw"   // the header in a file of its own
	LayoutDetachedQcow2 Layout = "luks over qcow2" // the header in a file of its own
	LayoutLUKSInQcow2   Layout = "luks in qcow2"   // encrypt.format of QEMU's driver
)

var layouts = []Layout{LayoutRaw, LayoutQcow2, LayoutLUKS, LayoutDetachedRaw, LayoutDetachedQcow2, LayoutLUKSInQcow2}

// sparse reports whether QEMU knows which parts of such a disk have no data (as a source), and can leave such parts without
// storage (as a target). Its driver luks can do neither: it encrypts and decrypts zeros, and holes, like any other data.
//
// blockdev-mirror, sync full, of a disk of 256 MiB with 16 MiB and 64 KiB written left targets of these sizes in KiB, the same with
// QEMU 10.0.2 and 11.1.3 (give or take 4 KiB of the file system). luks has a header of 2 MiB (LUKS1), qcow2 clusters of 64 KiB:
//
//	source \ target  raw     qcow2   luks    luks over raw  luks over qcow2  luks in qcow2
//	raw               16448   16708  264192  262144         262408            18756
//	qcow2             16448   16708  264192  262144         262404            18756
//	luks in qcow2     16448   16708  264192  262144         262408            18756
//	luks             262144  262404  264192  262144         262404           264456
//	luks over raw    262144  262404  264192  262144         262408           264456
//	luks over qcow2  262144  262408  264192  262144         262408           264456
//
// A part with data that is smaller than the job's granularity, or than the target's cluster, takes all of it: 64 writes of 4 KiB in
// 1 MiB each to a raw disk (260 KiB) became 4100 KiB as raw, and 67588 KiB more than an empty image in qcow2 with clusters of 2 MiB. Zeros that a guest
// has written are data, unless the target has detect-zeroes. What a guest has discarded is none in a sparse source: of 128
// MiB with 96 MiB discarded 32 MiB were copied; from luks to any target all 256 MiB.
func (l Layout) sparse() bool {
	return l == LayoutRaw || l == LayoutQcow2 || l == LayoutLUKSInQcow2
}

func (l Layout) qcow2() bool {
	return l == LayoutQcow2 || l == LayoutDetachedQcow2 || l == LayoutLUKSInQcow2
}

// The granularity of blockdev-mirror is the target's cluster size within these bounds, or the upper bound (QEMU: block/dirty-bitmap.c,
// bdrv_get_default_bitmap_granularity).
const minGranularity, maxGranularity = 4 << 10, 64 << 10

// Source is the disk that is copied.
type Source struct {
	Layout Layout
	// Size is that of the guest's disk, in bytes.
	Size int64
	// Layers are the image and those below it, the upper one first, of a layout in which QEMU sees what is stored. Images
	// are not searched for the names of others: an image's writer could name any file.
	Layers []Layer
	// Header is the path of a detached header, "" for none.
	Header string
}

// Layer is an image of a chain.
type Layer struct {
	Path   string
	Format blockgraph.Format
	// Opaque is an image of whose parts all count as stored: one with a LUKS header below a qcow2 image, or one of a server.
	Opaque bool
}

// Target is the volume that is going to be made.
type Target struct {
	Layout Layout
	// Path is that of the file that is going to be made, or of a block device. Header is that of a detached header, "" for
	// none.
	Path, Header string
	// HeaderSize is what a LUKS header takes in its file: up to the payload, or all of a file of its own. 0 is 16 MiB.
	HeaderSize int64
	// Qcow2 are the options of a qcow2 image.
	Qcow2 volume.Qcow2
	// Preallocation is how much is allocated before a byte is copied. All of a volume is with falloc and full.
	Preallocation volume.Preallocation
}

// Copying is what is going to be copied, and how.
type Copying struct {
	Source Source
	Target Target
	// Speed is the limit of the job in bytes a second, 0 for none. Rate is the rate that was measured on this host, 0 if it is
	// not known.
	Speed, Rate int64
	// InPlace gives the target the name of the source in the end, and removes the source.
	InPlace bool
	// Writer is the user as which QEMU writes the files, and who owns them; nil is this process's.
	Writer *Writer
}

// Cost is what a re-encryption takes. All sizes are in bytes.
type Cost struct {
	// Size is that of the guest's disk.
	Size int64
	// Data is how much of it the source stores, in the units in which it is copied; all of it for a source of which QEMU sees
	// no holes. Exact is unset if an image could not be read, which counts as all data.
	Data  int64
	Exact bool
	// Thin is set if the target stores only the data that QEMU sees in the source.
	Thin bool
	// Trim is set if fstrim in the guest, before it begins, makes a thin target smaller: if the disk passes discards on
	// (discard='unmap'), they take data from the source. With a target that is not thin fstrim changes nothing, and
	// neither with a raw source on a block device, all of which is data.
	Trim bool
	// Copied is how much the job writes. A guest that writes meanwhile adds to it.
	Copied int64
	// Allocation is what the target stores of the guest's disk, and Metadata what it needs in addition: the header, tables of
	// qcow2, and a share for the file system's own.
	Allocation, Metadata int64
	// Most is what the target takes in all if the guest writes everywhere until the end.
	Most int64
	// Freed is what is free again in the end, in place: the allocation of the source.
	Freed int64
	// Time is how long copying takes at least, 0 if it is not known. BySpeed is set if the limit determines it, and not the measured rate.
	Time    time.Duration
	BySpeed bool
	// Places are where the target is stored: its payload, and its header if that is on another file system.
	Places []Place
}

// ErrCopying reports that such a copy is not possible, or that its costs cannot be computed.
var ErrCopying = errors.New("such a re-encryption is not possible")

// EstimateCost computes what a re-encryption costs, and changes nothing. The errors wrap [ErrCopying], or are those of reading
// where the target is going to be, such as fs.ErrNotExist for a directory, or of ctx: it reads the tables of qcow2 images.
func EstimateCost(ctx context.Context, c Copying) (Cost, error) {
	if err := c.check(); err != nil {
		return Cost{}, err
	}
	cluster := c.Target.cluster()
	granularity := int64(maxGranularity)
	if cluster != 0 {
		granularity = min(max(cluster, minGranularity), maxGranularity)
	}
	data, exact, err := c.Source.data(ctx, max(granularity, cluster))
	if err != nil {
		return Cost{}, fmt.Errorf("find what the disk stores: %w", err)
	}
	out := Cost{Size: c.Source.Size, Data: data, Exact: exact, Copied: c.Source.Size}
	if c.Source.Layout.sparse() && c.Target.Layout.sparse() {
		out.Copied, out.Thin, out.Trim = data, true, c.Source.trims()
	}
	out.Allocation = roundUp(out.Copied, max(cluster, 1))
	if p := c.Target.Preallocation; p == volume.PreallocationFalloc || p == volume.PreallocationFull {
		out.Allocation = roundUp(out.Size, max(cluster, 1))
		out.Thin, out.Trim = false, false
	}
	header, tables := c.Target.metadata(out.Size, out.Allocation)
	most := roundUp(out.Size, max(cluster, 1))
	headerMost, tablesMost := c.Target.metadata(out.Size, most)
	payload := need{withShare(out.Allocation + tables), withShare(most + tablesMost), most + tablesMost}
	detached := need{}
	if c.Target.Header == "" {
		payload = need{payload.expected + header, payload.most + headerMost, payload.device + headerMost}
	} else {
		detached = need{withShare(header), withShare(header), header}
	}
	out.Metadata = payload.expected + detached.expected - out.Allocation
	out.Most = payload.most + detached.most
	if c.InPlace {
		out.Freed = c.Source.stored()
	}
	if rate, bySpeed := c.rate(); rate > 0 {
		out.Time, out.BySpeed = timeFor(out.Copied, rate), bySpeed
	}
	out.Places, err = places(c, payload, detached)
	return out, err
}

// check refuses what cannot be copied.
func (c Copying) check() error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrCopying, fmt.Sprintf(format, args...))
	}
	t := c.Target
	detached := t.Layout == LayoutDetachedRaw || t.Layout == LayoutDetachedQcow2
	switch size := t.Qcow2.ClusterSize; {
	case !slices.Contains(layouts, c.Source.Layout):
		return refuse("the layout %q of the source is not known", c.Source.Layout)
	case !slices.Contains(layouts, t.Layout):
		return refuse("the layout %q of the target is not known", t.Layout)
	case c.Source.Size <= 0 || c.Source.Size > maxSize:
		return refuse("a disk of %d bytes", c.Source.Size)
	case detached != (t.Header != ""):
		return refuse("the layout %q, and the header %q", t.Layout, t.Header)
	case !filepath.IsAbs(t.Path) || t.Header != "" && !filepath.IsAbs(t.Header):
		return refuse("the paths %q and %q are not absolute", t.Path, t.Header)
	case t.HeaderSize < 0 || t.HeaderSize > maxHeader:
		return refuse("a LUKS header of %d bytes", t.HeaderSize)
	case size != 0 && (size < minCluster || size > maxCluster || size&(size-1) != 0):
		return refuse("clusters of %d bytes", size)
	case c.Speed < 0 || c.Rate < 0:
		return refuse("the speed %d, the rate %d", c.Speed, c.Rate)
	}
	return nil
}

const (
	maxSize                = 1 << 60 // so that no sum overflows
	maxHeader              = 1 << 30
	minCluster, maxCluster = 512, 2 << 20
	defaultCluster         = 64 << 10
	defaultHeader          = 16 << 20 // of LUKS2, the larger one
)

// cluster returns the target's cluster size, 0 for raw.
func (t Target) cluster() int64 {
	switch {
	case !t.Layout.qcow2():
		return 0
	case t.Qcow2.ClusterSize != 0:
		return t.Qcow2.ClusterSize
	}
	return defaultCluster
}

// metadata returns the sizes of the LUKS header, and of qcow2's tables, of a target with size bytes, of which it stores
// allocated. All L2 tables count: QEMU writes them for zeros as well.
func (t Target) metadata(size, allocated int64) (header, tables int64) {
	if t.Layout != LayoutRaw && t.Layout != LayoutQcow2 {
		header = t.HeaderSize
		if header == 0 {
			header = defaultHeader
		}
	}
	c := t.cluster()
	if c == 0 {
		return header, 0
	}
	entry := int64(8)
	if t.Qcow2.ExtendedL2 {
		entry = 16
	}
	inside := int64(0)
	if t.Layout == LayoutLUKSInQcow2 {
		header = roundUp(header, c)
		inside = header
	}
	l2 := roundUp(size, c) / c * entry / c * c
	if l2 < roundUp(size, c)/c*entry {
		l2 += c
	}
	l1 := roundUp(l2/c*8, c)
	other := c + l1 + l2 + inside // with the cluster of the header
	// A refcount has 16 bits, and refcount blocks have refcounts themselves.
	blocks := int64(0)
	for clusters := (allocated + other) / c; ; {
		b := roundUp(clusters+blocks, c/2) / (c / 2)
		if b == blocks {
			break
		}
		blocks = b
	}
	return header, other - inside + blocks*c + roundUp(blocks*8, c)
}

// withShare adds the share of the file system: on ext4, 4 KiB of tables were measured for 256 MiB; btrfs has checksums of 1 in
// 1024.
func withShare(n int64) int64 {
	if n == 0 {
		return 0
	}
	return n + n/1024 + 64<<10
}

// rate returns the expected rate in bytes a second, 0 if it is not known, and whether it is the limit.
func (c Copying) rate() (rate int64, bySpeed bool) {
	if c.Speed != 0 && (c.Rate == 0 || c.Speed <= c.Rate) {
		return c.Speed, true
	}
	return c.Rate, false
}

// timeFor returns how long that many bytes take, in whole seconds, at least one.
func timeFor(bytes, rate int64) time.Duration {
	const longest = 1 << 33 // seconds, of what a Duration can be
	return time.Duration(min(max(1, (bytes+rate-1)/rate), longest)) * time.Second
}

// trims reports whether a discard of the guest leaves less data in the source.
func (s Source) trims() bool {
	if len(s.Layers) == 0 || s.Layers[0].Opaque {
		return false
	}
	top := s.Layers[0]
	return top.Format == blockgraph.FormatQcow2 || top.Format == blockgraph.FormatRaw && !block(top.Path)
}

// stored returns what the files of the source take on their file systems. What is below the image stays.
func (s Source) stored() (bytes int64) {
	paths := []string{s.Header}
	if len(s.Layers) > 0 {
		paths = append(paths, s.Layers[0].Path)
	}
	for _, path := range paths {
		var st unix.Stat_t
		if path != "" && unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
			bytes += st.Blocks * blockUnit
		}
	}
	return bytes
}

// blockUnit is the unit of st_blocks (stat(2)).
const blockUnit = 512

// Fits returns nil if there is room for the target, as far as that is known. Otherwise the error is a [*RoomError], which
// wraps [volume.ErrNoRoom].
func (c Cost) Fits() error {
	for _, p := range c.Places {
		if limit, tight := p.tightest(); tight && limit.Free < p.Need {
			return &RoomError{Place: p, Limit: limit, Trim: c.Trim}
		}
	}
	return nil
}

// MayOutgrow returns the places that have room for what is expected, and not for what the guest may write meanwhile: the job
// pauses when a place is full, and goes on when there is room.
func (c Cost) MayOutgrow() (out []Place) {
	for _, p := range c.Places {
		if limit, tight := p.tightest(); tight && limit.Free >= p.Need && limit.Free < p.Most {
			out = append(out, p)
		}
	}
	return out
}

// RoomError reports a place without room for the target.
type RoomError struct {
	Place Place
	// Limit is what is exceeded.
	Limit Limit
	// Trim is set if fstrim in the guest would make the target smaller, see [Cost].
	Trim bool
}

// Error implements error.
func (e *RoomError) Error() string {
	if e.Limit.Kind == LimitDevice {
		return fmt.Sprintf("%s: %v: the device has %d bytes, and the new volume needs %d: use a larger device, or a file", e.Place.Path, volume.ErrNoRoom, e.Limit.Free, e.Place.Need)
	}
	text := fmt.Sprintf("%s: %v: the new volume needs %d bytes, and %d are free (%s): make room, or choose a directory of another file system for it", e.Place.Path, volume.ErrNoRoom, e.Place.Need, e.Limit.Free, e.Limit.Kind)
	if e.Trim {
		text += "; it stores only what the old volume does, so that fstrim in the guest makes it smaller, if the disk has discard='unmap'"
	}
	return text
}

// Unwrap returns [volume.ErrNoRoom].
func (e *RoomError) Unwrap() error { return volume.ErrNoRoom }

// block reports whether a block device is at a path.
func block(path string) bool {
	info, err := image.Inspect(path)
	return err == nil && info.Block
}
