package volume

import (
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/secrets"
)

// DiskXML returns the <disk> that attaches the volume as target, such as "vdb", for `luksplug attach`, and for libvirt if
// it has no header of its own. serial is what the guest finds it by; "" is none.
func (v *Volume) DiskXML(target, serial string) []byte {
	bus := blockgraph.BusVirtio
	if strings.HasPrefix(target, "sd") {
		bus = blockgraph.BusSCSI
	}
	return diskxml.LocalDisk{
		Target: target, Bus: bus, Format: v.Format, Payload: diskxml.LocalImage{Path: v.Path, Block: v.Block}, Backing: v.Backing, Header: diskxml.LocalImage{Path: v.Header},
		Secret: secrets.Reference{Type: secrets.Passphrase, UUID: v.Secret.UUID}, Serial: serial, Discard: "unmap",
	}.XML()
}
