package blockgraph

import (
	"path"

	"github.com/luksplug/luksplug/secrets"
)

// Build returns the graph of a disk for a VM; u says how its LUKS volumes are
// opened. The disk is validated first. The errors are [*InvalidError],
// [*UnsupportedError] and, if the VM has no room, [*PlacementError].
func Build(d *Disk, m Machine, u Unlock) (*Graph, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	b := newBuilder(d, u)
	b.machine = m
	build := b.images
	if u.Method == MethodStorageDaemon && d.Encrypted() {
		build = b.external
	}
	in, err := build()
	if err != nil {
		return nil, err
	}
	if in.node, err = b.filters(in.node, m); err != nil {
		return nil, err
	}
	if err := b.device(in, m); err != nil {
		return nil, err
	}
	return b.graph, nil
}

// BuildCopy returns the graph of the images of a disk as an instance of it, without a device: its top node is the target
// of a copy of the disk. Its first node is the [Guard]. The disk's filters are left out: those of the attached disk stay,
// over the new images. The disk is validated first. The errors are [*InvalidError] and [*UnsupportedError].
func BuildCopy(d *Disk, instance string, u Unlock) (*Graph, error) {
	return buildCopy(d, instance, u, false)
}

// BuildRenamedCopy is [BuildCopy] for images whose files are going to be renamed while QEMU has them open. QEMU keeps the names by
// which it has opened them. A node with auto-read-only is opened again by its name when it changes between reading and writing, as a
// migration makes it do: with another file at that name, QEMU 10.0 and 11.1 have written to that one. The nodes of this graph are
// opened for writing at once, and keep their files.
func BuildRenamedCopy(d *Disk, instance string, u Unlock) (*Graph, error) {
	return buildCopy(d, instance, u, true)
}

func buildCopy(d *Disk, instance string, u Unlock, renamed bool) (*Graph, error) {
	if err := d.Validate(); err != nil {
		return nil, err
	}
	images := *d
	images.CopyOnRead = false
	b := newBuilder(&images, u)
	b.instance, b.graph.Target, b.renamed = instance, instance, renamed
	b.guard()
	_, err := b.images()
	return b.graph, err
}

// medium is what the device reads and writes: a node, a connection, or nothing for
// an empty drive.
type medium struct {
	node, chardev string
}

// images adds the nodes of the disk, bottom up.
func (b *builder) images() (medium, error) {
	switch {
	case b.disk.Empty:
		return medium{}, nil
	case b.disk.Image.Source.Kind == SourceVHostUser:
		return medium{chardev: b.vhostUser(b.disk.Image.Source)}, nil
	}
	top, err := b.chain(b.disk.Image, 0)
	if err != nil {
		return medium{}, err
	}
	if b.disk.Transient {
		top = b.overlay(top)
	}
	if b.disk.CopyOnRead {
		top = b.copyOnRead(top)
	}
	return medium{node: top}, nil
}

// external adds the VM's NBD node for a disk that a storage daemon unlocks, and
// the daemon's own graph. See QEMU's docs/interop/qemu-qmp-ref,
// BlockdevOptionsNbd.
func (b *builder) external() (medium, error) {
	daemon := newBuilder(b.disk, Unlock{Method: MethodQEMU})
	daemon.machine.Name = b.machine.Name
	if _, err := daemon.images(); err != nil {
		return medium{}, err
	}
	if len(daemon.graph.Files) > 0 {
		return medium{}, &UnsupportedError{Element: "disk@type", Err: ErrNoDescriptors,
			Reason: "a storage daemon takes no descriptors, and so no vhostvdpa device: unlock the disk in the VM's QEMU"}
	}
	b.graph.Daemon = daemon.graph
	socket := path.Join(b.unlock.Dir, NBDSocket)
	o := Object{{"driver", "nbd"},
		{"server", Object{{"type", "unix"}, {"path", socket}}},
		{"export", Export(b.disk.Target)},
		{"node-name", b.name(RolePayloadStorage)}}
	b.addAccess(&o, layer{readOnly: b.disk.ReadOnly}, true)
	return medium{node: b.add(Node{Role: RolePayloadStorage, Options: o, From: socket})}, nil
}

// BuildImage returns the nodes of a single image with its data store, for reading a LUKS
// header from it. No backing file is opened. The graph has no device, and the nodes are
// named like those of a header.
func BuildImage(target string, image Image) (*Graph, error) {
	image.Encryption = nil
	return buildImage(target, image)
}

// BuildDecrypted is BuildImage for an image that Ceph's library decrypts: the node
// shows the decrypted content. Any other encryption is omitted.
func BuildDecrypted(target string, image Image) (*Graph, error) {
	if !image.Encryption.librbd() {
		image.Encryption = nil
	}
	return buildImage(target, image)
}

func buildImage(target string, image Image) (*Graph, error) {
	image.Backing, image.Terminated = nil, formats[image.Format].backing
	disk := &Disk{Target: TargetOf(target), Device: DeviceDisk, Bus: BusVirtio, ReadOnly: true, Image: image}
	if err := disk.Validate(); err != nil {
		return nil, err
	}
	b := newBuilder(disk, Unlock{})
	var below links
	var err error
	if image.DataStore != nil {
		if below.data, err = b.plain(*image.DataStore, layer{data: true, readOnly: true}, links{}); err != nil {
			return nil, err
		}
	}
	_, err = b.plain(image, layer{header: true, readOnly: true}, below)
	return b.graph, err
}

// Secrets returns the references of all secrets that QEMU needs for the disk, in
// the order of use: passphrases and the credentials of servers.
func (d *Disk) Secrets() []secrets.Reference {
	b := newBuilder(d, Unlock{})
	_, _ = b.images() // for an invalid disk: those before the error
	var out []secrets.Reference
	for _, o := range b.graph.Objects {
		if data, ok := o.Secret(); ok && data.Kept() {
			out = append(out, data.Ref)
		}
	}
	return out
}
