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
