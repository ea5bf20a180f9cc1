// Command attach-libvirt attaches the disk of an XML file to a running libvirt domain and
// records it there: attach-libvirt URI DOMAIN DISK.xml KEYSTORE, for example
// attach-libvirt qemu:///system vm1 vdb.xml dir:/run/keys.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/secrets/keystore"
)

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: attach-libvirt URI DOMAIN DISK.xml KEYSTORE")
	}
	uri, name, file, keys := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	disk := must(libvirtvm.ParseDisk(must(os.ReadFile(file)), libvirtvm.Reading{}))
	store := must(keystore.Open(keys, keystore.Options{}))
	ctx := context.Background()
	domain := must(libvirtvm.Open(ctx, uri, name, libvirtvm.Options{}))
	attached := must(domain.Attach(ctx, disk, store, libvirtvm.AttachOptions{}))
	fmt.Printf("%s: device %s, %d bytes\n", attached.Target, attached.Device, attached.Size)
	must(struct{}{}, domain.Close())
}

// must returns value, or ends the program if err is not nil.
func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
