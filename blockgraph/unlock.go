package blockgraph

import (
	"path"
	"strconv"
)

// Unlock says how the LUKS volumes of a disk are opened. The zero value is
// QEMU's own way.
type Unlock struct {
	Method Method
	// FDSet is the id of the first descriptor set through which ephemeral
	// headers are handed over: set where they are passed as descriptors.
	FDSet int64
	// Dir is where ephemeral headers are handed over as files, or where the
	// external daemon has its socket; on the VM's host.
	Dir string
}

// Method is a way to open LUKS volumes.
type Method string

const (
	// MethodQEMU: the VM's QEMU gets the passphrase, and stands still while it
	// derives the key.
	MethodQEMU Method = "qemu"
	// MethodEphemeralHeader: the volume is unlocked outside of QEMU, which gets an ephemeral
	// header that opens at once. A LUKS volume inside a qcow2 image goes by
	// QEMU all the same: its header cannot be replaced.
	MethodEphemeralHeader Method = "ephemeral"
	// MethodStorageDaemon: a storage daemon unlocks the volume and exports the disk over
	// NBD; the VM's QEMU knows nothing of encryption.
	MethodStorageDaemon Method = "external"
)

// FirstFDSet is the lowest id of the descriptor sets that are ours. QEMU and
// libvirt count theirs from 0, and QEMU reads the id as an int.
const FirstFDSet int64 = 1_900_000_000

// EphemeralHeader says which header is to be unlocked, and how what it becomes
// gets into the VM.
type EphemeralHeader struct {
	// Node is the name of the node that reads the ephemeral header.
	Node string
	// Secret is the id of the object with its one-time passphrase.
	Secret string
	// Original is the image with the original header: the detached one, or
	// the payload itself.
	Original Image
	// FDSet is the id of the descriptor set that it is passed in, and Opaque
	// the name by which the set is recognised; or File is the path of the file
	// that it is passed as.
	FDSet  int64
	Opaque string
	File   string
}

// NBDSocket is the name of the daemon's socket in the directory of [Unlock].
const NBDSocket = "nbd.sock"

// Export returns the name under which the daemon exports the disk at target.
func Export(target string) string { return Name(target, RoleDevice) }

// ephemeral adds the node of an ephemeral header. The descriptor is open for
// reading and writing, and QEMU takes it only for a node that says nothing of
// read-only; only QEMU has the file, so there is nothing to lock.
func (b *builder) ephemeral(original Image, secret string, layer int) string {
	role := RoleHeaderStorage.at(layer)
	h := EphemeralHeader{Node: Name(b.disk.Target, role), Secret: secret, Original: original}
	if b.unlock.Dir != "" {
		h.File = path.Join(b.unlock.Dir, h.Node)
	} else {
		h.FDSet = b.nextFDSet()
		h.Opaque = Name(b.disk.Target, RoleHeaderFDSet.at(layer))
	}
	b.graph.Headers = append(b.graph.Headers, h)
	filename := h.File
	if filename == "" {
		filename = fdsetPath(h.FDSet)
	}
	return b.add(Node{Role: role, From: "ephemeral header, made from the one in " + original.Source.String(),
		Options: Object{{"driver", "file"}, {"filename", filename}, {"locking", "off"}, {"node-name", h.Node}}})
}

// nextFDSet returns the id of the next descriptor set.
func (b *builder) nextFDSet() int64 {
	return max(b.unlock.FDSet, FirstFDSet) + int64(len(b.graph.Headers)+len(b.graph.Files))
}

// fdsetPath is the name under which QEMU opens a descriptor that it was passed.
func fdsetPath(id int64) string { return "/dev/fdset/" + strconv.FormatInt(id, 10) }

// external adds the one node that a VM needs for a disk that a daemon unlocks,
// and the daemon's own graph. See QEMU's docs/interop/qemu-qmp-ref,
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
		{"node-name", Name(b.disk.Target, RolePayloadStorage)}}
	b.addAccess(&o, layer{readOnly: b.disk.ReadOnly}, true)
	return medium{node: b.add(Node{Role: RolePayloadStorage, Options: o, From: socket})}, nil
}

// HeaderOf returns the ephemeral header that the node reads, nil for none.
func (g *Graph) HeaderOf(node string) *EphemeralHeader {
	for i := range g.Headers {
		if g.Headers[i].Node == node {
			return &g.Headers[i]
		}
	}
	return nil
}

// FileOf returns the device of the host that the node is opened from, nil for none.
func (g *Graph) FileOf(node string) *PassedFile {
	for i := range g.Files {
		if g.Files[i].Node == node {
			return &g.Files[i]
		}
	}
	return nil
}

// BuildImage works out the nodes of one image alone, for reading a LUKS header
// from it. The graph has no device, and the nodes
// have the names of a header's.
func BuildImage(target string, image Image) (*Graph, error) {
	image.Encryption = nil
	return buildImage(target, image)
}

// BuildDecrypted is BuildImage for an image that Ceph's library decrypts: the node
// shows what is in it. Any other encryption is left out.
func BuildDecrypted(target string, image Image) (*Graph, error) {
	if !image.Encryption.librbd() {
		image.Encryption = nil
	}
	return buildImage(target, image)
}

func buildImage(target string, image Image) (*Graph, error) {
	image.Backing, image.DataStore = nil, nil
	disk := &Disk{Target: target, Device: DeviceDisk, Bus: BusVirtio, ReadOnly: true, Image: image}
	if err := disk.Validate(); err != nil {
		return nil, err
	}
	b := newBuilder(disk, Unlock{})
	_, err := b.plain(image, layer{header: true, readOnly: true}, links{})
	return b.graph, err
}
