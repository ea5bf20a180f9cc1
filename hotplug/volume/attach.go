package volume

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Attaching is what [AttachHeader] does.
type Attaching struct {
	// Path is that of the image, which is raw, or a block device, and Header that of the file with its header.
	Path, Header string
	// Passphrase opens the header.
	Passphrase *secrets.Secret
	// Attached are the disks that are attached on this host, as [hotplug.Uses] returns them.
	Attached []hotplug.Use
	// Remove wipes and removes the file once the header is stored in the image.
	Remove bool
	// DryRun checks everything, and changes nothing.
	DryRun bool
}

// AttachedHeader is the result of [AttachHeader], or with DryRun what it would be.
type AttachedHeader struct {
	LUKS *luks.Header
	// Length is that of the header's place before the payload, in bytes.
	Length int64
	// Written is false if the image had the header already.
	Written bool
	// Replaced is the file that has the bytes that were in the header's place, "" if there was nothing to be kept.
	Replaced string
	// Removed is true if the file with the header does not exist any more.
	Removed bool
}

// AttachHeader writes the LUKS header in a file into its image, before the payload, if the payload begins behind the place
// that the header needs. The reverse is [DetachHeader].
//
// It accepts zeros in that place, what an interrupted move has left, and another header of the same volume, as far as that
// shows; what the header replaces is kept in a file beside Header. The header is stored in the image and read back before
// the file is removed, so that one of the two headers opens the volume at every moment. After a crash the same call
// finishes.
//
// The errors wrap [ErrAttached], [ErrBusy], [ErrChanged], [ErrOccupied], [ErrPlace], [ErrRequest], [ErrWrongPassphrase], those of
// luks.ReadHeader for the file, and those of the file system. A [*LeftError] names what is changed in part.
func AttachHeader(ctx context.Context, a Attaching) (*AttachedHeader, error) {
	out, err := a.attach(ctx)
	if err != nil {
		return nil, fmt.Errorf("write the header of %s into it: %w", a.Path, err)
	}
	return out, nil
}

func (a Attaching) attach(ctx context.Context) (*AttachedHeader, error) {
	if image.SameFile(a.Path, a.Header) {
		return nil, fmt.Errorf("%w: %s is the image itself", ErrRequest, a.Header)
	}
	if err := unattached(a.Attached, a.Path, a.Header); err != nil {
		return nil, err
	}
	if !a.DryRun {
		release, err := a.lockHeader(ctx)
		if err != nil {
			return nil, err
		}
		defer release()
	}
	content, err := fsutil.ReadLinked(a.Header, maxHeader)
	var h *luks.Header
	if err == nil {
		h, err = opened(ctx, content, a.Passphrase)
	}
	if err != nil {
		err = fmt.Errorf("the header %s: %w", a.Header, err)
		if a.Remove {
			return a.finishRemoval(ctx, content, err)
		}
		return nil, err
	}
	p, err := placeOf(a.Path, h)
	if err != nil {
		return nil, err
	}
	if content, err = fitted(content, p.length); err != nil {
		return nil, fmt.Errorf("the header %s: %w", a.Header, err)
	}
	if err := unlocked(a.Path, a.Header); err != nil {
		return nil, err
	}
	if a.Remove {
		if err := removable(a.Header, p.length); err != nil {
			return nil, err
		}
	}
	old, err := p.read()
	if err != nil {
		return nil, err
	}
	keep, err := a.replaces(ctx, content, old)
	if err != nil {
		return nil, err
	}
	out := &AttachedHeader{LUKS: h, Length: p.length, Written: !bytes.Equal(content, old), Removed: a.Remove}
	if keep && out.Written {
		out.Replaced = replacedName(a.Header)
	}
	if a.DryRun {
		return out, nil
	}
	return out, a.change(ctx, p, replacement{h, content, old}, out)
}

// lockHeader keeps other programs from changing the header in the file, which an interrupted run may have removed.
func (a Attaching) lockHeader(ctx context.Context) (release func(), err error) {
	_, release, err = openLocked(ctx, a.Header)
	switch {
	case errors.Is(err, fs.ErrNotExist), !a.Remove && (errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS)):
		return func() {}, nil // there is nothing to lock, or the file is only read
	}
	return release, err
}

// fitted returns a header of exactly length bytes, which end where the payload begins.
func fitted(content []byte, length int64) ([]byte, error) {
	out := make([]byte, length)
	copy(out, content)
	if int64(len(content)) <= length {
		return out, nil
	}
	if _, err := luks.ReadHeader(bytes.NewReader(out)); err != nil {
		return nil, fmt.Errorf("%w: the payload begins at byte %d, inside the header: %w", ErrPlace, length, err)
	}
	return out, nil
}

// replaces returns whether what is in the header's place is worth keeping, or refuses to replace it.
func (a Attaching) replaces(ctx context.Context, content, old []byte) (keep bool, err error) {
	backup, err := luks.ReadBackup(bytes.NewReader(content))
	if err != nil {
		return false, err
	}
	switch backup.Header.Leftover(content, old) {
	case luks.LeftNothing, luks.LeftWritten, luks.LeftWiped:
		return false, nil
	case luks.LeftHeader:
		return true, nil
	}
	compared, err := backup.Compare(bytes.NewReader(old))
	switch {
	case err != nil:
		return false, err
	case compared.Match == luks.MatchOther:
		return false, fmt.Errorf("%w: with %s as a backup of its header, %s", ErrOccupied, a.Header, compared.Reason)
	case compared.Match != luks.MatchUnknown:
		return true, nil
	}
	mark, err := markOf(ctx, a.Path)
	if err != nil && !errors.Is(err, image.ErrNoSignatures) { // it is refused without as well
		return false, err
	}
	return false, fmt.Errorf("%w: the first %d bytes of %s are neither zeros nor a header of this volume, and have %s: if they may be destroyed, overwrite them with zeros before", ErrOccupied, len(old), a.Path, cmp.Or(mark, "no known signature"))
}

// change writes the header, and keeps what it replaces.
func (a Attaching) change(ctx context.Context, p headerPlace, r replacement, out *AttachedHeader) error {
	if out.Replaced != "" {
		if err := writeNew(begin, out.Replaced, r.old); err != nil {
			return fmt.Errorf("keep what is there: %w", err)
		}
	}
	if out.Written {
		if err := p.replace(ctx, r); err != nil {
			if out.Replaced != "" {
				return keptIn(out.Replaced, err)
			}
			return err
		}
	}
	if a.Remove {
		return a.remove(r.header)
	}
	return nil
}

// finishRemoval removes a file whose header an interrupted run has wiped in part, or that it has removed already: the header
// in the image opens the volume. unusable is the error of the file.
func (a Attaching) finishRemoval(ctx context.Context, content []byte, unusable error) (*AttachedHeader, error) {
	p, err := locate(a.Path, "", 0)
	if err != nil || p.checkRaw() != nil {
		return nil, unusable
	}
	inside, err := p.read()
	if err != nil {
		return nil, unusable
	}
	h, err := opened(ctx, inside, a.Passphrase)
	if err != nil {
		return nil, unusable
	}
	out := &AttachedHeader{LUKS: h, Length: p.length, Removed: true}
	switch {
	case errors.Is(unusable, fs.ErrNotExist):
		return out, nil
	case content == nil, h.Leftover(inside, content) == luks.LeftOther:
		return nil, unusable
	}
	if err := removable(a.Header, p.length); err != nil {
		return nil, err
	}
	if err := unlocked(a.Path, a.Header); err != nil || a.DryRun {
		return out, err
	}
	return out, a.remove(h)
}

// removable refuses a file that has more than a header of length bytes, as an image has, and one with other names: wiping it
// would destroy what they lead to.
func removable(path string, length int64) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1:
		return fmt.Errorf("%w: %s is a link or has other names, so that it is not removed: keep it, or name the only file", ErrOccupied, path)
	case st.Size > length:
		return fmt.Errorf("%w: %s has %d bytes, and a header of this volume %d at most, so that it is not removed: keep it, and remove it yourself if it has nothing else", ErrOccupied, path, st.Size, length)
	}
	return nil
}

// remove wipes the file with the header h, and removes it.
func (a Attaching) remove(h *luks.Header) error {
	f, err := fsutil.OpenAt(nil, a.Header, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer fsutil.CloseRead(f) // synced
	stat, err := f.Stat()
	if err == nil {
		err = discard(durable{f}, h, stat.Size(), func() error {
			return errors.Join(os.Remove(a.Header), fsutil.SyncDir(nil, filepath.Dir(a.Header)))
		})
	}
	if err != nil {
		return &LeftError{err, []string{"the file " + a.Header + "; the header in the image opens the volume"}}
	}
	return nil
}

// discard wipes the file s of size bytes, which has the header h, and unlinks it.
func discard(s luks.Storage, h *luks.Header, size int64, unlink func() error) error {
	if err := h.Wipe(s, size); err != nil {
		return err
	}
	return unlink()
}
