package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Errors of the operations on a volume. Test with errors.Is.
var (
	// ErrAttached: a VM has the volume.
	ErrAttached = errors.New("a VM uses the volume")
	// ErrOtherVolume: the backup is of another volume.
	ErrOtherVolume = errors.New("the backup is not of this volume")
	// ErrWrongPassphrase: the passphrase does not open the header.
	ErrWrongPassphrase = luks.ErrWrongPassphrase
	// ErrIncomplete: the volume is one of the two of a re-encryption, and lacks a part of the data. Only [Inspect], [List],
	// [TrySlot], [Destroy], [Complete] and [MarkIncomplete] work on it, and on an image without encryption [CompletePlain] and
	// [MarkPlain].
	ErrIncomplete = luks.ErrIncomplete
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
// the length that a header in a raw image needs, 0 for what the one that is there says. The error wraps [ErrIncomplete] for an
// incomplete volume, unless wanted is the length.
func locate(path, header string, wanted int64) (headerPlace, error) {
	return complete().locate(path, header, wanted)
}

func (r reading) locate(path, header string, wanted int64) (headerPlace, error) {
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
	probed, err := r.probe(path)
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
	case i.Format != image.Raw && i.Format != image.LUKS && i.Format != image.Reencryption && i.Format != image.Incomplete: // the latter are compared with the header
		return headerPlace{}, fmt.Errorf("%w: %s is a %s image", ErrPlace, i.Path, i.Format)
	case wanted <= 0:
		return headerPlace{}, fmt.Errorf("%w: it is that of a volume with its header in a file of its own", ErrPlace)
	case wanted > i.Size || wanted > maxHeader:
		return headerPlace{}, fmt.Errorf("%w: %s has %d bytes, and the payload is to begin at %d", ErrPlace, i.Path, i.Size, wanted)
	}
	return headerPlace{i.Path, 0, wanted}, nil
}

// ErrChanged reports that what is in a header's place has changed since it was checked.
var ErrChanged = errors.New("it was changed by another process meanwhile")

// openChecked opens the file with the header's place for writing, and locks it as [hold] does. checked is what was read there.
// release unlocks and closes it.
func (p headerPlace) openChecked(ctx context.Context, checked []byte) (f *os.File, release func(), err error) {
	f, release, err = openLocked(ctx, p.path)
	if err != nil {
		return nil, nil, err
	}
	if err = same(part{durable{f}, p.offset, p.length}, checked); err != nil {
		release()
	}
	if errors.Is(err, errReadBack) {
		err = fmt.Errorf("%s: %w: run the command again when it has ended", p.path, ErrChanged)
	}
	return f, release, err
}

// read returns the bytes of the header's place.
func (p headerPlace) read() ([]byte, error) {
	f, err := image.Open(p.path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer fsutil.CloseRead(f)
	b := make([]byte, p.length)
	_, err = f.ReadAt(b, p.offset)
	return b, err
}

// HeaderBackup is what [BackupHeader] copies.
type HeaderBackup struct {
	// Path is that of the image, Header that of a header in a file of its own, "" for one in the image.
	Path, Header string
	// To is the path of the copy, at which there must be no file.
	To string
	// Passphrase has to open the copy; nil opens nothing.
	Passphrase *secrets.Secret
	// DryRun makes all checks, and writes nothing.
	DryRun bool
}

// BackupHeader writes the header of a volume to a new file, which `cryptsetup luksHeaderRestore` takes as well. The volume
// may be attached. The copy is read back, and the passphrase has to open it. The copy is no secret, but a passphrase opens the
// volume with it also after it was changed or removed.
//
// The errors wrap [ErrExists], [ErrNoVolume], [ErrPlace], [ErrWrongPassphrase], and those of the file system. Nothing is
// left after an error but what a [*LeftError] names.
func BackupHeader(ctx context.Context, b HeaderBackup) (*luks.Header, error) {
	h, err := b.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("back up the header of %s: %w", b.Path, err)
	}
	return h, nil
}

func (b HeaderBackup) run(ctx context.Context) (*luks.Header, error) {
	p, err := locate(b.Path, b.Header, 0)
	if err != nil {
		return nil, err
	}
	content, err := p.read()
	if err != nil {
		return nil, err
	}
	h, err := opened(ctx, content, b.Passphrase)
	switch {
	case err != nil:
		return nil, err
	case b.DryRun:
		return h, absent(b.To)
	}
	return h, writeNew(begin, b.To, content)
}

// absent returns an error that wraps [ErrExists] if there is a file of that name.
func absent(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s %w", path, ErrExists)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// opened returns the header in content, which passphrase opens unless it is nil.
func opened(ctx context.Context, content []byte, passphrase *secrets.Secret) (*luks.Header, error) {
	h, err := luks.ReadHeader(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	return h, opens(ctx, h, passphrase)
}

// opens returns nil if passphrase opens the header, or is nil.
func opens(ctx context.Context, h *luks.Header, passphrase *secrets.Secret) error {
	if passphrase == nil {
		return nil
	}
	return passphrase.Use(func(value []byte) error {
		key, err := h.Unlock(ctx, value)
		key.Wipe()
		return err
	})
}

// writeNew writes a new file that only its owner can read, and reads it back before it gets its name.
func writeNew(begin beginning, path string, content []byte) error {
	f, err := begin(path, attributes{mode: defaultMode}, nil)
	if err != nil {
		return err
	}
	if err = fill(f, content, int64(len(content))); err == nil {
		err = f.read(func(r io.ReaderAt) error { return same(r, content) })
	}
	if err == nil {
		err = f.publish()
	}
	if err != nil {
		if left := f.remove(); len(left) > 0 {
			return &LeftError{err, left}
		}
	}
	return err
}

// errReadBack reports that a file has another content than was written.
var errReadBack = errors.New("it does not read back as it was written")

// same returns nil if r begins with content.
func same(r io.ReaderAt, content []byte) error {
	b := make([]byte, min(fillChunk, len(content)))
	for off := 0; off < len(content); off += fillChunk {
		want := content[off:min(off+fillChunk, len(content))]
		switch n, err := r.ReadAt(b[:len(want)], int64(off)); {
		case err != nil && !errors.Is(err, io.EOF):
			return err
		case !bytes.Equal(b[:n], want):
			return errReadBack
		}
	}
	return nil
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
	// DryRun makes all checks, and changes nothing.
	DryRun bool
}

// Restored is the result of [RestoreHeader].
type Restored struct {
	LUKS *luks.Header
	// Replaced is the file that has the bytes that were in the header's place; with a dry run it does not exist.
	Replaced string
	// Match is how far what was there is the volume of the backup, and Reason by what it was recognised.
	Match  luks.Match
	Reason string
}

// RestoreHeader writes a backup of its header to a volume that no VM uses. Before, it compares the backup with what is left of
// the header, opens it with the passphrase, and copies what is in the header's place to a file beside the backup. The metadata
// are written last, and all is read back; if that fails, the old bytes are written again.
//
// The errors wrap [ErrAttached], [ErrBusy], [ErrChanged], [ErrOtherVolume], [ErrPlace], [ErrWrongPassphrase], [ErrIncomplete], luks.ErrReencryption, the others of
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
	if err := unattached(r.Attached, r.Path, r.Header); err != nil {
		return nil, err
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
	if err := unlocked(r.Path, p.path); err != nil {
		return nil, err
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
	case compared.Match == luks.MatchUnknown && p.path == r.Path && p.offset == 0: // else a place for a header only
		switch mark, err := markOf(ctx, p.path); {
		case err != nil:
			return nil, err
		case mark != "":
			return nil, fmt.Errorf("%w, as far as can be seen: nothing of a header is left in it, and it holds %s: if that may be destroyed, remove its signature before with wipefs", ErrOtherVolume, mark)
		}
	}
	out := &Restored{LUKS: backup.Header, Replaced: replacedName(r.Backup), Match: compared.Match, Reason: compared.Reason}
	if r.DryRun {
		return out, nil
	}
	if err := writeNew(begin, out.Replaced, old); err != nil {
		return nil, fmt.Errorf("keep what is there: %w", err)
	}
	if err := p.replace(ctx, replacement{backup.Header, content, old}); err != nil {
		return nil, keptIn(out.Replaced, err)
	}
	return out, nil
}

// unattached refuses a volume that luksplug has attached on this host. header is "" for one in the image.
func unattached(uses []hotplug.Use, path, header string) error {
	for _, u := range uses {
		if image.SameFile(u.Payload, path) || header != "" && u.Header != "" && image.SameFile(u.Header, header) {
			return fmt.Errorf("%w: it is disk %s of %s: detach it first", ErrAttached, u.Target, u.VM)
		}
	}
	return nil
}

// unlocked refuses files that a QEMU has open.
func unlocked(paths ...string) error {
	for _, path := range paths {
		if err := image.CheckLock(path, image.ReadWrite); err != nil {
			return fmt.Errorf("%w: %w", ErrAttached, err)
		}
	}
	return nil
}

// replacedName returns the name of the file that keeps what a header replaces, beside the file that the header comes from.
func replacedName(beside string) string {
	return beside + ".replaced-" + time.Now().UTC().Format("20060102T150405Z")
}

// markOf returns the signature of a file system or the like that an image holds, "" for none.
func markOf(ctx context.Context, path string) (string, error) {
	content, err := image.OpenGuest(path, image.Raw, "")
	if err != nil {
		return "", err
	}
	defer fsutil.CloseRead(content)
	found, err := new(image.Searches).Signatures(ctx, content)
	if err != nil || len(found) == 0 {
		return "", err
	}
	return found[0].String(), nil
}

// keptIn names the copy of the old header in an error after which the header is in an unknown state.
func keptIn(copied string, err error) error {
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

// metadata is the beginning of a header, in which the magic is.
const metadata = 4096

// replacement is a header that takes the place of another one.
type replacement struct {
	header       *luks.Header
	content, old []byte // of the same length
}

// replace writes the header to its place.
func (p headerPlace) replace(ctx context.Context, r replacement) error {
	f, release, err := p.openChecked(ctx, r.old)
	if err != nil {
		return err
	}
	defer release()
	return r.write(part{durable{f}, p.offset, p.length})
}

// write writes the header to s, where luks reads it back, and writes the old bytes again if that fails. A [*LeftError] says that s
// has neither.
func (r replacement) write(s luks.Storage) error {
	err := r.header.Write(s, r.content)
	if err == nil {
		return nil
	}
	if again := r.header.Write(s, r.old); again != nil {
		return &LeftError{errors.Join(err, again), []string{"a header that is written in part"}}
	}
	return err
}
