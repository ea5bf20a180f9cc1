package hotplug_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/coldstart"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// named is a store of passphrases by their usage.
type named map[string]store

func (named) String() string { return "test store" }

func (n named) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	return n[ref.Usage].Lookup(ctx, ref)
}

// TestStartWithLayers starts a VM with an encrypted overlay over an encrypted raw image, under
// different secrets, by each method.
func TestStartWithLayers(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-system-x86_64", "qemu-io")
	for _, way := range []blockgraph.Method{blockgraph.MethodQEMU, blockgraph.MethodEphemeralHeader} {
		t.Run(string(way), func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			disk, keys := layeredDisk(t)
			s, dir := starting(t)
			graph := must.Get(blockgraph.Build(disk, blockgraph.Machine{Type: "q35", SCSI: []blockgraph.SCSIController{{ID: "scsi0"}}}, blockgraph.Unlock{}))(t)
			d := coldstart.Disk{Disk: disk, Method: coldstart.Method(disk, way), Spec: hotplug.Spec{Devices: []blockgraph.Object{graph.Device().Options}}}
			if d.Method != way {
				t.Fatalf("started by %s", d.Method)
			}
			must.OK(t, s.Check(ctx, d, coldstart.ArrivalBoot, keys), s.Prepare(ctx, d, coldstart.ArrivalBoot, keys))
			with := must.Get(s.Arguments(ctx, d))(t)
			sockets, stop, err := startQEMU(t.TempDir(), with.Arguments...)
			must.OK(t, err)
			defer stop()
			v := must.Get(hotplug.Connect(ctx, dialer(sockets[0]), hotplug.Options{LockDir: t.TempDir(), RunDir: dir}))(t)
			defer func() { _ = v.Close() }()
			must.OK(t, s.Started(ctx, "sdb"), v.FinishStart(ctx, []hotplug.Started{{Target: "sdb"}}))
			there := state(ctx, t, v).Disk("sdb")
			if there == nil || there.Leftover() || len(there.Objects) > 0 {
				t.Fatalf("the VM has %+v", there)
			}
			wantContent(ctx, t, v, there.Nodes[0], fmt.Sprintf("read -P %d 0 1M", below), fmt.Sprintf("read -P %d 1M 1M", written))
			must.OK(t, s.Gone(ctx))
			if entries := must.Get(os.ReadDir(dir))(t); len(entries) > 0 {
				t.Errorf("left: %v", entries)
			}
		})
	}
}

// layeredDisk makes a raw LUKS volume, and over it a qcow2 image with LUKS inside, in which the
// second MiB is written.
func layeredDisk(t *testing.T) (*blockgraph.Disk, named) {
	t.Helper()
	base, secret := transientDisk(t, "raw", true, "")
	keys := named{"base": secret}
	base.Image.Encryption.Secrets[0].Usage, base.Image.Terminated = "base", false
	header := must.Get(luks.Fresh())(t)
	defer header.Wipe()
	path := filepath.Join(t.TempDir(), "top.qcow2")
	must.OK(t, makeEncrypted(path, "qcow2", header), header.Passphrase().Use(func(p []byte) error { keys["top"] = store(p); return nil }))
	must.Run(t, "", "qemu-io", "--object", "secret,id=s,file="+must.File(t, string(keys["top"])), "--image-opts", "-c", fmt.Sprintf("write -P %d 1M 1M", written),
		"driver=qcow2,encrypt.key-secret=s,file.filename="+path)
	disk := diskOf(t, "qcow2", path, "<encryption format='luks'><secret type='passphrase' usage='top'/></encryption>", "")
	disk.Image.Backing = &base.Image
	return disk, keys
}
