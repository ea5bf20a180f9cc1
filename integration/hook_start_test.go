package integration

import (
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestHookWithoutADisk: a domain that has the monitor and no disk starts, before its first disk and after
// its last one: the first thing that an operator does.
func TestHookWithoutADisk(t *testing.T) {
	t.Parallel()
	for name, user := range map[string]string{"root": "", "QEMU's user": qemuUser} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			h := newHookHost(t, user)
			d := must.Get(h.StartDomain(ctx, peer.DomainOptions{Persistent: true, Off: true, SCSI: true}))(t)
			starts := func() {
				t.Helper()
				virsh(ctx, t, h.Libvirt, "start", d.Name)
				h.tool(ctx, t, d, "list").want(t, 0)
				virsh(ctx, t, h.Libvirt, "destroy", d.Name)
				h.wantClean(ctx, t)
			}
			inside(ctx, t, h.Libvirt, "hook", "enable", d.Name, "--yes").want(t, 0)
			starts()
			v := userVolume(ctx, t, peer.EmbeddedLUKS)
			h.learn(t, v)
			h.tool(ctx, t, d, append(attachArgs(t, v, v.DiskXML("vdb", "virtio")), "--persistent", "--relabel")...).want(t, 0)
			starts()
			h.tool(ctx, t, d, "detach", "--persistent", "vdb").want(t, 0)
			starts()
			// What libvirt has reported is lost: there is its configuration.
			run(ctx, t, h.Inside(ctx, "rm", "-f", "/var/lib/luksplug/qemu-user.json")).want(t, 0)
			starts()
		})
	}
}
