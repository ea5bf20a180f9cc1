package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Errors of [Resize]. Test with errors.Is.
var (
	// ErrSize: no disk can have the size, or the volume's image cannot.
	ErrSize = hotplug.ErrSize
	// ErrShrink: the new size is smaller, and the caller has not allowed that.
	ErrShrink = errors.New("the volume would become smaller")
	// ErrFixedSize: a part of the volume has a fixed size.
	ErrFixedSize = errors.New("a part of the volume has a fixed size")
)

// Resizing is what [Resize] changes.
type Resizing struct {
	// Path is that of the image, Header that of a header in a file of its own, "" for one in the image.
	Path, Header string
	// Size is that of the guest's disk.
	Size hotplug.NewSize
	// Shrink allows a smaller size. What is beyond it is lost.
	Shrink bool
	// Allocate reserves the new space of a raw image on the file system. Without it the file is sparse.
	Allocate bool
	// Passphrase returns the passphrase of the volume. It is called only for a qcow2 image with the header inside, which
	// qemu-img has to open. Resize wipes the secret.
	Passphrase func(ctx context.Context) (*secrets.Secret, error)
	// Attached are the disks that are attached on this host, as [hotplug.Uses] returns them.
	Attached []hotplug.Use
	// DryRun makes all checks, and changes nothing.
	DryRun bool
	// Report receives the progress of an allocation.
	Report Report
}

// Resized is the result of [Resize].
type Resized struct {
	// Old and New are the sizes of the guest's disk in bytes. They are equal if nothing was changed.
	Old, New int64
	// Format is that of the image: "raw", "qcow2".
	Format string
	// Block is true for a block device, which had the new size already.
	Block bool
}

// Resize gives a volume that no VM uses a new size. The header is not changed: none of the layouts has the size of the
// payload in it. A raw file is extended or cut off at once, a qcow2 image by qemu-img. All of it is synced. A block device
// must have the new size already.
//
// Errors before the first change wrap [ErrSize], [ErrShrink], [ErrFixedSize], [ErrAttached], [ErrNoVolume], [ErrPassphrase],
// [ErrWrongPassphrase], those of the file system and those of luks.ReadHeader. Later ones are of the file system and of qemu-img, and the volume has its old
// size, or a [*LeftError] says what it has instead.
func Resize(ctx context.Context, r Resizing) (*Resized, error) {
	out, err := r.resize(ctx)
	if err != nil {
		return nil, fmt.Errorf("resize %s: %w", r.Path, err)
	}
	return out, nil
}

func (r Resizing) resize(ctx context.Context) (*Resized, error) {
	if err := unattached(r.Attached, r.Path, r.Header); err != nil {
		return nil, err
	}
	i, probed, err := r.probe()
	if err != nil {
		return nil, err
	}
	out := &Resized{Old: i.guestSize(probed), Format: i.Format, Block: i.Block}
	if out.New, err = r.Size.Of(out.Old); err != nil {
		return nil, err
	}
	if err := r.check(i, probed, out); err != nil {
		return nil, err
	}
	if err := unlocked(r.Path); err != nil {
		return nil, err
	}
	if out.New == out.Old || out.Block {
		return out, nil
	}
	if probed.Qcow2 != nil {
		return out, r.qcow2(ctx, i, out)
	}
	return out, r.raw(ctx, max(i.LUKS.PayloadOffset(), 0)+out.New)
}

// probe reads the image and its header.
func (r Resizing) probe() (*Info, *image.Info, error) {
	return complete().layout(r.Path, r.Header)
}

// check refuses what the volume cannot become.
func (r Resizing) check(i *Info, probed *image.Info, to *Resized) error {
	if h := i.LUKS.LUKS2; h != nil {
		if i.LUKS.PayloadOffset() == luks.UnknownOffset {
			return fmt.Errorf("%w: its LUKS2 header has %d segments: end a re-encryption first", ErrFixedSize, len(h.Segments))
		}
		s := h.Segments[0]
		if s.Size != 0 {
			return fmt.Errorf("%w: the segment of its LUKS2 header has %d bytes, whatever the size of the image, and only re-encryption with cryptsetup changes that", ErrFixedSize, s.Size)
		}
		if sector := int64(s.SectorSize); sector > 0 && to.New%sector != 0 {
			return fmt.Errorf("%w: %d bytes are no multiple of its sectors of %d", ErrSize, to.New, sector)
		}
	}
	switch q := probed.Qcow2; {
	case to.New < to.Old && !r.Shrink:
		return fmt.Errorf("%w: it has %d bytes, and what is beyond %d would be lost", ErrShrink, to.Old, to.New)
	case i.Block && to.New != to.Old:
		return fmt.Errorf("%w: a block device has the size that its owner gives it (lvextend, for example), and the disk on it has %d bytes now", ErrSize, to.Old)
	case q != nil && (q.HasBacking || q.HasDataFile):
		return fmt.Errorf("%w: the image names other files, which luksplug does not open", ErrFixedSize)
	case q != nil && r.Allocate:
		return fmt.Errorf("%w: only the space of a raw image can be allocated", ErrSize)
	case q == nil && i.Format != string(image.Raw):
		return fmt.Errorf("%w: it is a %s image", ErrFixedSize, i.Format)
	}
	return nil
}

// raw gives a raw file its new size.
func (r Resizing) raw(ctx context.Context, size int64) error {
	g, err := image.OpenSize(r.Path, size)
	if err != nil {
		return err
	}
	defer g.Close()
	if r.DryRun {
		return nil
	}
	how := image.Sparse
	if r.Allocate {
		how = image.Allocated
	}
	total := size - g.Old
	err = g.Grow(ctx, how, func(done int64) {
		if r.Report != nil {
			r.Report(Progress{Done: done, Total: total})
		}
	})
	if err == nil {
		return nil
	}
	if undo := g.Undo(); undo != nil {
		return &LeftError{errors.Join(err, undo), []string{"a part of the new size: resize the volume again"}}
	}
	return err
}

// qcow2 has qemu-img change the size of an image. qemu-img parses what another user may have written: it runs as the owner
// of the image, gets the file as a descriptor, and opens no other one.
func (r Resizing) qcow2(ctx context.Context, i *Info, to *Resized) error {
	f, err := image.OpenWritable(r.Path)
	if err != nil || r.DryRun {
		if err == nil {
			fsutil.CloseRead(f)
		}
		return err
	}
	defer fsutil.CloseRead(f) // synced
	c := qcow2Resize{image: f, size: to.New, shrink: to.New < to.Old}
	if i.Inside {
		if c.key, err = r.key(ctx); err != nil {
			return err
		}
		defer fsutil.CloseRead(c.key)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := errors.Join(c.run(ctx), f.Sync()); err != nil {
		return c.outcome(f, to, err)
	}
	return nil
}

// key returns a file in memory with the passphrase.
func (r Resizing) key(ctx context.Context) (*os.File, error) {
	if r.Passphrase == nil {
		return nil, fmt.Errorf("%w: qemu-img needs the passphrase of a qcow2 image with its header inside", ErrPassphrase)
	}
	passphrase, err := r.Passphrase(ctx)
	if err != nil {
		return nil, err
	}
	if passphrase == nil {
		return nil, fmt.Errorf("%w: qemu-img needs the passphrase of a qcow2 image with its header inside", ErrPassphrase)
	}
	defer passphrase.Wipe()
	p, err := locate(r.Path, "", 0)
	if err != nil {
		return nil, err
	}
	content, err := p.read()
	if err != nil {
		return nil, err
	}
	if _, err := opened(ctx, content, passphrase); err != nil { // which qemu-img says in words only
		return nil, err
	}
	return keyFile(passphrase)
}

// ErrPassphrase reports that an operation needs the passphrase of a volume, and that none is known.
var ErrPassphrase = errors.New("the passphrase is not known")

// qcow2Resize is a run of qemu-img resize.
type qcow2Resize struct {
	image, key *os.File // key is nil for an image that is not encrypted itself
	size       int64
	shrink     bool
}

// run runs qemu-img to its end, also when ctx ends: it takes milliseconds, and one that is killed leaks clusters.
func (c qcow2Resize) run(ctx context.Context) error {
	const imageFD, keyFD = 3, 4
	args := []string{"resize", "-q"}
	options := `"driver":"qcow2","backing":null`
	files := []*os.File{c.image}
	if c.key != nil {
		args = append(args, "--object", fmt.Sprintf("secret,id=key,file=/proc/self/fd/%d", keyFD))
		options += `,"encrypt":{"format":"luks","key-secret":"key"}`
		files = append(files, c.key)
	}
	if c.shrink {
		args = append(args, "--shrink")
	}
	node := fmt.Sprintf(`json:{%s,"file":{"driver":"file","filename":"/proc/self/fd/%d"}}`, options, imageFD)
	img := qemuImg{args: append(args, node, strconv.FormatInt(c.size, 10)), files: files}
	if os.Geteuid() == 0 {
		var owner unix.Stat_t
		if err := unix.Fstat(int(c.image.Fd()), &owner); err != nil {
			return err
		}
		img.user = &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}
	}
	return img.run(context.WithoutCancel(ctx))
}

// outcome returns the error after qemu-img has failed, by the size that the image has now.
func (c qcow2Resize) outcome(f *os.File, to *Resized, err error) error {
	q, readErr := image.ReadQcow2(f)
	if readErr == nil && q.VirtualSize == to.Old {
		return err
	}
	if readErr == nil {
		return &LeftError{err, []string{fmt.Sprintf("a disk of %d bytes", q.VirtualSize)}}
	}
	return &LeftError{errors.Join(err, readErr), []string{"an image that cannot be read"}}
}
