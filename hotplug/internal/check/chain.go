package check

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/apply"
	"github.com/luksplug/luksplug/hotplug/internal/daemon"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/remoteimage"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets/luks"
)

// localChain is chain for a layer whose image is a whole file or block device of this host.
func (l *layerCheck) localChain(ctx context.Context, payload *image.Info) error {
	layer := l.disk.Image
	refs, err := localReferences(payload, layer)
	if err != nil {
		return l.refuse(outcome.ErrImageUnusable, err, "the files that the image %s names cannot be read", layer.Source)
	}
	return l.chain(ctx, layer, refs)
}

func localReferences(payload *image.Info, layer blockgraph.Image) ([]image.Reference, error) {
	switch {
	case payload.Qcow2 != nil:
		return payload.Qcow2.References(), nil
	case !canName(layer.Format):
		return nil, nil
	}
	stored, err := image.OpenGuest(payload.Path, image.Raw, "")
	if err != nil {
		return nil, err
	}
	defer fsutil.CloseRead(stored)
	return image.References(stored, image.Format(layer.Format))
}

// canName reports whether images of the format can name other files that QEMU opens.
func canName(f blockgraph.Format) bool {
	switch f {
	case blockgraph.FormatQcow2, blockgraph.FormatQcow, blockgraph.FormatQED, blockgraph.FormatVMDK:
		return true
	}
	return false
}

// named is what the header of an image says about other files, and about its encryption.
type named struct {
	refs  []image.Reference
	qcow2 *image.Qcow2Header // nil for other formats
}

// remoteHeader reads the header of an image of a format that names other files, in a storage
// daemon. The daemon opens it as a raw image, so that it opens no other file, and needs no key.
func (l *layerCheck) remoteHeader(ctx context.Context, i blockgraph.Image) (named, error) {
	if !canName(i.Format) {
		return named{}, nil
	}
	stored := i
	stored.Format, stored.DataStore, stored.Terminated, stored.MetadataCache = blockgraph.FormatRaw, nil, false, 0
	r, err := l.Images.OpenRemote(ctx, stored)
	if err != nil {
		return named{}, outcome.ServerError(l.disk.Target, i.Source, err)
	}
	return l.readNamed(r, i)
}

// readNamed reads the header of an image that r shows as a raw image.
func (l *layerCheck) readNamed(r *remoteimage.Image, i blockgraph.Image) (out named, err error) {
	format := image.Format(i.Format)
	if format == image.Qcow2 {
		if out.qcow2, err = image.ReadQcow2(r); err == nil {
			out.refs = out.qcow2.References()
		}
	} else {
		out.refs, err = image.References(r, format)
	}
	switch {
	case errors.Is(err, image.ErrDamaged), errors.Is(err, image.ErrUnsupported):
		err = l.refuse(outcome.ErrImageUnusable, err, "the image %s is not a %s image that luksplug reads", i.Source, format)
	case errors.Is(err, luks.ErrDamaged), errors.Is(err, luks.ErrUnsupported), errors.Is(err, luks.ErrNotLUKS), errors.Is(err, luks.ErrReencryption), errors.Is(err, luks.ErrIncomplete):
		err = l.refuse(outcome.ErrHeaderUnusable, err, "the image %s", i.Source)
	case err != nil:
		err = outcome.ServerError(l.disk.Target, i.Source, err)
	}
	return out, err
}

// chain refuses a layer whose image names a file that the XML does not: QEMU would open
// whatever the image's writer has chosen, and show it to the guest. If the caller trusts the
// image, it is refused only if the file is encrypted.
func (l *layerCheck) chain(ctx context.Context, layer blockgraph.Image, refs []image.Reference) error {
	if l.Spec.TrustImageChain {
		return l.trusted(ctx, layer, refs)
	}
	for _, ref := range refs {
		parent := "<disk>"
		switch ref.Role {
		case image.Backing:
			if layer.Backing != nil || layer.Terminated {
				continue
			}
			if l.isLower(layer) {
				parent = "<backingStore>"
			}
		case image.Data:
			if layer.DataStore != nil {
				continue
			}
			parent = "<source>"
		}
		return l.refuseReference(layer.Source, ref, parent)
	}
	return nil
}

// isLower reports whether an image is below the top layer of the disk.
func (l *layerCheck) isLower(layer blockgraph.Image) bool {
	return l.Disk.Image.Source.String() != layer.Source.String()
}

func (c *Candidate) refuseReference(source blockgraph.Source, ref image.Reference, parent string) error {
	const chosen = "the XML does not, so that its writer would choose a file for the guest to read"
	if ref.Role == image.Extent {
		return c.refuse(outcome.ErrImageChain, nil, "the vmdk image %s names the files with its data, and %s: convert it to an image of one file, or allow what it names", source, chosen)
	}
	empty := ""
	if ref.Role == image.Backing {
		empty = ", an empty <backingStore/> to open none"
	}
	return c.refuse(outcome.ErrImageChain, nil, "the image %s names the %s %q, and %s: if it is meant, write %s into its %s%s, or allow what images name",
		source, ref.Role, ref.Name, chosen, element(ref, source), parent, empty)
}

// alone refuses a header whose image names other files: a header has no layers in the XML.
func (c *Candidate) alone(source blockgraph.Source, refs []image.Reference) error {
	if len(refs) == 0 || c.Spec.TrustImageChain {
		return nil
	}
	return c.refuse(outcome.ErrImageChain, nil, "the header %s names the %s %q, and a header has no layers: convert it to a raw image, or allow what images name", source, refs[0].Role, refs[0].Name)
}

// opened refuses a disk for which a file is open that only an image names: the image is on
// another host, or has changed since it was checked.
func (c *Candidate) opened(ctx context.Context, graph *blockgraph.Graph) error {
	layers := c.Disk.Layers()
	backing := func(i *blockgraph.Image) bool { return canName(i.Format) && i.Backing == nil && !i.Terminated }
	data := func(i *blockgraph.Image) bool { return i.Format == blockgraph.FormatQcow2 && i.DataStore == nil }
	query := inventory.Nodes // which takes QEMU less time
	if slices.ContainsFunc(layers, backing) {
		query = inventory.Chains
	} else if !slices.ContainsFunc(layers, data) {
		return nil
	}
	if c.Spec.TrustImageChain {
		return nil
	}
	state, err := c.inOpener(ctx, graph, query)
	if err != nil {
		return fmt.Errorf("query which files are open: %w", err)
	}
	if graph.Daemon != nil {
		graph = graph.Daemon
	}
	for i, layer := range layers {
		n := state.Node(payloadNode(graph, i))
		switch {
		case n == nil:
		case data(layer) && n.Image.Specific.Data.Raw != nil:
			return c.refuseReference(layer.Source, image.Reference{Role: image.Data, Name: n.Image.Specific.Data.DataFile}, "<source>")
		case backing(layer) && n.BackingDepth > 0:
			return c.refuseReference(layer.Source, image.Reference{Role: image.Backing, Name: n.Image.Backing, Format: n.Image.BackingFormat}, "<disk>")
		}
	}
	return nil
}

// inOpener queries the process that has the images open: QEMU, or the disk's storage daemon.
func (c *Candidate) inOpener(ctx context.Context, graph *blockgraph.Graph, query func(context.Context, monitor.Querier) (*inventory.State, error)) (*inventory.State, error) {
	if graph.Daemon == nil {
		return query(ctx, c.VM.Conn)
	}
	d, err := daemon.Open(ctx, c.Unlock.Dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }() // only its resources are released
	return query(ctx, apply.StorageDaemon{Daemon: d})
}
