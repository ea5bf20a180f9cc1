package canon_test

import (
	"fmt"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/integration/internal/canon"
)

// The forms do not depend on libvirt's and luksplug's node names.
func Example() {
	disk, err := diskxml.ParseDisk([]byte(`<disk><source file='/a'/><target dev='vda'/><address type='pci' slot='0x05'/></disk>`))
	if err != nil {
		fmt.Println(err)
		return
	}
	graph, err := blockgraph.Build(disk, blockgraph.Machine{Type: "pc"}, blockgraph.Unlock{})
	if err != nil {
		fmt.Println(err)
		return
	}
	ours, err := canon.Planned(graph, nil) // it has no secrets
	if err != nil {
		fmt.Println(err)
		return
	}
	theirs, err := canon.Native(`qemu -blockdev '{"driver":"file","filename":"/a","node-name":"libvirt-1-storage","read-only":true}' `+
		`-device '{"driver":"virtio-blk-pci","bus":"pci.0","addr":"0x5","drive":"libvirt-1-storage","id":"virtio-disk0"}'`, "ua-other")
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, line := range ours.Diff(theirs) {
		fmt.Println(line)
	}
	// Output:
	// node drive, read-only: false | true
}
