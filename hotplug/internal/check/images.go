package check

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/daemon"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets/luks"
)

// images checks that the disk's images exist, may be opened, are not in use by others,
// and match the XML. The size in its findings is that of a volume that is unlocked
// outside of QEMU.
func images(ctx context.Context, c *Candidate) (Findings, error) {
	if !c.Host.Local {
		return Findings{}, c.remoteVM()
	}
	var all Findings
	if err := c.unused(ctx); err != nil {
		return all, err
	}
	if all.Servers = c.Servers; all.Servers == nil {
		all.Servers = &Servers{}
	}
	for i, l := range c.layers() {
		found, err := l.run(ctx)
		if err != nil {
			return Findings{}, err
		}
		all.Warnings = append(all.Warnings, found.Warnings...)
		all.Stall = all.Stall.And(found.Stall)
		if i == 0 {
			all.Size = found.Size
		}
		if found.Servers == nil {
			continue
		}
		if i == 0 {
			all.Servers.Size, all.Servers.UUID = found.Servers.Size, found.Servers.UUID
		}
		all.Servers.Stall = all.Servers.Stall.And(found.Servers.Stall)
		all.Servers.Warnings = append(all.Servers.Warnings, found.Servers.Warnings...)
	}
	all.Stall = all.Stall.And(all.Servers.Stall)
	return all, c.stallOfAll(all.Stall)
}

// unused refuses a payload that this VM has open already. The image locks would refuse it
// too, but they name no disk, and do not refuse two readers.
func (c *Candidate) unused(ctx context.Context) error {
	source := c.Disk.Image.Source
	for _, n := range c.State.Nodes {
		if err := ctx.Err(); err != nil {
			return err // QEMU may list any number, and each is looked up
		}
		if source.Local() && n.IsStorage() && image.SameFile(n.File, source.Path) {
			return c.refuse(outcome.ErrImageInUse, nil, "the image %s is in use by %s", source, c.State.Owner(n))
		}
	}
	for instance, n := range c.State.Host.Notes {
		target := blockgraph.TargetOf(instance)
		if !source.Local() && n.Payload == source.String() && instance != c.Disk.Target && c.State.Disk(target) != nil {
			return c.refuse(outcome.ErrImageInUse, nil, "the image %s is in use by disk %s of this VM", source, target)
		}
	}
	return nil
}

// layerCheck checks one layer, as a disk of its own.
type layerCheck struct {
	*Candidate
	disk *blockgraph.Disk
}

// layers returns the layers of the disk, the top one first, each as a disk of its own. Those
// below the top layer are only read.
func (c *Candidate) layers() []*layerCheck {
	var out []*layerCheck
	for i, layer := range c.Disk.Layers() {
		alone := *c.Disk
		alone.Image, alone.ReadOnly = *layer, c.Disk.ReadOnly || c.Disk.Transient || i > 0
		out = append(out, &layerCheck{Candidate: c, disk: &alone})
	}
	return out
}

// run checks the images of the layer that are on this host, and those that a storage
// daemon has to open.
func (l *layerCheck) run(ctx context.Context) (Findings, error) {
	payload, err := l.local(ctx)
	if err != nil {
		return Findings{}, err
	}
	h, found, err := l.header(ctx, payload)
	if err != nil {
		return found, err
	}
	remote := !unlock.ReadsHere(*l.disk.Image.LUKSHeader())
	switch {
	case l.Servers != nil && remote:
		found.Size = l.Servers.Size // was checked before the key was derived
		return found, nil
	case l.Servers == nil && haveDaemon():
		seen, more, err := l.servers(ctx, h)
		if err != nil {
			return found, err
		}
		found.Servers = &Servers{Warnings: more.Warnings}
		if remote {
			h = seen
		}
		if remote && h != nil {
			found.Servers.UUID = h.UUID
		}
	}
	if err := l.addRecovery(ctx, h, &found); err != nil {
		return found, err
	}
	if h == nil {
		return found, nil
	}
	return l.unlocks(ctx, h, found, remote)
}

// unlocks checks that the layer's volume can be opened by its header, and adds the size and
// the stall to the findings. remote is true if the header is not on this host.
func (l *layerCheck) unlocks(ctx context.Context, h *luks.Header, found Findings, remote bool) (Findings, error) {
	if err := l.opens(h); err != nil {
		return found, err
	}
	stall, err := l.stall(h)
	if err != nil {
		return found, err
	}
	switch {
	case !remote:
		found.Stall = stall
	case found.Servers != nil:
		found.Servers.Stall = stall
	}
	if l.Unlock.Method != blockgraph.MethodEphemeralHeader || l.inQEMU() {
		return found, nil
	}
	if found.Size, err = l.volumeSize(ctx, h); remote && found.Servers != nil {
		found.Servers.Size = found.Size
	}
	return found, err
}

// local checks the payload and the data store that are on this host, without the payload's
// content. It returns the payload, nil for one that is not on this host.
func (l *layerCheck) local(ctx context.Context) (payload *image.Info, err error) {
	layer := &l.disk.Image
	if store := layer.DataStore; store != nil && store.Source.Local() {
		_, err := l.usable(*store, "data store", l.imageUse())
		if err == nil && unlock.ReadsHere(*store) {
			err = l.store(ctx, *store)
		}
		if err != nil {
			return nil, err
		}
	}
	if !layer.Source.Local() {
		return nil, nil
	}
	if payload, err = l.usable(*layer, "payload", l.imageUse()); err != nil {
		return nil, err
	}
	if err := l.localChain(ctx, payload); err != nil || payload.Qcow2 == nil {
		return payload, err
	}
	return payload, l.qcow2(payload.Qcow2)
}

// header checks the layer's LUKS header if it is on this host, and that there is none if
// the XML has none. payload is nil for a payload that is not on this host.
func (l *layerCheck) header(ctx context.Context, payload *image.Info) (*luks.Header, Findings, error) {
	layer, header := &l.disk.Image, l.disk.Header()
	here := payload != nil && unlock.ReadsHere(*layer)
	var found Findings
	var err error
	switch {
	case header == nil && !here:
		return nil, found, nil
	case header != nil && !unlock.ReadsHere(*header): // a server's
		if here {
			_, err = l.localContent(ctx, start)
		}
		return nil, found, err
	}
	if header == nil && layer.Format == blockgraph.FormatQcow2 {
		return payload.Qcow2.LUKS, found, nil
	}
	if header == nil {
		h, err := l.localContent(ctx, everything)
		return h, Findings{}, err
	}
	h, found, err := l.detachedHeader(ctx, *header)
	if err != nil || !here {
		return h, found, err
	}
	_, err = l.localContent(ctx, start)
	return h, found, err
}

// detachedHeader checks a detached header on this host: the file, its content, and that
// no other disk uses it.
func (l *layerCheck) detachedHeader(ctx context.Context, header blockgraph.Image) (*luks.Header, Findings, error) {
	var found Findings
	path, use := header.Source.Path, l.headerUse()
	// First, because the file's locks would not name the other disk.
	user, err := l.headerUser(ctx, path, "")
	if err != nil {
		return nil, found, err
	}
	if user == "" || use == shares {
		info, err := l.usable(header, "header", use)
		if err == nil && info.Qcow2 != nil {
			err = l.alone(header.Source, info.Qcow2.References())
		}
		if err != nil {
			return nil, found, err
		}
	}
	h, err := l.readHeader(ctx, header)
	if err != nil {
		return nil, found, err
	}
	if user == "" {
		user, err = l.headerUser(ctx, path, h.UUID)
	}
	if err != nil || user == "" {
		return h, found, err
	}
	found.Warnings, err = l.shared(path, user, use)
	return h, found, err
}

// readHeader reads a detached header of this host.
func (c *Candidate) readHeader(ctx context.Context, header blockgraph.Image) (*luks.Header, error) {
	r, err := unlock.OpenLocal(ctx, header)
	if err != nil {
		return nil, c.headerError(ctx, header.Source, nil, err)
	}
	defer fsutil.CloseRead(r)
	h, err := luks.ReadHeader(r)
	if err != nil {
		return nil, c.headerError(ctx, header.Source, r, err)
	}
	return h, nil
}

// headerUse returns the use of a detached header: if the key is derived here, QEMU gets
// another header.
func (c *Candidate) headerUse() use {
	if c.Unlock.Method != blockgraph.MethodEphemeralHeader {
		return c.imageUse()
	}
	return c.ownHeaderUse()
}

// ownHeaderUse is headerUse for a header that luksplug itself reads.
func (c *Candidate) ownHeaderUse() use {
	if c.Spec.AllowSharedHeader {
		return shares
	}
	return reads
}

// imageUse returns the use of an image that QEMU opens as the XML says.
func (c *Candidate) imageUse() use {
	if c.Moving {
		return moves
	}
	return writes
}

// shared returns the result for a detached header that user uses already: a warning if
// sharing is allowed, else a refusal.
func (c *Candidate) shared(header, user string, u use) (warnings []string, err error) {
	if u != shares {
		return nil, c.refuse(outcome.ErrHeaderInUse, nil, "the header %s is in use by %s: one header over two payloads would give both the same key, so make a header for each, or allow a shared one", header, user)
	}
	return []string{fmt.Sprintf("the header %s is also that of %s, as was allowed: both payloads have the same key", header, user)}, nil
}

// headerUser names the disk that uses the detached header, "" for none. A disk that has the
// same payload below it does not count if this one only reads it: overlays share the image
// below them, with its header.
func (l *layerCheck) headerUser(ctx context.Context, path, uuid string) (string, error) {
	shares := l.payloadUsers()
	for _, n := range l.State.Nodes {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		sameFile := n.IsStorage() && image.SameFile(n.File, path)
		sameVolume := uuid != "" && n.Image.Specific.Data.UUID == uuid
		if (sameFile || sameVolume) && !shares[layerOf(n)] {
			return l.State.Owner(n), nil
		}
	}
	payload := ""
	if l.disk.ReadOnly && l.disk.Image.Source.Local() { // image locks keep writers away
		payload = l.disk.Image.Source.Path
	}
	for instance, n := range l.State.Host.Notes {
		target := blockgraph.TargetOf(instance)
		if instance != l.Disk.Target && n.Header != "" && !n.Has(payload) && image.SameFile(n.Header, path) && l.State.Disk(target) != nil {
			return "disk " + target + " of this VM", nil
		}
	}
	dir, err := l.Host.Dir(ctx)
	if err != nil {
		return "", err
	}
	other, err := dir.HeaderUser(path, uuid, payload)
	if err != nil || other == nil {
		return "", err
	}
	return fmt.Sprintf("disk %s of VM %s", other.Target, other.VM), nil
}

// diskLayer is a layer of one of luksplug's disks in the VM; the zero value is none.
type diskLayer struct {
	instance string
	number   int
}

// layerOf returns the layer that a node belongs to.
func layerOf(n inventory.Node) diskLayer {
	instance, role, ours := blockgraph.ParseName(n.Name)
	if !ours {
		return diskLayer{}
	}
	_, number := role.Base()
	return diskLayer{instance, number}
}

// payloadUsers returns the layers of the VM's disks that have the payload of this layer, if
// this one only reads it.
func (l *layerCheck) payloadUsers() map[diskLayer]bool {
	out := map[diskLayer]bool{}
	if !l.disk.ReadOnly || !l.disk.Image.Source.Local() {
		return out
	}
	for _, n := range l.State.Nodes {
		_, role, ours := blockgraph.ParseName(n.Name)
		if base, _ := role.Base(); ours && base == blockgraph.RolePayloadStorage && n.IsStorage() && image.SameFile(n.File, l.disk.Image.Source.Path) {
			out[layerOf(n)] = true
		}
	}
	return out
}

// use is how an image is going to be used.
type use string

const (
	writes use = "writes" // QEMU opens it as the XML says
	moves  use = "moves"  // the same, but only after another QEMU, which has it open, hands it over
	reads  use = "reads"  // only this process reads it, and no other process may write it
	shares use = "shares" // only this process reads it, and others may use it
)

// usable checks that an image of this host is of the kind in the XML, can be opened in
// the mode that QEMU will use, and is not locked. It returns its format, but not that of a
// raw image: its guest can have written any header into it.
func (l *layerCheck) usable(img blockgraph.Image, what string, u use) (*image.Info, error) {
	path := img.Source.Path
	refuse := func(cause error, reason string, err error) (*image.Info, error) {
		return nil, l.refuse(cause, err, "the %s %s "+reason, what, path)
	}
	probe := image.Probe
	if img.Format == blockgraph.FormatRaw {
		probe = image.Inspect
	}
	info, err := probe(path)
	switch {
	case errors.Is(err, luks.ErrIncomplete):
		return refuse(outcome.ErrIncomplete, "is not to be used", err)
	case err != nil:
		return refuse(outcome.ErrImageUnusable, "cannot be used", err)
	}
	if block := img.Source.Kind == blockgraph.SourceBlock; block != info.Block {
		if block {
			return refuse(outcome.ErrImageUnusable, "is not a block device: use type='file'", nil)
		}
		return refuse(outcome.ErrImageUnusable, "is a block device: use type='block'", nil)
	}
	access := image.ReadWrite
	if l.disk.ReadOnly {
		access = image.Read
	} else if err := image.Writable(path); (u == writes || u == moves) && err != nil {
		if what == "header" {
			return refuse(outcome.ErrReadOnlyImage, "cannot be written, and QEMU needs it writable under a writable disk: make it writable, or add <readonly/>", err)
		}
		return refuse(outcome.ErrReadOnlyImage, "cannot be written: make it writable, or add <readonly/>", err)
	}
	if err := image.CheckLock(path, access); u != shares && u != moves && err != nil {
		return refuse(outcome.ErrImageInUse, "is in use outside of this VM: end its other use", err)
	}
	if img.Format == blockgraph.FormatQcow2 && info.Format != image.Qcow2 {
		return nil, l.notQcow2(what, info)
	}
	return info, nil
}

// notQcow2 refuses an image that is qcow2 by the XML only.
func (c *Candidate) notQcow2(what string, info *image.Info) error {
	return c.refuse(outcome.ErrImageUnusable, nil, "the %s %s is not a qcow2 image but %s: correct the format in the XML", what, info.Path, info.Format)
}

// haveDaemon reports whether this host has a storage daemon.
func haveDaemon() bool {
	_, err := exec.LookPath(daemon.Program)
	return err == nil
}
