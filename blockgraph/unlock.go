package blockgraph

import (
	"path"
	"strconv"
)

// Unlock says how the LUKS volumes of a disk are opened. The zero value is MethodQEMU.
type Unlock struct {
	Method Method
	FDSet  int64  // the id of the first descriptor set for ephemeral headers, and a [Guard], that are passed as descriptors
	Dir    string // on the VM's host: for ephemeral headers and a [Guard] that are passed as files, or the daemon's socket
}

// Method says how LUKS volumes are opened.
type Method string

const (
	// MethodQEMU passes the passphrase to the VM's QEMU, which pauses while it derives
	// the key.
	MethodQEMU Method = "qemu"
	// MethodEphemeralHeader unlocks the volume outside of QEMU, which gets an ephemeral
	// header that opens at once. It does not apply to a LUKS volume inside a qcow2
	// image, whose header cannot be replaced: QEMU opens that one.
	MethodEphemeralHeader Method = "ephemeral"
	// MethodStorageDaemon has a storage daemon unlock the volume and export the disk over
	// NBD: the VM's QEMU sees no encryption.
	MethodStorageDaemon Method = "external"
)

// FirstFDSet is the lowest id of luksplug's descriptor sets. QEMU and libvirt count theirs
// from 0, and QEMU reads the id as an int.
const FirstFDSet int64 = 1_900_000_000

// EphemeralHeader is a header to unlock, and how its ephemeral header is passed to the VM.
type EphemeralHeader struct {
	Node     string // the name of the node that reads the ephemeral header
	Secret   string // the id of the object with its one-time passphrase
	Original Image  // the image with the original header: the detached one, or the payload itself
	FDSet    int64  // the id of the descriptor set that passes it, 0 for a file
	Opaque   string // the name that identifies the descriptor set
	File     string // the path of the file that passes it, "" for a descriptor
}

// NBDSocket is the name of the daemon's socket in the directory of [Unlock].
const NBDSocket = "nbd.sock"

// Export returns the name under which the daemon exports the disk at target.
func Export(target string) string { return Name(target, RoleDevice) }

// ephemeral adds the node of an ephemeral header. QEMU only accepts the descriptor, which is
// open for reading and writing, for a node without read-only. The file needs no lock.
func (b *builder) ephemeral(original Image, secret string, layer int) string {
	role := RoleHeaderStorage.at(layer)
	h := EphemeralHeader{Node: b.name(role), Secret: secret, Original: original}
	var filename string
	if b.unlock.Dir != "" {
		h.File = path.Join(b.unlock.Dir, h.Node)
		filename = h.File
	} else {
		h.FDSet, h.Opaque = b.nextFDSet(), b.name(RoleHeaderFDSet.at(layer))
		filename = fdsetPath(h.FDSet)
	}
	b.graph.Headers = append(b.graph.Headers, h)
	return b.add(Node{Role: role, From: "ephemeral header, made from the one in " + original.Source.String(),
		Options: Object{{"driver", "file"}, {"filename", filename}, {"locking", "off"}, {"node-name", h.Node}}})
}

// nextFDSet returns the id of the next descriptor set.
func (b *builder) nextFDSet() int64 {
	n := len(b.graph.Headers) + len(b.graph.Files)
	if g := b.graph.Guard; g != nil && g.FDSet != 0 {
		n++
	}
	return max(b.unlock.FDSet, FirstFDSet) + int64(n)
}

// fdsetPath is the name under which QEMU opens a descriptor that it was passed.
func fdsetPath(id int64) string { return "/dev/fdset/" + strconv.FormatInt(id, 10) }
