package blockgraph_test

import (
	"fmt"
	"log"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
)

// Plan a disk, from its XML, for one VM: here a q35 with two free
// ports, of which the highest-numbered is taken.
func Example() {
	disk, err := diskxml.ParseDisk([]byte(blocktest.Detached))
	if err != nil {
		log.Fatal(err)
	}
	machine := blockgraph.Machine{
		Type:  "pc-q35-10.0",
		Ports: []blockgraph.Port{{Bus: "pci.1", Taken: true}, {Bus: "pci.2"}, {Bus: "pci.3"}},
	}
	graph, err := blockgraph.Build(disk, machine, blockgraph.Unlock{})
	if err != nil {
		log.Fatal(err)
	}
	for _, step := range graph.Plan().Steps {
		fmt.Println(step.Do.Execute, step.Subject)
	}
	fmt.Println(graph.Device().Options.Text("bus"))
	// Output:
	// blockdev-add luksplug-vdb-header-storage
	// blockdev-add luksplug-vdb-payload-storage
	// blockdev-add luksplug-vdb-payload-format
	// object-add luksplug-vdb-secret0
	// blockdev-add luksplug-vdb-luks
	// object-del luksplug-vdb-secret0
	// device_add luksplug-vdb
	// pci.3
}
