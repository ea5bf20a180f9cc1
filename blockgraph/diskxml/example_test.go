package diskxml_test

import (
	"errors"
	"fmt"
	"log"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
)

func ExampleParseDisk() {
	disk, err := diskxml.ParseDisk([]byte(blocktest.Detached))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(disk.Target, disk.Bus, disk.Image.Format, disk.Image.Source.Path)
	fmt.Println("header:", disk.Header().Source.Path)
	fmt.Println("needs:", disk.Secrets()[0])
	// Output:
	// vdb virtio qcow2 /images/payload.qcow2
	// header: /headers/vm1-vdb.hdr
	// needs: uuid 0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f
}

// The two kinds of refusal differ in their types.
func ExampleParseDisk_refused() {
	for _, doc := range []string{
		"<disk>\n  <source file='/a'/>\n  <target dev='vda' bsu='virtio'/>\n</disk>",
		"<disk>\n  <source file='/a'/>\n  <target dev='vda'/>\n  <backenddomain name='d'/>\n</disk>",
	} {
		_, err := diskxml.ParseDisk([]byte(doc))
		var invalid *diskxml.XMLError
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

func ExampleParseDomain() {
	machine, err := diskxml.ParseDomain([]byte(`<domain type='kvm'>
	  <os><type machine='pc-q35-10.0'>hvm</type></os>
	  <devices>
	    <controller type='pci' index='1' model='pcie-root-port'/>
	    <controller type='pci' index='2' model='pcie-root-port'><target hotplug='off'/></controller>
	    <controller type='pci' index='3' model='pcie-root-port'/>
	    <interface type='network'><source network='default'/>
	      <address type='pci' domain='0' bus='3' slot='0' function='0'/></interface>
	  </devices></domain>`))
	if err != nil {
		log.Fatal(err)
	}
	for _, port := range machine.Ports {
		fmt.Println(port.Bus, "taken:", port.Taken)
	}
	// Output:
	// pci.1 taken: false
	// pci.2 taken: true
	// pci.3 taken: true
}
