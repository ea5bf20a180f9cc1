package blockgraph

import (
	"encoding/binary"
	"path"
)

// Guard is the node that keeps a VM from being migrated, saved or snapshotted while a disk of it is copied. QEMU itself
// would migrate then, and abort when the copy next writes to an image that it has handed over (7.2 to 11.1). A node of the
// driver vdi blocks migration for as long as it exists, also read-only, and QEMU's refusal names it. It holds a small empty
// image, is in no disk's graph, and no device reads it.
//
// Of the drivers that block migration (parallels, qcow, vdi, vhdx, vmdk, vpc), Debian's and Ubuntu's QEMU has all. RHEL's
// only takes those of a list, with vdi, vhdx, vmdk and vpc for read-only nodes; vdi is the one whose image is smallest.
type Guard struct {
	Node   string // the name of the node
	Image  []byte // the content of its image
	FDSet  int64  // the id of the descriptor set that passes the image, 0 for a file
	Opaque string // the name that identifies the descriptor set
	File   string // the path of the file that passes the image, "" for a descriptor
}

// guard adds the guard of a copy. It has the name of the disk's target, whichever instance is copied: it guards both.
//
//	driver vdi, read-only, file (driver file, locking off, read-only off)
//
// See QEMU's docs/interop/qemu-qmp-ref, BlockdevOptionsGenericFormat. As for an ephemeral header, QEMU only accepts the
// descriptor for a file without read-only, which would be that of the node above.
func (b *builder) guard() {
	g := Guard{Node: Name(b.disk.Target, RoleGuard), Image: emptyVDI()}
	var filename string
	if b.unlock.Dir != "" {
		g.File = path.Join(b.unlock.Dir, g.Node)
		filename = g.File
	} else {
		g.FDSet, g.Opaque = b.nextFDSet(), Name(b.disk.Target, RoleGuardFDSet)
		filename = fdsetPath(g.FDSet)
	}
	b.graph.Guard = &g
	b.add(Node{Role: RoleGuard, From: "an empty image in memory", Options: Object{{"driver", "vdi"}, {"node-name", g.Node}, {"read-only", true},
		{"file", Object{{"driver", "file"}, {"filename", filename}, {"locking", "off"}, {"read-only", false}}}}})
}

// emptyVDI returns the smallest image of the format vdi: a header and the map of one block, which is not allocated. See
// VdiHeader of QEMU's block/vdi.c.
func emptyVDI() []byte {
	const (
		signature, version = 0xbeda107f, 1<<16 | 1
		headerSize         = 0x180
		dynamic            = 1
		sector             = 512
		block              = 1 << 20
		unallocated        = 1<<32 - 1
	)
	image := make([]byte, 2*sector)
	copy(image, "<<< QEMU VM Virtual Disk Image >>>\n")
	put := func(at int, values ...uint32) {
		for i, v := range values {
			binary.LittleEndian.PutUint32(image[at+4*i:], v)
		}
	}
	put(0x40, signature, version, headerSize, dynamic)
	put(0x154, sector, 2*sector) // the offsets of the map and of the blocks
	put(0x168, sector)
	put(0x170, block, 0, block, 0, 1, 0) // the size in the guest (64 bits), that of a block, none before it, how many, how many allocated
	put(sector, unallocated)
	return image
}
