package check

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/qemuimg"
	"github.com/luksplug/luksplug/secrets/luks"
)

// depth is how much of an image is searched for an unexpected LUKS header.
type depth int

const (
	// start: the first bytes. A second copy of a header is not found.
	start depth = iota
	// everything: every place of a header, or of the remains of a header.
	everything
)

// content compares the content of an image with the disk's XML. The image must have a
// LUKS header if and only if the XML has <encryption> without a detached header. It
// returns that header, nil if there must be none.
//
// It is the only check of content, for local and remote images. If only QEMU can read the
// image, [Candidate.InQEMU] refuses with the same messages.
func (l *layerCheck) content(ctx context.Context, r image.Reader, d depth) (*luks.Header, error) {
	layer := l.disk.Image
	if layer.RawLUKS() && l.disk.Header() == nil {
		h, err := luks.ReadHeader(r)
		if err != nil {
			return nil, l.embeddedError(ctx, layer.Source, r, err)
		}
		if h.PayloadOffset() == 0 {
			return nil, l.refuse(outcome.ErrHeaderUnusable, nil, "the image %s is a detached LUKS header without a payload: name the payload as the <source> and this image in <header>", layer.Source)
		}
		return h, nil
	}
	if l.guestsHeader(layer) {
		return nil, nil
	}
	found, err := foreignHeader(r, d)
	switch {
	case errors.Is(err, luks.ErrOverwritten):
		return nil, l.overwritten(ctx, layer, r, err)
	case err != nil:
		return nil, err
	case found == image.LUKS && l.recovers():
		return nil, nil // recovery compares it with the backup
	case found != image.Raw:
		return nil, l.refused(layer, found)
	}
	return nil, nil
}

// guestsHeader reports whether the image may begin with any header: it is a raw image
// without encryption, so that its guest writes whatever it begins with, and the caller has
// allowed it.
func (c *Candidate) guestsHeader(layer blockgraph.Image) bool {
	return c.Spec.AllowGuestHeader && !c.Disk.FormatAssumed && plain(layer)
}

// plain reports whether a guest sees, and writes, the image as it is stored.
func plain(layer blockgraph.Image) bool {
	return layer.Encryption == nil && layer.Format == blockgraph.FormatRaw
}

// localContent is content for a file or block device of this host. A qcow2 image that
// package image cannot read is not searched for an unexpected header: QEMU may be able to
// read it.
func (l *layerCheck) localContent(ctx context.Context, d depth) (*luks.Header, error) {
	layer := l.disk.Image
	r, err := unlock.OpenLocal(ctx, layer)
	var h *luks.Header
	if err == nil {
		defer fsutil.CloseRead(r)
		h, err = l.content(ctx, r, d)
	}
	if d == start && errors.Is(err, image.ErrUnsupported) {
		return nil, nil // compressed, or in a file below
	}
	if refused := (*outcome.PreflightError)(nil); err != nil && !errors.As(err, &refused) {
		return nil, l.refuse(outcome.ErrImageUnusable, err, "the image %s cannot be read", layer.Source)
	}
	return h, err
}

// foreignHeader returns the format of the header with which an image begins that is raw
// by the XML, valid or not; Raw for none. The error wraps
// [luks.ErrOverwritten] if only the second copy of a LUKS2 header is there.
func foreignHeader(r image.Reader, d depth) (image.Format, error) {
	prefix := make([]byte, min(magicLength, r.Size()))
	if _, err := r.ReadAt(prefix, 0); err != nil && !errors.Is(err, io.EOF) {
		return image.Raw, err
	}
	switch found := image.FormatOf(prefix); {
	case found != image.Raw:
		return found, nil
	case d == start:
		return image.Raw, nil
	}
	_, err := luks.ReadHeader(r)
	switch {
	case errors.Is(err, luks.ErrNotLUKS):
		return image.Raw, nil
	case errors.Is(err, luks.ErrOverwritten):
		return image.Raw, err
	case err == nil, errors.Is(err, luks.ErrDamaged), errors.Is(err, luks.ErrUnsupported):
		return image.LUKS, nil
	}
	return image.Raw, err
}

const magicLength = 72 // for all formats

// refused refuses a layer that begins with an unexpected header.
func (c *Candidate) refused(layer blockgraph.Image, found image.Format) error {
	or := "or allow it, if the guest has written it into its own disk"
	if c.Spec.AllowGuestHeader {
		or = "or state <driver type='raw'/>, if the guest has written it into its own disk, as was allowed"
	}
	switch {
	case found == image.Reencryption && layer.Encryption == nil:
		return c.refuse(outcome.ErrGuestHeader, nil, "the image %s is a volume full of data, and %v: finish it with `cryptsetup reencrypt`, and then add <encryption format='luks'>; %s", layer.Source, luks.ErrReencryption, or)
	case found == image.Reencryption:
		return c.refuse(outcome.ErrUnexpectedEncryption, nil, "the payload %s has a LUKS header of its own, and %v: finish it with `cryptsetup reencrypt`", layer.Source, luks.ErrReencryption)
	case found == image.Incomplete && layer.Encryption == nil:
		return c.refuse(outcome.ErrGuestHeader, luks.ErrIncomplete, "the image %s is encrypted with LUKS and not filled yet, and the XML has no <encryption>: attach the other volume of its re-encryption, which has all data; %s", layer.Source, or)
	case found == image.Incomplete:
		return c.refuse(outcome.ErrIncomplete, luks.ErrIncomplete, "the payload %s begins with a LUKS header of its own: attach the other volume of its re-encryption, which has all data", layer.Source)
	case found == image.CephClone && layer.Encryption == nil:
		return c.refuse(outcome.ErrGuestHeader, nil, "the image %s is a clone that Ceph's library has encrypted with LUKS, and the XML has no <encryption>: the guest would see ciphertext and could destroy the header, so add <encryption format='luks' engine='librbd'> with its secret and those of its parents; %s", layer.Source, or)
	case layer.Encryption != nil && !found.Encrypted(): // with a detached header
		return c.refuse(outcome.ErrImageUnusable, nil, "the payload %s is a %s image: correct the format in the XML", layer.Source, found)
	case layer.Encryption != nil:
		return c.refuse(outcome.ErrTwoHeaders, nil, "the payload %s begins with a LUKS header of its own: leave <header> out to use that one; if that one is damaged and <header> is a backup of it, recover the volume", layer.Source)
	case found != image.LUKS:
		return c.refuse(outcome.ErrGuestHeader, nil, "the image %s begins with a %s header, and by the XML it is raw: the guest would see the image file and could destroy it, so correct the format; %s", layer.Source, found, or)
	}
	return c.refuse(outcome.ErrGuestHeader, nil, "the image %s is encrypted with LUKS, and the XML has no <encryption>: the guest would see ciphertext and could destroy the header, so add <encryption format='luks'>; %s", layer.Source, or)
}

// headerError refuses an image whose LUKS header is missing or cannot be read. It says what
// the image holds instead: formatting or repairing it may destroy that.
func (c *Candidate) headerError(ctx context.Context, s blockgraph.Source, r image.Reader, err error) error {
	switch {
	case errors.Is(err, luks.ErrReencryption):
		return c.refuse(outcome.ErrHeaderUnusable, nil, "%s is a volume full of data, and %v", s, err)
	case errors.Is(err, luks.ErrIncomplete):
		return c.refuse(outcome.ErrIncomplete, err, "the LUKS header in %s is not to be used", s)
	case errors.Is(err, luks.ErrOverwritten):
		return c.refuse(outcome.ErrHeaderUnusable, nil, "the LUKS header in %s cannot be read: %v; %s", s, err, contains(ctx, r).ofOverwritten())
	case errors.Is(err, luks.ErrNotLUKS):
		return c.refuse(outcome.ErrHeaderUnusable, err, "%s has no LUKS header; %s", s, contains(ctx, r).withoutHeader())
	}
	return c.refuse(outcome.ErrHeaderUnusable, err, "the LUKS header in %s cannot be read", s)
}

// embeddedError refuses an image whose own LUKS header is missing or cannot be read. A
// backup of the header can open the volume, except in the middle of a re-encryption.
func (c *Candidate) embeddedError(ctx context.Context, s blockgraph.Source, r image.Reader, err error) error {
	refused := c.headerError(ctx, s, r, err)
	damaged := errors.Is(err, luks.ErrNotLUKS) || errors.Is(err, luks.ErrDamaged) || errors.Is(err, luks.ErrUnsupported)
	var p *outcome.PreflightError
	if damaged && errors.As(refused, &p) {
		p.Cause = outcome.ErrHeaderDamaged
	}
	return refused
}

// overwritten refuses an image that is raw by the XML, and has the second copy of a LUKS2
// header: a damaged volume, or other content over the remains of one.
func (c *Candidate) overwritten(ctx context.Context, layer blockgraph.Image, r image.Reader, err error) error {
	return c.refuse(outcome.ErrGuestHeader, nil, "the image %s has no <encryption>, and is or was encrypted with LUKS: %v; %s; allow it if the guest has written it", layer.Source, err, contains(ctx, r).ofOverwritten())
}

// convertOld says what to do with a qcow2 image that has the old encryption of qcow2.
func convertOld(path string) string {
	return "no QEMU that runs VMs opens it any more, so convert it with `" + qemuimg.ConvertOld(path) + "`"
}

// qcow2 checks the encryption of a qcow2 image itself, which it has if and only if the XML has
// <encryption> that neither a detached header nor Ceph's library is for.
func (l *layerCheck) qcow2(header *image.Qcow2Header) error {
	source, enc, crypt := l.disk.Image.Source, l.disk.Image.Encryption, header.Crypt
	own := enc != nil && enc.Header == nil && enc.Engine != blockgraph.EngineLibRBD
	switch {
	case own && crypt == image.CryptNone:
		return l.refuse(outcome.ErrUnexpectedEncryption, nil, "the qcow2 image %s is not encrypted, and the XML has <encryption>: remove it, or add its <header>", source)
	case own && crypt != image.CryptLUKS:
		return &blockgraph.UnsupportedError{Element: "disk/source/encryption", Reason: fmt.Sprintf("the qcow2 image %s has the old encryption (%s): %s", source, crypt, convertOld(source.String()))}
	case own, crypt == image.CryptNone:
		return nil
	case enc != nil:
		return l.refuse(outcome.ErrUnexpectedEncryption, nil, "the qcow2 image %s is encrypted itself (%s), and the <encryption> in the XML is for what it holds: leave <header> and engine out to use its own", source, crypt)
	case crypt == image.CryptAES:
		return l.refuse(outcome.ErrUnexpectedEncryption, nil, "the qcow2 image %s is encrypted (%s), and the XML has no <encryption>; %s, and add <encryption format='luks'>", source, crypt, convertOld(source.String()))
	}
	return l.refuse(outcome.ErrUnexpectedEncryption, nil, "the qcow2 image %s is encrypted (%s), and the XML has no <encryption>: add <encryption format='luks'>", source, crypt)
}

// opens refuses a header that the disk's method cannot open.
func (l *layerCheck) opens(h *luks.Header) error {
	source := l.disk.Image.LUKSHeader().Source
	err, who := h.QEMUOpens(), "QEMU's own driver"
	if l.Unlock.Method == blockgraph.MethodEphemeralHeader && !l.inQEMU() {
		err, who = h.Usable(), "luksplug"
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, luks.ErrUnsupported):
		return &blockgraph.UnsupportedError{Element: "disk/source/encryption", Reason: fmt.Sprintf("%s does not unlock the header of %s for disk %s: %v", who, source, blockgraph.TargetOf(l.disk.Target), err)}
	}
	return l.refuse(outcome.ErrHeaderUnusable, err, "the LUKS header of %s", source)
}

// volumeSize returns the size of a header's volume: that of the payload from the payload
// offset on.
func (l *layerCheck) volumeSize(ctx context.Context, h *luks.Header) (int64, error) {
	source := l.disk.Image.Source
	r, err := l.Images.Open(ctx, l.disk.Image)
	if err != nil {
		return 0, l.refuse(outcome.ErrImageUnusable, err, "the payload %s cannot be read", source)
	}
	defer fsutil.CloseRead(r)
	const sector = luks.SectorSize
	size := (r.Size()+sector-1)/sector*sector - h.PayloadOffset() // QEMU counts a last, partial sector
	if size <= 0 {
		cause := outcome.ErrHeaderUnusable
		if l.disk.Header() == nil { // the header itself may be wrong
			cause = outcome.ErrHeaderDamaged
		}
		return 0, l.refuse(cause, nil, "the payload %s ends at byte %d, before the encrypted data that its LUKS header places at byte %d: it has been cut off", source, r.Size(), h.PayloadOffset())
	}
	return size, nil
}
