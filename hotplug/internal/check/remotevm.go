package check

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/apply"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
)

// remoteVM checks a disk whose files are on another host: whether the VM has one of them
// open already, by their paths. QEMU checks the rest, see [Candidate.InQEMU].
func (c *Candidate) remoteVM() error {
	c.Host.Entry(c.Disk.Target).Warn("the VM runs on another machine: whether others use the disk's files, and whether they may be used, is not checked here")
	for _, l := range c.layers() {
		if !l.recovers() {
			continue
		}
		warnings, err := l.unproven("the VM runs on another machine, so that luksplug cannot read the image")
		if err != nil {
			return err
		}
		for _, w := range warnings {
			c.Host.Entry(c.Disk.Target).Warn(w)
		}
	}
	for _, i := range c.Disk.Images() {
		if !i.Source.Local() {
			continue
		}
		for _, n := range c.State.Nodes {
			if n.IsStorage() && n.File == i.Source.Path {
				return c.refuse(outcome.ErrImageInUse, nil, "the file %s is in use by %s", i.Source, c.State.Owner(n))
			}
		}
	}
	return nil
}

// InQEMU has the VM's QEMU check images once the nodes exist and before the guest sees the
// disk: that QEMU has opened no file that only an image names, and, for images that this
// process cannot read, that an image without <encryption> has no LUKS header, and that no
// other disk of the VM uses the disk's header. Otherwise the guest would destroy data.
func (c *Candidate) InQEMU(ctx context.Context, r *apply.Run) error {
	if err := c.opened(ctx, r.Plan.Graph); err != nil || c.Host.Local {
		return err
	}
	for i, layer := range c.Disk.Layers() {
		if err := c.storeInQEMU(ctx, r, i, *layer); err != nil {
			return err
		}
		detached := layer.Encryption != nil && layer.Encryption.Header != nil
		if !plain(*layer) && !detached || c.guestsHeader(*layer) {
			continue // QEMU itself compares the image with the XML
		}
		if detached && layer.Encryption.Recovery != blockgraph.NoRecovery {
			continue // the header that may be there is the damaged one
		}
		node := payloadNode(r.Plan.Graph, i)
		if node == "" {
			continue // an empty drive, or a vhost-user disk
		}
		found, err := c.holdsHeader(ctx, r, node, layer.Source)
		if err != nil {
			return err
		}
		if found {
			return c.refused(*layer, image.LUKS)
		}
	}
	return c.volumes(ctx)
}

// storeInQEMU refuses a data store that is a LUKS volume.
func (c *Candidate) storeInQEMU(ctx context.Context, r *apply.Run, number int, layer blockgraph.Image) error {
	node := nodeOf(r.Plan.Graph, number, blockgraph.RoleDataStorage)
	if layer.DataStore == nil || node == "" || c.Spec.AllowGuestHeader {
		return nil
	}
	found, err := c.holdsHeader(ctx, r, node, layer.DataStore.Source)
	if err != nil || !found {
		return err
	}
	alone := *c.Disk
	alone.Image = layer
	return (&layerCheck{Candidate: c, disk: &alone}).refuseStore(image.Data, layer.DataStore.Source, image.LUKS)
}

// holdsHeader reports whether a node of the VM's QEMU shows a LUKS volume.
func (c *Candidate) holdsHeader(ctx context.Context, r *apply.Run, node string, source blockgraph.Source) (bool, error) {
	found, err := r.HoldsHeader(ctx, node)
	switch {
	case errors.Is(err, apply.ErrCannotTell):
		return false, c.refuse(outcome.ErrImageUnusable, err, "the VM's QEMU cannot tell whether the image %s holds a LUKS header", source)
	case err != nil:
		return false, fmt.Errorf("query QEMU whether %s holds a LUKS header: %w", source, err)
	}
	return found, nil
}

// payloadNode returns the name of the node that shows the content of a layer's image,
// encrypted or not.
func payloadNode(graph *blockgraph.Graph, layer int) string {
	return nodeOf(graph, layer, blockgraph.RolePayloadStorage, blockgraph.RolePayloadSlice, blockgraph.RolePayloadFormat)
}

// nodeOf returns the name of the uppermost node of a layer with one of the roles.
func nodeOf(graph *blockgraph.Graph, layer int, roles ...blockgraph.Role) string {
	name := ""
	for _, n := range graph.Nodes { // from the file upwards
		if role, number := n.Role.Base(); number == layer && slices.Contains(roles, role) {
			name = n.Name
		}
	}
	return name
}

// volumes refuses a volume that another disk of the VM uses, by the UUID in its header.
func (c *Candidate) volumes(ctx context.Context) error {
	state, err := inventory.Nodes(ctx, c.VM.Conn)
	if err != nil {
		return fmt.Errorf("query which volumes there are: %w", err)
	}
	ours := map[string]bool{}
	for _, n := range state.Nodes {
		if target, _, ok := blockgraph.ParseName(n.Name); ok && target == c.Disk.Target && n.Image.Specific.Data.UUID != "" {
			ours[n.Image.Specific.Data.UUID] = true
		}
	}
	for _, n := range state.Nodes {
		target, _, ok := blockgraph.ParseName(n.Name)
		if ok && target == c.Disk.Target || !ours[n.Image.Specific.Data.UUID] {
			continue
		}
		warnings, err := c.shared("of LUKS volume "+n.Image.Specific.Data.UUID, state.Owner(n), c.ownHeaderUse())
		if err != nil {
			return err
		}
		for _, w := range warnings {
			c.Host.Entry(c.Disk.Target).Warn(w)
		}
	}
	return nil
}
