package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Errors of [BackupHeader] and [RestoreHeader]. Test with errors.Is.
var (
	// ErrAttached: a VM has the volume.
	ErrAttached = errors.New("a VM uses the volume")
	// ErrOtherVolume: the backup is of another volume.
	ErrOtherVolume = errors.New("the backup is not of this volume")
	// ErrWrongPassphrase: the passphrase does not open the backup.
	ErrWrongPassphrase = luks.ErrWrongPassphrase
	// ErrPlace: there is no place for the header where it belongs.
	ErrPlace = errors.New("the header has no place in the image")
)

// maxHeader bounds a header in a file of its own, in bytes: cryptsetup's largest has 128 MiB of key material.
const maxHeader = 160 << 20

// headerPlace is where the header of a volume is.
type headerPlace struct {
	path           string
	offset, length int64 // in the file, in bytes
}

// locate finds the header of the volume in an image. header is the path of one in a file of its own, "" for none. wanted is
// the length that a header in a raw image needs, 0 for what the one that is there says.
func locate(path, header string, wanted int64) (headerPlace, error) {
	if header != "" {
		probed, err := image.Inspect(header)
		switch {
		case err != nil:
			return headerPlace{}, err
		case probed.Size > maxHeader:
			return headerPlace{}, fmt.Errorf("%w: %s has %d bytes, and no header has more than %d", ErrPlace, header, probed.Size, maxHeader)
		}
		return headerPlace{header, 0, probed.Size}, nil
	}
	probed, err := image.Probe(path)
	var inside *image.InsideError
	switch {
	case errors.As(err, &inside) && wanted > 0:
		return headerPlace{path, inside.Offset, inside.Length}, nil
	case err != nil && wanted > 0:
		return locateDamaged(path, wanted, err)
	case err != nil:
		return headerPlace{}, err
	case probed.Qcow2 != nil && probed.Qcow2.LUKS != nil:
		return headerPlace{path, probed.Qcow2.LUKSOffset, probed.Qcow2.LUKSLength}, nil
	case wanted == 0 && probed.LUKS == nil:
		return headerPlace{}, fmt.Errorf("%s: %w: name its header if that is in a file of its own", path, ErrNoVolume)
	case wanted == 0:
		wanted = probed.LUKS.PayloadOffset()
	}
	return atBeginning(probed, wanted)
}

// locateDamaged finds the place of a header that cannot be read, for which unreadable is the error.
func locateDamaged(path string, wanted int64, unreadable error) (headerPlace, error) {
	probed, err := image.Inspect(path)
	if err != nil {
		return headerPlace{}, err
	}
	r, err := image.OpenGuest(path, image.Raw, "")
	if err != nil {
		return headerPlace{}, err
	}
	defer fsutil.CloseRead(r)
	start := make([]byte, min(metadata, probed.Size))
	if _, err := r.ReadAt(start, 0); err != nil && !errors.Is(err, io.EOF) {
		return headerPlace{}, err
	}
	if probed.Format = image.FormatOf(start); probed.Format == image.Qcow2 {
		return headerPlace{}, unreadable // of the image itself
	}
	return atBeginning(probed, wanted)
}

// atBeginning returns the place of a header at the beginning of an image, before the payload at wanted.
func atBeginning(i *image.Info, wanted int64) (headerPlace, error) {
	switch {
	case i.Format != image.Raw && i.Format != image.LUKS && i.Format != image.Reencryption:
		return headerPlace{}, fmt.Errorf("%w: %s is a %s image", ErrPlace, i.Path, i.Format)
	case wanted <= 0:
		return headerPlace{}, fmt.Errorf("%w: it is that of a volume with its header in a file of its own", ErrPlace)
	case wanted > i.Size || wanted > maxHeader:
		return headerPlace{}, fmt.Errorf("%w: %s has %d bytes, and the payload is to begin at %d", ErrPlace, i.Path, i.Size, wanted)
	}
	return headerPlace{i.Path, 0, wanted}, nil
}

// read returns the bytes of the header's place.
func (p headerPlace) read() ([]byte, error) {
	f, err := os.OpenFile(p.path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer fsutil.CloseRead(f)
	b := make([]byte, p.length)
	_, err = f.ReadAt(b, p.offset)
	return b, err
}

// BackupHeader writes the header of a volume to a new file, which `cryptsetup luksHeaderRestore` takes as well. The volume
// may be attached. The copy is read back, and passphrase, if it is not nil, has to open it. It is no secret, but a passphrase
// opens the volume with it also after it was changed or removed.
//
// The errors wrap [ErrExists], [ErrNoVolume], [ErrPlace], [ErrWrongPassphrase], and those of the file system. Nothing is
// left after an error but what a [*LeftError] names.
func BackupHeader(ctx context.Context, path, header, to string, passphrase *secrets.Secret) (*luks.Header, error) {
	p, err := locate(path, header, 0)
	if err != nil {
		return nil, fmt.Errorf("back up the header: %w", err)
	}
	content, err := p.read()
	if err != nil {
		return nil, fmt.Errorf("back up the header: %w", err)
	}
	h, err := opened(ctx, content, passphrase)
	if err == nil {
		err = writeNew(to, content)
	}
	if err != nil {
		return nil, fmt.Errorf("back up the header of %s: %w", path, err)
	}
	return h, nil
}

// opened returns the header in content, which passphrase opens unless it is nil.
func opened(ctx context.Context, content []byte, passphrase *secrets.Secret) (*luks.Header, error) {
	h, err := luks.ReadHeader(bytes.NewReader(content))
	if err != nil || passphrase == nil {
		return h, err
	}
	return h, passphrase.Use(func(value []byte) error {
		key, err := h.Unlock(ctx, value)
		key.Wipe()
		return err
	})
}

// writeNew writes a new file that only its owner can read.
func writeNew(path string, content []byte) error {
	f, err := begin(path, attributes{mode: defaultMode}, nil)
	if err != nil {
		return err
	}
	if err = f.fill(content, int64(len(content))); err == nil {
		err = f.publish()
	}
	if err != nil {
		if left := f.remove(); len(left) > 0 {
			return &LeftError{err, left}
		}
	}
	return err
}

// Restoring is what [RestoreHeader] restores.
type Restoring struct {
	// Path is that of the image, Header that of a header in a file of its own, "" for one in the image.
	Path, Header string
	// Backup is the path of the backup.
	Backup string
	// Passphrase opens the backup.
	Passphrase *secrets.Secret
	// Attached are the disks that are attached on this host, as [hotplug.Uses] returns them.
	Attached []hotplug.Use
}

// Restored is the result of [RestoreHeader].
type Restored struct {
	LUKS *luks.Header
	// Replaced is the file that has the bytes that were in the header's place.
	Replaced string
	// Match is how far what was there is the volume of the backup, and Reason by what it was recognised.
	Match  luks.Match
	Reason string
}

// RestoreHeader writes a backup of its header to a volume that no VM uses. Before, it compares the backup with what is left of
// the header, opens it with the passphrase, and copies what is in the header's place to a file beside the backup. The metadata
// are written last, and all is read back; if that fails, the old bytes are written again.
//
// The errors wrap [ErrAttached], [ErrOtherVolume], [ErrPlace], [ErrWrongPassphrase], luks.ErrReencryption, the others of
// luks.ReadHeader for the backup, and those of the file system. A [*LeftError] says that the header is neither the old one
// nor the new one; the old one is in the file that it names.
func RestoreHeader(ctx context.Context, r Restoring) (*Restored, error) {
	out, err := r.restore(ctx)
	if err != nil {
		return nil, fmt.Errorf("restore the header of %s: %w", r.Path, err)
	}
	return out, nil
}

func (r Restoring) restore(ctx context.Context) (*Restored, error) {
	for _, u := range r.Attached {
		if image.SameFile(u.Payload, r.Path) || r.Header != "" && u.Header != "" && image.SameFile(u.Header, r.Header) {
			return nil, fmt.Errorf("%w: it is disk %s of %s: detach it first", ErrAttached, u.Target, u.VM)
		}
	}
	content, backup, err := r.readBackup(ctx)
	if err != nil {
		return nil, fmt.Errorf("the backup %s: %w", r.Backup, err)
	}
	wanted := backup.Header.PayloadOffset()
	if wanted == 0 {
		wanted = luks.UnknownOffset // not what the image says
	}
	p, err := locate(r.Path, r.Header, wanted)
	if err != nil {
		return nil, err
	}
	if int64(len(content)) > p.length {
		return nil, fmt.Errorf("%w: the backup has %d bytes, and the header's place %d", ErrPlace, len(content), p.length)
	}
	for _, path := range []string{r.Path, p.path} {
		if err := image.CheckLock(path, image.ReadWrite); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrAttached, err)
		}
	}
	p.length = int64(len(content))
	old, err := p.read()
	if err != nil {
		return nil, err
	}
	compared, err := backup.Compare(bytes.NewReader(old))
	switch {
	case err != nil:
		return nil, err
	case compared.Match == luks.MatchOther:
		return nil, fmt.Errorf("%w: %s", ErrOtherVolume, compared.Reason)
	case compared.Match == luks.MatchUnknown:
		if err := r.unmarked(ctx, p); err != nil {
			return nil, err
		}
	}
	out := &Restored{Replaced: r.Backup + ".replaced-" + time.Now().UTC().Format("20060102T150405Z"), Match: compared.Match, Reason: compared.Reason}
	if err := writeNew(out.Replaced, old); err != nil {
		return nil, fmt.Errorf("keep what is there: %w", err)
	}
	if out.LUKS, err = p.replace(ctx, content, old, r.Passphrase); err != nil {
		return nil, r.keptIn(out.Replaced, err)
	}
	return out, nil
}

// unmarked refuses an image in which nothing is left of a header, and which holds something else: that would be destroyed.
func (r Restoring) unmarked(ctx context.Context, p headerPlace) error {
	if p.path != r.Path || p.offset > 0 {
		return nil // a place for a header only
	}
	content, err := image.OpenGuest(p.path, image.Raw, "")
	if err != nil {
		return err
	}
	defer fsutil.CloseRead(content)
	found, err := new(image.Searches).Signatures(ctx, content)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("%w, as far as can be seen: nothing of a header is left in it, and it holds %s: if that may be destroyed, remove its signature before with wipefs", ErrOtherVolume, found[0])
	}
	return nil
}

// keptIn names the copy of the old header in an error after which the header is in an unknown state.
func (r Restoring) keptIn(copied string, err error) error {
	var left *LeftError
	if errors.As(err, &left) {
		return &LeftError{left.Err, append(left.Left, "the old header is in "+copied)}
	}
	return errors.Join(err, os.Remove(copied))
}

// readBackup reads the backup, which the passphrase opens.
func (r Restoring) readBackup(ctx context.Context) ([]byte, *luks.Backup, error) {
	content, err := fsutil.ReadLinked(r.Backup, maxHeader)
	if err != nil {
		return nil, nil, err
	}
	if _, err := opened(ctx, content, r.Passphrase); err != nil {
		return nil, nil, err
	}
	backup, err := luks.ReadBackup(bytes.NewReader(content))
	return content, backup, err
}

// metadata is the beginning of a header: all of LUKS1's and the binary header of LUKS2's first copy. As long as it is not
// written, the old header counts.
const metadata = 4096

// replace writes content to the header's place, and old again if that fails.
func (p headerPlace) replace(ctx context.Context, content, old []byte, passphrase *secrets.Secret) (*luks.Header, error) {
	f, err := os.OpenFile(p.path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer fsutil.CloseRead(f) // synced
	err = p.write(f, content)
	if err == nil {
		stored := make([]byte, len(content))
		if _, err = io.ReadFull(io.NewSectionReader(f, p.offset, p.length), stored); err == nil {
			var h *luks.Header
			if h, err = opened(ctx, stored, passphrase); err == nil {
				return h, nil
			}
		}
	}
	if again := p.write(f, old); again != nil {
		return nil, &LeftError{errors.Join(err, again), []string{"a header that is written in part"}}
	}
	return nil, err
}

// write writes the end of the header first, and its metadata once that is stored.
func (p headerPlace) write(f *os.File, content []byte) error {
	for _, from := range []int64{metadata, 0} {
		part := content[from:]
		if from == 0 {
			part = content[:metadata]
		}
		if _, err := f.WriteAt(part, p.offset+from); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}
