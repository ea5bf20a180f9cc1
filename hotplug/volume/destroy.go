package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets/luks"
)

// ErrInUse reports that a process of this host, or the host itself, uses a volume.
var ErrInUse = errors.New("the volume is in use")

// Destroying is what [Destroy] destroys.
type Destroying struct {
	// Path is that of the image, Header that of a header in a file of its own, "" for one in the image.
	Path, Header string
	// KeepData leaves the image, whose payload nothing decrypts any more.
	KeepData bool
	// Discard gives the space back to the file system or the device, before files are removed.
	Discard bool
	// Attached are the disks that are attached on this host, as [hotplug.Uses] returns them.
	Attached []hotplug.Use
	// RemoveSecret removes the volume's secret from its key store, nil for none. It is called when the header is wiped.
	RemoveSecret func(ctx context.Context) error
	// DryRun makes all checks, and changes nothing.
	DryRun bool
	// Report receives the progress of the wiping.
	Report Report
}

// Destroyed is the result of [Destroy], and what it would do with DryRun.
type Destroyed struct {
	// UUID is that of the LUKS volume.
	UUID string
	// LUKS is the header; nil if an interrupted run has begun to wipe it, which this one finishes.
	LUKS *luks.Header
	// Wiped is the file that has the header, of which Length bytes from Offset on are overwritten.
	Wiped          string
	Offset, Length int64
	// Direct is true if what was written was read back from the device, and not from the page cache.
	Direct bool
	// Removed are the files that are removed, and Kept those that stay.
	Removed, Kept []string
	// Remains are places where the header or the data may still exist, as far as this host can see them.
	Remains []string
}

// Destroy makes a volume unreadable for ever, and removes it. It overwrites the whole place of the header, with all key slots,
// syncs that, and reads it back from the device. Then it calls RemoveSecret, and removes the files. The first sector of the
// header's place is overwritten first, by a mark by which a further run recognises what an interrupted one has begun; the
// file with the mark goes last.
//
// Errors before the first change wrap [ErrAttached], [ErrInUse], [ErrNoVolume], [ErrPlace], those of the file system and those
// of luks.ReadHeader. Later ones are a [*LeftError], which names what is still to be done: a further call does it.
func Destroy(ctx context.Context, d Destroying) (*Destroyed, error) {
	out, err := d.destroy(ctx)
	if err != nil {
		return nil, fmt.Errorf("destroy %s: %w", d.Path, err)
	}
	return out, nil
}

func (d Destroying) destroy(ctx context.Context) (*Destroyed, error) {
	if err := d.checkUnused(); err != nil {
		return nil, err
	}
	place, out, err := d.find()
	if err != nil {
		return nil, err
	}
	f, err := image.OpenWritable(place.path)
	if err != nil {
		return nil, err
	}
	defer fsutil.CloseRead(f) // synced
	d.files(out)
	if out.Remains, err = d.remains(out, f); err != nil || d.DryRun {
		return out, err
	}
	return out, d.run(ctx, place, f, out)
}

// checkUnused refuses a volume that something of this host uses.
func (d Destroying) checkUnused() error {
	if err := unattached(d.Attached, d.Path, d.Header); err != nil {
		return err
	}
	for _, path := range []string{d.Path, d.Header} {
		if path == "" {
			continue
		}
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && path == d.Path {
			continue // an interrupted run may have removed it; the header must exist
		}
		if err := unlocked(path); err != nil {
			return err
		}
		users, err := image.Openers(path)
		if err != nil {
			return err
		}
		if len(users) > 0 {
			return fmt.Errorf("%w: %s is open in %s", ErrInUse, path, strings.Join(users, ", "))
		}
		if err := image.CheckUnheld(path); err != nil {
			return fmt.Errorf("%w: %w", ErrInUse, err)
		}
	}
	return nil
}

// find returns the place of the header, also of one that an interrupted run has begun to wipe.
func (d Destroying) find() (headerPlace, *Destroyed, error) {
	if place, m, found := d.findMark(); found {
		return place, &Destroyed{UUID: m.uuid, Wiped: place.path, Offset: place.offset, Length: place.length}, nil
	}
	i, err := d.layout()
	if err != nil {
		return headerPlace{}, nil, err
	}
	place, err := incomplete().locate(d.Path, d.Header, 0)
	if err != nil {
		return headerPlace{}, nil, err
	}
	return place, &Destroyed{UUID: i.LUKS.UUID, LUKS: i.LUKS, Wiped: place.path, Offset: place.offset, Length: place.length}, nil
}

// layout reads the image and its header, and refuses an image that has a header of its own besides.
func (d Destroying) layout() (*Info, error) {
	probed, err := image.ProbeIncomplete(d.Path)
	if err != nil {
		return nil, err
	}
	if d.Header != "" && (probed.LUKS != nil || probed.Qcow2 != nil && probed.Qcow2.LUKS != nil) {
		return nil, fmt.Errorf("%w: %s has a LUKS header of its own, and %s is another", ErrPlace, d.Path, d.Header)
	}
	return incomplete().layoutOf(probed, d.Header)
}

// findMark finds the mark of an interrupted run.
func (d Destroying) findMark() (headerPlace, mark, bool) {
	path, offset := d.Path, int64(0)
	var inside *image.InsideError
	if d.Header != "" {
		path = d.Header
	} else if _, err := image.ProbeIncomplete(path); errors.As(err, &inside) {
		offset = inside.Offset
	}
	m, found := readMark(path, offset)
	if file, err := image.Inspect(path); err != nil || offset+m.length > file.Size {
		return headerPlace{}, mark{}, false
	}
	return headerPlace{path, offset, m.length}, m, found
}

// files chooses which files go.
func (d Destroying) files(out *Destroyed) {
	for _, path := range []string{d.Path, d.Header} { // the one with the header last
		info, err := os.Stat(path)
		switch {
		case path == "" || errors.Is(err, fs.ErrNotExist):
		case path == d.Path && d.KeepData, err == nil && !info.Mode().IsRegular():
			out.Kept = append(out.Kept, path)
		default:
			out.Removed = append(out.Removed, path)
		}
	}
}

// secretWait bounds the removal of the secret, which may be on a server.
const secretWait = 30 * time.Second

// run makes the changes. f is the file with the header.
func (d Destroying) run(ctx context.Context, place headerPlace, f *os.File, out *Destroyed) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	// From here on ctx does not count: it takes less than a second, and a part is worse than the whole.
	if out.Direct, err = place.wipe(f, mark{out.UUID, place.length}, d.Report); err != nil {
		return &LeftError{err, []string{"a header that may be wiped in part, with its secret: run this again"}}
	}
	if d.Discard {
		if err := d.discard(place, f); err != nil {
			out.Remains = append(out.Remains, fmt.Sprintf("what was overwritten was not discarded: %v", err))
		}
	}
	last := out.Wiped
	for _, path := range out.Removed {
		if path != last {
			if err := image.Remove(path); err != nil {
				return d.left(out, err)
			}
		}
	}
	if d.RemoveSecret != nil {
		removing, cancel := context.WithTimeout(context.WithoutCancel(ctx), secretWait)
		defer cancel()
		if err := d.RemoveSecret(removing); err != nil {
			return &LeftError{err, []string{"the secret of the volume, whose header is wiped: run this again"}}
		}
	}
	for _, path := range out.Removed {
		if path == last {
			if err := image.Remove(path); err != nil {
				return d.left(out, err)
			}
		}
	}
	return nil
}

// left names the files that are still there.
func (d Destroying) left(out *Destroyed, err error) error {
	left := []string{"the header is wiped: run this again"}
	for _, path := range out.Removed {
		if _, err := os.Lstat(path); err == nil {
			left = append(left, "the file "+path)
		}
	}
	return &LeftError{err, left}
}

// discard gives space back: the header's place but its mark, and the payload if it is not kept.
func (d Destroying) discard(place headerPlace, f *os.File) error {
	end := place.offset + place.length
	if !d.KeepData {
		size, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		end = size
	}
	begin := place.offset + directBlock // after the mark
	if err := image.Discard(f, begin, end-begin); err != nil || d.KeepData || place.path == d.Path {
		return err
	}
	payload, err := image.OpenWritable(d.Path)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer fsutil.CloseRead(payload)
	size, err := payload.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	return errors.Join(image.Discard(payload, 0, size), payload.Sync())
}
