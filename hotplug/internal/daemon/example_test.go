package daemon_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/luksplug/luksplug/hotplug/internal/daemon"
	"github.com/luksplug/luksplug/qmp"
)

// A file is served to NBD clients by a daemon of its own. An encrypted image takes
// a secret object and other nodes, and is served in the same way.
func Example() {
	dir, err := os.MkdirTemp("", "lpd")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	image := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
		log.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	d, err := daemon.Start(ctx, daemon.Options{Dir: filepath.Join(dir, "vm1-vdb")})
	if err != nil {
		log.Fatal(err)
	}
	_, err = d.Client().Execute(ctx, qmp.Command{Execute: "blockdev-add", Arguments: qmp.Object{
		{Name: "node-name", Value: "disk"},
		{Name: "driver", Value: "file"},
		{Name: "filename", Value: image},
	}})
	if err == nil {
		err = d.Export(ctx, daemon.Export{Node: "disk", Name: "vdb", Writable: true})
	}
	fmt.Println("exported:", err == nil, "at", filepath.Base(d.Socket()))

	// Another process finds the daemon by its directory.
	info, err := daemon.Inspect(filepath.Join(dir, "vm1-vdb"))
	fmt.Println("found:", err == nil && info.Process.PID == d.Info().Process.PID)

	if err := d.Stop(ctx); err != nil {
		log.Fatal(err)
	}
	_, err = daemon.Inspect(info.Dir)
	fmt.Println("stopped:", err != nil)
	// Output:
	// exported: true at nbd.sock
	// found: true
	// stopped: true
}
