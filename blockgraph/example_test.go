package blockgraph_test

import (
	"errors"
	"fmt"
	"os"

	"github.com/luksplug/luksplug/blockgraph"
)

// detached is a disk whose LUKS header is in a file of its own.
const detached = `<disk type='file' device='disk'>
  <driver name='qemu' type='qcow2' discard='unmap'/>
  <source file='/images/payload.qcow2'>
    <encryption format='luks'>
      <secret type='passphrase' uuid='0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f'/>
      <header type='file'>
        <format type='raw'/>
        <source file='/headers/vm1-vdb.hdr'/>
      </header>
    </encryption>
  </source>
  <target dev='vdb' bus='virtio'/>
</disk>`

// A disk goes from its XML to a plan for one VM: here a q35 with two free
// ports, of which the highest-numbered is taken.
func Example() {
	disk, err := blockgraph.ParseDisk([]byte(detached))
	if err != nil {
		fmt.Println(err)
		return
	}
	machine := blockgraph.Machine{
		Type:  "pc-q35-10.0",
		Ports: []blockgraph.Port{{Bus: "pci.1", Taken: true}, {Bus: "pci.2"}, {Bus: "pci.3"}},
	}
	graph, err := blockgraph.Build(disk, machine, blockgraph.Unlock{})
	if err != nil {
		fmt.Println(err)
		return
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

func ExampleParseDisk() {
	disk, err := blockgraph.ParseDisk([]byte(detached))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(disk.Target, disk.Bus, disk.Image.Format, disk.Image.Source.Path)
	fmt.Println("header:", disk.Header().Source.Path)
	fmt.Println("needs:", disk.Secrets()[0])
	// Output:
	// vdb virtio qcow2 /images/payload.qcow2
	// header: /headers/vm1-vdb.hdr
	// needs: uuid 0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f
}

// The two kinds of refusal are told apart by their types.
func ExampleParseDisk_refused() {
	for _, doc := range []string{
		"<disk>\n  <source file='/a'/>\n  <target dev='vda' bsu='virtio'/>\n</disk>",
		"<disk>\n  <source file='/a'/>\n  <target dev='vda'/>\n  <backenddomain name='d'/>\n</disk>",
	} {
		_, err := blockgraph.ParseDisk([]byte(doc))
		var invalid *blockgraph.XMLError
		var unsupported *blockgraph.UnsupportedError
		switch {
		case errors.As(err, &invalid):
			fmt.Println("line", invalid.Line, invalid.Element, "-", invalid.Reason)
		case errors.As(err, &unsupported):
			fmt.Println(unsupported.Element, "is not supported")
		}
	}
	// Output:
	// line 3 disk/target@bsu - unknown attribute: did you mean bus?
	// disk/backenddomain is not supported
}

func ExamplePlan_JSON() {
	disk, err := blockgraph.ParseDisk([]byte(`<disk type='block'><source dev='/dev/vg0/vm1'/><target dev='vdb'/></disk>`))
	if err != nil {
		fmt.Println(err)
		return
	}
	graph, err := blockgraph.Build(disk, blockgraph.Machine{}, blockgraph.Unlock{})
	if err != nil {
		fmt.Println(err)
		return
	}
	doc, err := graph.Plan().JSON()
	if err != nil {
		fmt.Println(err)
		return
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
func ExamplePlan_Arguments() {
	disk, err := blockgraph.ParseDisk([]byte(`<disk>
	  <source file='/images/it&apos;s mine.img'><encryption format='luks'>
	    <secret type='passphrase' usage='/images/vm1'/></encryption></source>
	  <target dev='vdb'/></disk>`))
	if err != nil {
		fmt.Println(err)
		return
	}
	graph, err := blockgraph.Build(disk, blockgraph.Machine{}, blockgraph.Unlock{})
	if err != nil {
		fmt.Println(err)
		return
	}
	args, err := graph.Plan().Arguments(func(o blockgraph.GraphObject) (string, error) {
		return "/run/keys/" + o.ID, nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := os.Stdout.WriteString(blockgraph.QuoteArguments(args)); err != nil {
		fmt.Println(err)
	}
	// Output:
	// -object '{"qom-type":"secret","id":"luksplug-vdb-secret0","file":"/run/keys/luksplug-vdb-secret0"}' \
	// -blockdev '{"driver":"file","filename":"/images/it'\''s mine.img","node-name":"luksplug-vdb-payload-storage","auto-read-only":true,"discard":"unmap"}' \
	// -blockdev '{"node-name":"luksplug-vdb-luks","read-only":false,"driver":"luks","key-secret":"luksplug-vdb-secret0","file":"luksplug-vdb-payload-storage"}' \
	// -device '{"driver":"virtio-blk-pci","drive":"luksplug-vdb-luks","id":"luksplug-vdb"}'
}

func ExampleParseDomain() {
	machine, err := blockgraph.ParseDomain([]byte(`<domain type='kvm'>
	  <os><type machine='pc-q35-10.0'>hvm</type></os>
	  <devices>
	    <controller type='pci' index='1' model='pcie-root-port'/>
	    <controller type='pci' index='2' model='pcie-root-port'><target hotplug='off'/></controller>
	    <controller type='pci' index='3' model='pcie-root-port'/>
	    <interface type='network'><source network='default'/>
	      <address type='pci' domain='0' bus='3' slot='0' function='0'/></interface>
	  </devices></domain>`))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, port := range machine.Ports {
		fmt.Println(port.Bus, "taken:", port.Taken)
	}
	// Output:
	// pci.1 taken: false
	// pci.2 taken: true
	// pci.3 taken: true
}
