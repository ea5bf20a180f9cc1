package integration

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/memtest"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
)

// TestKeystoreLibvirtLeavesNothing: package keystore has this test for the other stores.
func TestKeystoreLibvirtLeavesNothing(t *testing.T) {
	const socket, secretID = "LUKSPLUG_MEMTEST_SOCKET", "LUKSPLUG_MEMTEST_SECRET"
	if s := memtest.Child(); s != nil {
		id := must.Get(uuid.Parse(os.Getenv(secretID)))(t)
		memtest.Store(t, s, libvirtStore(t, os.Getenv(socket), time.Minute), secrets.Document{UUID: id}.Reference())
		return
	}
	t.Parallel()
	d, v, doc := peer.Libvirtd(t), memtest.NewValue(), secrets.Document{UUID: uuid.New()}
	newLibvirtKeys(t, d).define(t, doc, v.Bytes)
	v.Run(t, socket+"="+d.Socket, secretID+"="+doc.UUID.String())
}

// TestAttachLeavesNothing: an attach leaves no copy of the passphrase in luksplug's memory, also
// if QEMU gets it.
func TestAttachLeavesNothing(t *testing.T) {
	const socket, run, xml, file = "LUKSPLUG_MEMTEST_SOCKET", "LUKSPLUG_MEMTEST_RUN", "LUKSPLUG_MEMTEST_XML", "LUKSPLUG_MEMTEST_FILE"
	for _, unlock := range []hotplug.UnlockPolicy{hotplug.UnlockAuto, hotplug.UnlockQEMU} {
		t.Run(string(unlock), func(t *testing.T) {
			if s := memtest.Child(); s != nil {
				ctx := bounded(t)
				vm := must.Get(hotplug.Connect(ctx, func(ctx context.Context) (*qmp.Client, error) { return qmp.Dial(ctx, os.Getenv(socket)) },
					hotplug.Options{LockDir: t.TempDir(), RunDir: os.Getenv(run)}))(t)
				defer func() { _ = vm.Close() }() // the VM is killed anyway
				disk := must.Get(diskxml.ParseDisk([]byte(os.Getenv(xml))))(t)
				must.Get(vm.Attach(ctx, disk, fileStore(os.Getenv(file)), hotplug.AttachOptions{Unlock: unlock}))(t)
				s.Nothing(t, "after an attach")
				return
			}
			t.Parallel()
			q, v := peer.Start(t, peer.Options{RootPorts: 2, Paused: true}), peer.NewVolume(t, peer.DetachedRaw)
			value := memtest.Value{Bytes: v.Passphrase}
			value.Run(t, socket+"="+q.Socket, run+"="+must.Dir(t, "/dev/shm"), xml+"="+v.DiskXML("vdb", "virtio"), file+"="+v.PassphraseFile)
		})
	}
}
