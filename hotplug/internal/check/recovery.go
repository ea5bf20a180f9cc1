package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets/luks"
)

// recovers reports whether the layer's detached header is a backup of the one in its image.
func (l *layerCheck) recovers() bool {
	enc := l.disk.Image.Encryption
	return enc != nil && enc.Header != nil && enc.Recovery != blockgraph.NoRecovery
}

// addRecovery adds the result of recovery for a layer that is recovered. An earlier
// examination has read images on servers.
func (l *layerCheck) addRecovery(ctx context.Context, h *luks.Header, found *Findings) error {
	remote := haveDaemon() && (byDaemon(l.disk.Image) || byDaemon(*l.disk.Image.LUKSHeader()))
	if !l.recovers() || remote && l.Servers != nil {
		return nil
	}
	warnings, err := l.recovery(ctx, h)
	if remote {
		found.Servers.Warnings = append(found.Servers.Warnings, warnings...)
		return err
	}
	found.Warnings = append(found.Warnings, warnings...)
	return err
}

// recovery checks a layer whose volume is recovered by a backup of its header: that the
// payload follows a header, that what is left of the header in the image is not of another
// volume, and that the payload does not look plain. A disk that is written to needs proof
// that the backup is of the volume: under a wrong one the guest would see noise, and could
// format it. h is the backup, nil if it is not known here.
func (l *layerCheck) recovery(ctx context.Context, h *luks.Header) (warnings []string, err error) {
	layer := l.disk.Image
	switch {
	case h == nil:
		return l.unproven("the backup cannot be read here")
	case !unlock.ReadsHere(layer) && (!byDaemon(layer) || !haveDaemon()):
		return l.unproven("the image cannot be read here")
	case h.PayloadOffset() == 0:
		return nil, l.refuse(outcome.ErrWrongBackup, nil, "the header %s is that of a volume without a header in its image, so that there is none to recover in %s: attach the disk without recovery", layer.LUKSHeader().Source, layer.Source)
	case h.PayloadOffset() == luks.UnknownOffset:
		return nil, nil // opens refuses it
	}
	compared, err := l.compareBackup(ctx)
	if errors.Is(err, image.ErrUnsupported) {
		return l.unproven(err.Error())
	}
	if err != nil {
		return nil, err
	}
	if warnings, err = l.matched(compared); err != nil {
		return nil, err
	}
	if _, err := l.volumeSize(ctx, h); err != nil {
		return nil, err
	}
	more, err := l.recoveredPayload(ctx, h)
	return append(warnings, more...), err
}

// compareBackup compares the backup with the image. Both may be on servers, of which one
// image is open at a time.
func (l *layerCheck) compareBackup(ctx context.Context) (luks.Comparison, error) {
	var none luks.Comparison
	header, layer := *l.disk.Image.LUKSHeader(), l.disk.Image
	r, err := l.Images.Open(ctx, header)
	if err != nil {
		return none, l.headerError(ctx, header.Source, nil, err)
	}
	defer fsutil.CloseRead(r)
	backup, err := luks.ReadBackup(r)
	if err != nil {
		return none, l.headerError(ctx, header.Source, r, err)
	}
	payload, err := l.Images.Open(ctx, layer)
	if err != nil {
		return none, l.unreadable(layer.Source, err)
	}
	defer fsutil.CloseRead(payload)
	compared, err := backup.Compare(payload)
	switch {
	case errors.Is(err, luks.ErrReencryption), errors.Is(err, luks.ErrIncomplete):
		return none, l.headerError(ctx, layer.Source, payload, err)
	case err != nil:
		return none, l.unreadable(layer.Source, err)
	}
	return compared, nil
}

// unreadable returns the error of an image that cannot be read.
func (l *layerCheck) unreadable(s blockgraph.Source, err error) error {
	switch {
	case errors.Is(err, image.ErrUnsupported):
		return err
	case s.Local():
		return l.refuse(outcome.ErrImageUnusable, err, "the image %s cannot be read", s)
	}
	return outcome.ServerError(l.disk.Target, s, err)
}

// matched returns the result for a comparison of the backup with the image.
func (l *layerCheck) matched(c luks.Comparison) (warnings []string, err error) {
	source, backup := l.disk.Image.Source, l.disk.Image.LUKSHeader().Source
	damaged := strings.Join(c.Damaged, ", ")
	switch c.Match {
	case luks.MatchOther:
		return nil, l.refuse(outcome.ErrWrongBackup, nil, "the header %s is not a backup of the one in %s: %s", backup, source, c.Reason)
	case luks.MatchUnknown:
		return l.unproven(c.Reason)
	case luks.MatchDamaged:
		return []string{fmt.Sprintf("the volume in %s is recovered by the header %s: %s; damaged, or changed since the backup: %s", source, backup, c.Reason, damaged)}, nil
	}
	text := fmt.Sprintf("the LUKS header in %s is readable, is of the volume of %s, and has its key slots", source, backup)
	if damaged != "" {
		text += ", and only " + damaged + " is damaged, which `cryptsetup repair` restores"
	}
	if l.VM == nil { // the header was restored while the state of a VM with the disk was saved
		return []string{text + ": it needs no recovery any more"}, nil
	}
	return nil, l.refuse(outcome.ErrNotDamaged, nil, "%s: it needs no recovery, so leave <header> out", text)
}

// unproven returns the result for an image of which nothing shows that it has the volume of
// the backup.
func (l *layerCheck) unproven(reason string) (warnings []string, err error) {
	source, backup := l.disk.Image.Source, l.disk.Image.LUKSHeader().Source
	text := fmt.Sprintf("whether the header %s is a backup of the one in %s is not known: %s", backup, source, reason)
	if !l.disk.ReadOnly {
		return nil, l.refuse(outcome.ErrBackupUnproven, nil, "%s; under another header the guest would see noise, and could format it: recover the volume read-only, and if the guest sees its data, restore the header with `cryptsetup luksHeaderRestore`", text)
	}
	return []string{text + "; if the guest sees no data, it is not"}, nil
}

// recoveredPayload searches a payload for signatures of plain data, as plainPayload does. What
// is before the encrypted data, and its copy at the end, has overwritten the header.
func (l *layerCheck) recoveredPayload(ctx context.Context, h *luks.Header) (warnings []string, err error) {
	source := l.disk.Image.Source
	r, err := l.Images.Open(ctx, l.disk.Image)
	if err != nil {
		return nil, l.unreadable(source, err)
	}
	defer fsutil.CloseRead(r)
	over, err := signatures(ctx, l.Searches, r, 0)
	over = slices.DeleteFunc(over, func(s image.Signature) bool { return s.Offset >= h.PayloadOffset() })
	var inside []image.Signature
	if err == nil {
		inside, err = signatures(ctx, l.Searches, r, h.PayloadOffset())
	}
	inside = slices.DeleteFunc(inside, func(s image.Signature) bool {
		return slices.ContainsFunc(over, func(o image.Signature) bool { return o.Type == s.Type })
	})
	if err == nil && len(over) > 0 {
		warnings = append(warnings, fmt.Sprintf("the header in %s was overwritten by %s: where that goes on after the header, the volume is damaged as well", source, list(over)))
	}
	more, err := l.signed(inside, err)
	return append(warnings, more...), err
}
