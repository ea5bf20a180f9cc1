package apply

import (
	"context"
	"errors"
	"fmt"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/hotplug/internal/overlay"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
)

// OverlayOf returns the overlay of a transient disk, nil for other disks.
func OverlayOf(g *blockgraph.Graph) *blockgraph.Overlay {
	if g.Daemon != nil {
		return g.Daemon.Overlay
	}
	return g.Overlay
}

// withOverlay executes a step. If the step opens an overlay, withOverlay makes the file
// first, as large as the image below it in the process that q queries, and removes its
// name after the step, whether or not it failed: QEMU keeps the file open by its
// descriptor, and it ends with QEMU, even if the host crashes.
func withOverlay(ctx context.Context, h *host.Host, q monitor.Querier, s blockgraph.Step, values *unlock.Values, step func() error) error {
	if s.Overlay == nil {
		return step()
	}
	mark, err := makeOverlay(ctx, h, q, s.Overlay, values)
	if err != nil {
		return err
	}
	err = step()
	if failed := overlay.Remove(s.Overlay.Path, mark); failed != nil {
		err = errors.Join(err, failed)
	}
	return err
}

// makeOverlay makes the file of an overlay, and returns its mark. It first removes the
// overlay of an interrupted run.
func makeOverlay(ctx context.Context, h *host.Host, q monitor.Querier, o *blockgraph.Overlay, values *unlock.Values) (mark string, err error) {
	id, err := h.ID(ctx)
	if err != nil {
		return "", err
	}
	target, _, _ := blockgraph.ParseName(o.Node) // a name of package blockgraph's
	mark = rundir.OverlayMark(id, target)
	owner, err := h.Process(ctx)
	if err != nil {
		return "", err
	}
	state, err := inventory.Nodes(ctx, q)
	if err != nil {
		return "", fmt.Errorf("query the size of the image below the overlay: %w", err)
	}
	base := state.Node(o.Base)
	if base == nil {
		return "", fmt.Errorf("query the size of the image below the overlay: there is no node %s", o.Base)
	}
	options := overlay.Options{Size: base.Image.VirtualSize, Mark: mark, Owner: owner.User, Label: owner.Labels.Image}
	if o.Secret != "" {
		if options.Header = values.Overlay(); options.Header == nil {
			return "", fmt.Errorf("the plan needs an encrypted overlay %s, which was not resolved", o.Path)
		}
	}
	if err := overlay.Remove(o.Path, mark); err != nil && !errors.Is(err, overlay.ErrForeign) {
		return "", err
	}
	return mark, overlay.Create(o.Path, options)
}
