package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Headers is what an examination of the LUKS headers of a planned disk has found, apart from
// what refuses it.
type Headers struct {
	// Unread has an error for each encrypted image whose header cannot be read here.
	Unread []error
	// Doubts are the refusals of an attach that its caller may allow.
	Doubts []error
	// Warnings are for the user.
	Warnings []string
}

// errNotHere reports a header that only QEMU or a storage daemon could read.
var errNotHere = errors.New("only QEMU reads this kind of image")

// Planned examines the LUKS headers of a disk that is planned and not attached, as far as this
// host can read them: whether the disk's method opens them, and whether its images are encrypted
// where the XML says so. It examines neither permissions nor who uses the images, and starts no
// storage daemon. The errors are those of an attach.
func Planned(ctx context.Context, disk *blockgraph.Disk, u blockgraph.Unlock) (Headers, error) {
	var out Headers
	c := &Candidate{Disk: disk, Unlock: u, Searches: &image.Searches{}}
	for _, l := range c.layers() {
		layer := &l.disk.Image
		warnings, err := l.planned(ctx)
		out.Warnings = append(out.Warnings, warnings...)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return out, ctx.Err()
		case errors.Is(err, outcome.ErrGuestHeader), errors.Is(err, outcome.ErrPayloadSignature):
			out.Doubts = append(out.Doubts, err)
		case !unread(err):
			return out, err
		case layer.Encryption != nil:
			out.Unread = append(out.Unread, unreadError(disk.Target, layer.LUKSHeader().Source, err))
		}
	}
	return out, nil
}

// PlannedElsewhere is [Planned] for a VM whose images are not on this host.
func PlannedElsewhere(disk *blockgraph.Disk, why error) Headers {
	var out Headers
	for _, layer := range disk.Layers() {
		if layer.Encryption != nil {
			out.Unread = append(out.Unread, unreadError(disk.Target, layer.LUKSHeader().Source, why))
		}
	}
	return out
}

func unreadError(target string, s blockgraph.Source, why error) error {
	if refused := (*outcome.PreflightError)(nil); errors.As(why, &refused) && refused.Err != nil {
		why = refused.Err // the plan is not refused
	}
	return fmt.Errorf("disk %s: the LUKS header in %s was not examined, so QEMU may refuse it: %w", target, s, why)
}

// unread reports whether an image was not examined because it is not here, or not for this user.
func unread(err error) bool {
	for _, cause := range []error{errNotHere, fs.ErrNotExist, fs.ErrPermission, image.ErrUnsupported} {
		if errors.Is(err, cause) {
			return true
		}
	}
	return false
}

// planned examines the header of one layer.
func (l *layerCheck) planned(ctx context.Context) (warnings []string, err error) {
	layer, detached := &l.disk.Image, l.disk.Header()
	holder := layer.LUKSHeader()
	if !unlock.ReadsHere(*holder) {
		return nil, errNotHere
	}
	var h *luks.Header
	switch {
	case detached != nil:
		h, err = l.readHeader(ctx, *detached)
	case layer.Format == blockgraph.FormatQcow2:
		h, err = l.plannedQcow2()
	default:
		h, err = l.localContent(ctx, everything)
	}
	if err == nil && h != nil {
		err = l.opens(h)
	}
	if err != nil || detached == nil || !unlock.ReadsHere(*layer) {
		return nil, err
	}
	if _, err := l.localContent(ctx, start); err != nil || l.recovers() {
		return nil, err
	}
	return l.localPayload(ctx, h)
}

// plannedQcow2 examines a qcow2 image, and returns the header inside of it, nil for none.
func (l *layerCheck) plannedQcow2() (*luks.Header, error) {
	info, err := image.Probe(l.disk.Image.Source.Path)
	if err != nil {
		return nil, l.refuse(outcome.ErrImageUnusable, err, "the payload %s cannot be used", l.disk.Image.Source.Path)
	}
	if info.Qcow2 == nil {
		return nil, l.notQcow2("payload", info)
	}
	return info.Qcow2.LUKS, l.qcow2(info.Qcow2)
}
