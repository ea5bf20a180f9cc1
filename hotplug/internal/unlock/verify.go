package unlock

import (
	"context"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Verify looks the passphrase of a disk up, and returns nil if it opens the LUKS header of the
// top layer, which is in an image of this host. The errors are those of [Resolve].
func (u Unlocker) Verify(ctx context.Context, disk *blockgraph.Disk, store secrets.Store) error {
	ref, in := disk.Secrets()[0], *disk.Image.LUKSHeader()
	secret, err := store.Lookup(ctx, ref)
	if err != nil {
		return &outcome.SecretError{Target: disk.Target, Ref: ref, Err: err}
	}
	defer secret.Wipe()
	inside := disk.Header() == nil && in.Format == blockgraph.FormatQcow2
	if inside {
		in.Format = blockgraph.FormatRaw // qcow2's own encryption: the header is not in what the image stores
	}
	r, err := OpenLocal(ctx, in)
	if err == nil {
		defer fsutil.CloseRead(r)
	}
	var h *luks.Header
	switch {
	case err != nil:
	case !inside:
		h, err = luks.ReadHeader(r)
	default:
		var q *image.Qcow2Header
		if q, err = image.ReadQcow2(r); err == nil {
			h = q.LUKS
		}
	}
	if err == nil && h == nil {
		err = luks.ErrNotLUKS
	}
	if err != nil {
		return &outcome.PreflightError{Target: disk.Target, Cause: outcome.ErrHeaderUnusable, Reason: "the LUKS header in " + in.Source.String() + " cannot be read", Err: err}
	}
	key, err := u.key(ctx, disk.Target, in, h, ref, secret)
	if err == nil {
		key.Wipe()
	}
	return err
}
