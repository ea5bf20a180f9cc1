package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Errors of [DetachHeader] and [AttachHeader]. Test with errors.Is.
var (
	// ErrDetached: the header is in a file of its own already.
	ErrDetached = errors.New("the header of the volume is detached already")
	// ErrOccupied: where the header belongs, there is something else, which would be destroyed.
	ErrOccupied = errors.New("there is something else in the header's place")
)

// Detaching is what [DetachHeader] does.
type Detaching struct {
	// Path is that of the image, which is raw, or a block device. Header is that of the header if the volume is known to
	// have one of its own, else "".
	Path, Header string
	// To is the path of the new file.
	To string
	// Passphrase opens the header.
	Passphrase *secrets.Secret
	// Attached are the disks that are attached on this host, as [hotplug.Uses] returns them.
	Attached []hotplug.Use
	// Wipe overwrites the header in the image once the new file is stored.
	Wipe bool
	// DryRun checks everything, and changes nothing.
	DryRun bool
}

// Detached is the result of [DetachHeader], or with DryRun what it would be.
type Detached struct {
	LUKS *luks.Header
	// Length is that of the header, and of its place before the payload, in bytes.
	Length int64
	// Copied is false if the file was there, with the header of this volume.
	Copied bool
	// Wiped is true if the header's place in the image was wiped now or before.
	Wiped bool
}

// DetachHeader copies the LUKS header at the beginning of an image to a new file, and with Wipe wipes it in the image: the
// payload stays where it is, and the header keeps its payload offset. QEMU since 9.0, cryptsetup and luksplug open the image
// with the file as its header. Until it is wiped, the header in the image opens the volume as well.
//
// The file is stored, read back and has its name before anything is wiped, so that one of the two headers opens the volume at
// every moment. After a crash the same call with Wipe finishes: it accepts a file that has this volume's header.
//
// The errors wrap [ErrAttached], [ErrBusy], [ErrChanged], [ErrDetached], [ErrExists], [ErrNoVolume], [ErrOccupied], [ErrPlace],
// [ErrRequest], [ErrWrongPassphrase], those of luks.ReadHeader, and those of the file system. A [*LeftError] says that the header in the image is wiped in part;
// the file has it.
func DetachHeader(ctx context.Context, d Detaching) (*Detached, error) {
	out, err := d.detach(ctx)
	if err != nil {
		return nil, fmt.Errorf("detach the header of %s: %w", d.Path, err)
	}
	return out, nil
}

func (d Detaching) detach(ctx context.Context) (*Detached, error) {
	if image.SameFile(d.Path, d.To) {
		return nil, fmt.Errorf("%w: %s is the image itself", ErrRequest, d.To)
	}
	if d.Header != "" && (!d.Wipe || !image.SameFile(d.Header, d.To)) {
		return nil, fmt.Errorf("%w: it is in %s", ErrDetached, d.Header)
	}
	if err := unattached(d.Attached, d.Path, d.To); err != nil {
		return nil, err
	}
	_, err := os.Lstat(d.To)
	m := detachment{copy: errors.Is(err, fs.ErrNotExist)}
	switch {
	case err != nil && !m.copy:
		return nil, err
	case err == nil && !d.Wipe:
		return nil, fmt.Errorf("%s %w", d.To, ErrExists)
	}
	p, err := d.find(ctx, &m)
	if err != nil {
		return nil, err
	}
	if err := unlocked(d.Path); err != nil {
		return nil, err
	}
	out := &Detached{LUKS: m.header, Length: p.length, Copied: m.copy, Wiped: d.Wipe}
	if m.wipe = d.Wipe && !m.wiped; d.DryRun || !m.copy && !m.wipe {
		return out, nil
	}
	f, release, err := p.openChecked(ctx, m.there)
	if err != nil {
		return nil, err
	}
	defer release()
	m.to, m.begin = d.To, begin
	return out, m.run(durable{f})
}

// find reads the header, from the image or from the file that has it already, and returns its place in the image.
func (d Detaching) find(ctx context.Context, m *detachment) (p headerPlace, err error) {
	if !m.copy {
		return d.resume(ctx, m)
	}
	if p, err = locate(d.Path, "", 0); err != nil {
		return p, err
	}
	if err := p.checkRaw(); err != nil {
		return p, err
	}
	if m.there, err = p.read(); err != nil {
		return p, err
	}
	m.content = m.there
	m.header, err = opened(ctx, m.content, d.Passphrase)
	return p, err
}

// resume compares the file that an earlier run has made with what is in the image.
func (d Detaching) resume(ctx context.Context, m *detachment) (p headerPlace, err error) {
	if m.content, err = fsutil.ReadLinked(d.To, maxHeader); err != nil {
		return p, err
	}
	switch m.header, err = opened(ctx, m.content, d.Passphrase); {
	case errors.Is(err, ErrWrongPassphrase):
		return p, fmt.Errorf("%s: %w", d.To, err)
	case err != nil:
		return p, fmt.Errorf("%s %w: %w", d.To, ErrExists, err)
	}
	if p, err = placeOf(d.Path, m.header); err != nil {
		return p, err
	}
	if m.there, err = p.read(); err != nil {
		return p, err
	}
	switch m.header.Leftover(m.content, m.there) {
	case luks.LeftNothing:
		m.wiped = true
	case luks.LeftOther:
		return p, fmt.Errorf("%w: the beginning of %s is not the header in %s: if the key slots of either were changed since, write that header back into the image, and detach it again", ErrOccupied, d.Path, d.To)
	}
	return p, nil
}

// placeOf returns the place before the payload of an image for a header that may be in a file of its own.
func placeOf(path string, h *luks.Header) (headerPlace, error) {
	switch offset := h.PayloadOffset(); offset {
	case 0:
		return headerPlace{}, fmt.Errorf("%w: the payload begins at the first byte of %s, and would have to be moved", ErrPlace, path)
	case luks.UnknownOffset:
		return headerPlace{}, fmt.Errorf("%w: the payload is in several parts, as in a re-encryption, which has to be finished before", ErrPlace)
	default:
		p, err := locate(path, "", offset)
		if err == nil {
			err = p.checkRaw()
		}
		return p, err
	}
}

// checkRaw refuses the place of a header inside a qcow2 image.
func (p headerPlace) checkRaw() error {
	if p.offset > 0 {
		return fmt.Errorf("%w: %s is an encrypted qcow2 image, for which QEMU knows no detached header", ErrPlace, p.path)
	}
	return nil
}

// detachment is the part of [DetachHeader] that changes something.
type detachment struct {
	header  *luks.Header
	content []byte // as long as its place if it is to be copied
	there   []byte // in its place
	copy    bool   // to a new file
	wipe    bool
	wiped   bool // before

	to    string
	begin beginning
}

// run moves the header that is at the beginning of s.
func (m detachment) run(s luks.Storage) error {
	if m.copy {
		if err := writeNew(m.begin, m.to, m.content); err != nil {
			return err
		}
	}
	if !m.wipe {
		return nil
	}
	if err := m.header.Wipe(s, m.header.PayloadOffset()); err != nil {
		return &LeftError{err, []string{"the header in the image, which is wiped in part; " + m.to + " has it"}}
	}
	return nil
}
