package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets/luks"
)

// payloads refuses payloads of this host that have a detached header and hold plain data. It
// is a check of its own because it takes longer than the others: [Search] begins with it.
func payloads(ctx context.Context, c *Candidate) (Findings, error) {
	var all Findings
	for _, l := range c.searched() {
		var h *luks.Header
		if header := l.disk.Header(); unlock.ReadsHere(*header) {
			var err error
			if h, err = l.readHeader(ctx, *header); err != nil {
				return Findings{}, err
			}
		}
		warnings, err := l.localPayload(ctx, h)
		if err != nil {
			return Findings{}, err
		}
		all.Warnings = append(all.Warnings, warnings...)
	}
	return all, nil
}

// searched returns the layers whose payloads are searched for plain data: they are on this
// host, and have a detached header that is no backup.
func (c *Candidate) searched() []*layerCheck {
	if !c.Host.Local {
		return nil
	}
	return slices.DeleteFunc(c.layers(), func(l *layerCheck) bool {
		return l.disk.Header() == nil || !unlock.ReadsHere(l.disk.Image) || l.recovers()
	})
}

// Search begins to search the disk's payloads for plain data, in the background: the check
// of c's payloads then finds the result, unless they have changed.
func Search(ctx context.Context, c *Candidate) {
	for _, l := range c.searched() {
		c.Searches.Begin(ctx, func() (image.Reader, error) { return unlock.OpenLocal(ctx, l.disk.Image) })
	}
}

// localPayload searches a payload of this host that has a detached header; h is nil if the
// header is not known. A qcow2 image that package image cannot read is not searched.
func (l *layerCheck) localPayload(ctx context.Context, h *luks.Header) (warnings []string, err error) {
	source := l.disk.Image.Source
	r, err := unlock.OpenLocal(ctx, l.disk.Image)
	if err == nil {
		defer fsutil.CloseRead(r)
		warnings, err = l.plainPayload(ctx, r, h)
	}
	switch refused := (*outcome.PreflightError)(nil); {
	case errors.Is(err, image.ErrUnsupported):
		return []string{fmt.Sprintf("the payload %s cannot be searched for a file system: %v", source, err)}, nil
	case err != nil && !errors.As(err, &refused):
		return nil, l.refuse(outcome.ErrImageUnusable, err, "the payload %s cannot be read", source)
	}
	return warnings, err
}

// plainPayload refuses a payload under a detached header that has a signature of plain
// data, as a file system: the guest would see noise, and could format it. The signature is
// searched from the beginning, and from the place where h has the encrypted data begin.
// Ciphertext has a signature by chance once in some thousand volumes.
func (l *layerCheck) plainPayload(ctx context.Context, r image.Reader, h *luks.Header) (warnings []string, err error) {
	found, err := signatures(ctx, l.Searches, r, 0)
	if offset := int64(0); err == nil && len(found) == 0 && h != nil {
		if offset = h.PayloadOffset(); offset > 0 && offset < r.Size() {
			found, err = signatures(ctx, l.Searches, r, offset)
		}
	}
	return l.signed(found, err)
}

// signed returns the result for a payload under a detached header in which signatures of
// plain data were searched. err is the error of the search.
func (l *layerCheck) signed(found []image.Signature, err error) (warnings []string, _ error) {
	source := l.disk.Image.Source
	switch {
	case errors.Is(err, image.ErrNoSignatures):
		return []string{fmt.Sprintf("the payload %s is not searched for a file system, which the guest would see as noise: %v", source, err)}, nil
	case err != nil:
		return nil, err
	case len(found) == 0:
		return nil, nil
	case l.Spec.AllowPayloadSignature:
		return []string{fmt.Sprintf("the payload %s has the signature of %s, as was allowed", source, list(found))}, nil
	}
	return nil, l.refuse(outcome.ErrPayloadSignature, nil, "the payload %s has the signature of %s, so that it looks like plain data: under a LUKS header the guest would see noise, and could format it. Correct the path, "+
		"remove <encryption> if it is not encrypted, or allow the signature if this is ciphertext that looks so by chance", source, list(found))
}

// signatures returns the signatures in an image from an offset on, except for those of LUKS
// itself, which content judges.
func signatures(ctx context.Context, searches *image.Searches, r image.Reader, offset int64) ([]image.Signature, error) {
	part := r
	if offset > 0 {
		part = image.From(r, offset)
	}
	all, err := searches.Signatures(ctx, part)
	var found []image.Signature
	for _, one := range all {
		if one.Type != "crypto_LUKS" && one.Type != image.IncompleteSignature {
			found = append(found, image.Signature{Offset: one.Offset + offset, Type: one.Type})
		}
	}
	return found, err
}

func list(found []image.Signature) string {
	names := make([]string, len(found))
	for i, s := range found {
		names[i] = s.String()
	}
	return strings.Join(names, ", ")
}

// contents tells what an image without a LUKS header holds.
type contents struct {
	what    string            // "" if it is not known
	volumes []image.Partition // partitions that are LUKS volumes
	blank   bool              // there are only zeros where anything would be found
}

// contains searches an image, which is nil if it could not be opened.
func contains(ctx context.Context, r image.Reader) contents {
	if r == nil {
		return contents{}
	}
	prefix := make([]byte, min(blankLength, r.Size()))
	if _, err := r.ReadAt(prefix, 0); err != nil && !errors.Is(err, io.EOF) {
		return contents{}
	}
	switch f := image.FormatOf(prefix); f {
	case image.Raw:
	case image.CephClone:
		return contents{what: "a volume of an encrypted Ceph clone (for engine='librbd')"}
	default:
		return contents{what: fmt.Sprintf("a %s image", f)}
	}
	found, err := signatures(ctx, &image.Searches{}, r, 0)
	switch {
	case len(found) > 0:
		return contents{what: list(found), volumes: volumes(r)}
	case err != nil:
		return contents{}
	}
	return contents{blank: strings.Trim(string(prefix), "\x00") == ""}
}

const blankLength = 1 << 20

// volumes returns the partitions of an image that are LUKS volumes, as far as it can be read.
func volumes(r image.Reader) []image.Partition {
	all, err := image.Partitions(r)
	if err != nil {
		return nil
	}
	found, err := image.Volumes(r, all)
	if err != nil {
		return nil
	}
	return found
}

// withoutHeader is the advice for an image that is to have a LUKS header and has none.
func (c contents) withoutHeader() string {
	switch {
	case len(c.volumes) > 0:
		p := c.volumes[0]
		return fmt.Sprintf("it holds %s, which formatting it would destroy, and its partition %d is a LUKS volume: remove <encryption> if the guest opens that, or attach it alone, by <slices><slice type='storage' offset='%d' size='%d'/></slices> in the <source>",
			c.what, p.Number, p.Offset, p.Size)
	case c.what != "":
		return "it holds " + c.what + ", which formatting it would destroy: check the path"
	case c.blank:
		return "it begins with zeros only: check the path, or format it as a volume if nothing is to be kept in it"
	}
	return "it holds data of an unknown kind, which formatting it would destroy: check the path, and if this is the volume, restore a backup of its header"
}

// ofOverwritten is the advice for an image that has only the second copy of a LUKS2 header.
func (c contents) ofOverwritten() string {
	if c.what != "" {
		return "it now holds " + c.what + ", which `cryptsetup repair` would damage: if that is what it is to hold, it is no LUKS volume any more"
	}
	return "no file system or partition table was found in it: `cryptsetup repair` can restore the header, after a copy of the image was made"
}
