package render_test

import (
	"fmt"
	"log"
	"os"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/render"
)

func ExampleJSON() {
	disk, err := diskxml.ParseDisk([]byte(`<disk type='block'><source dev='/dev/vg0/vm1'/><target dev='vdb'/></disk>`))
	if err != nil {
		log.Fatal(err)
	}
	graph, err := blockgraph.Build(disk, blockgraph.Machine{}, blockgraph.Unlock{})
	if err != nil {
		log.Fatal(err)
	}
	doc, err := render.JSON(graph.Plan())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Print(string(doc))
	// Output:
	// {
	//   "objects": [],
	//   "blockdevs": [
	//     {
	//       "driver": "host_device",
	//       "filename": "/dev/vg0/vm1",
	//       "node-name": "luksplug-vdb-payload-storage",
	//       "read-only": false
	//     }
	//   ],
	//   "device": {
	//     "driver": "virtio-blk-pci",
	//     "drive": "luksplug-vdb-payload-storage",
	//     "id": "luksplug-vdb"
	//   },
	//   "chardevs": []
	// }
}

// For a QEMU that is about to start the same graph prints as arguments. The
// passphrase is in a file, never in an argument.
func ExampleArguments() {
	disk, err := diskxml.ParseDisk([]byte(`<disk>
	  <source file='/images/it&apos;s mine.img'><encryption format='luks'>
	    <secret type='passphrase' usage='/images/vm1'/></encryption></source>
	  <target dev='vdb'/></disk>`))
	if err != nil {
		log.Fatal(err)
	}
	graph, err := blockgraph.Build(disk, blockgraph.Machine{}, blockgraph.Unlock{})
	if err != nil {
		log.Fatal(err)
	}
	args, err := render.Arguments(graph.Plan(), func(o blockgraph.GraphObject) (string, error) {
		return "/run/keys/" + o.ID, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := os.Stdout.WriteString(render.QuoteArguments(args)); err != nil {
		fmt.Println(err)
	}
	// Output:
	// -object '{"qom-type":"secret","id":"luksplug-vdb-secret0","file":"/run/keys/luksplug-vdb-secret0"}' \
	// -blockdev '{"driver":"file","filename":"/images/it'\''s mine.img","node-name":"luksplug-vdb-payload-storage","auto-read-only":true,"discard":"unmap"}' \
	// -blockdev '{"node-name":"luksplug-vdb-luks","read-only":false,"driver":"luks","key-secret":"luksplug-vdb-secret0","file":"luksplug-vdb-payload-storage"}' \
	// -device '{"driver":"virtio-blk-pci","drive":"luksplug-vdb-luks","id":"luksplug-vdb"}'
}
