package hotplug_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/qmp"
)

// A disk is plugged into a running QEMU and unplugged. An encrypted disk differs only in
// its XML, and in the key store that Attach gets.
func Example() {
	dir, err := os.MkdirTemp("", "luksplug-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	sockets, stop, err := startQEMU(dir) // a VM with a SCSI controller
	if err != nil {
		log.Fatal(err)
	}
	defer stop()
	payload := filepath.Join(dir, "data.img")
	if err := os.WriteFile(payload, make([]byte, 1<<20), 0o600); err != nil {
		log.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dial := func(ctx context.Context) (*qmp.Client, error) { return qmp.Dial(ctx, sockets[0]) }
	vm, err := hotplug.Connect(ctx, dial, hotplug.Options{LockDir: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = vm.Close() }()

	disk, err := diskxml.ParseDisk([]byte(`<disk type='file'>
	  <source file='` + payload + `'/>
	  <target dev='sdb' bus='scsi'/>
	</disk>`))
	if err != nil {
		log.Fatal(err)
	}
	attached, err := vm.Attach(ctx, disk, nil, hotplug.AttachOptions{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(attached.Target, "is", attached.Driver, attached.Device, "of", attached.Size, "bytes")

	detached, err := vm.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 30 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("removed", detached.Removed)
	// Output:
	// sdb is scsi-hd luksplug-sdb of 1048576 bytes
	// removed [device luksplug-sdb node luksplug-sdb-payload-storage]
}
