package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// lunXML returns the disk XML of a LUN of the host with those reservations.
func lunXML(t *testing.T, device, reservations string) string {
	t.Helper()
	return writeFile(t, "lun.xml", `<disk type='block' device='lun'><driver type='raw'/><source dev='`+device+`'>`+reservations+`</source>
  <target dev='sdb' bus='scsi'/></disk>`)
}

// asDisk returns a proxy that replaces the device of a LUN by a plain disk: the host need not have a SCSI device.
func asDisk(t *testing.T, q *peer.QEMU) *peer.Proxy {
	t.Helper()
	return peer.NewProxy(t, q.Socket, peer.ProxyHooks{Command: func(c peer.Command) peer.Verdict {
		if c.Name != "device_add" {
			return peer.Verdict{}
		}
		return peer.Verdict{Replace: bytes.Replace(c.Bytes, []byte(`"scsi-block"`), []byte(`"scsi-hd"`), 1)}
	}})
}

// managers returns QEMU's reservation managers, and whether each is connected to a helper.
func managers(ctx context.Context, t *testing.T, q *peer.QEMU) map[string]bool {
	t.Helper()
	reply := must.Get(q.Query(ctx, "query-pr-managers", nil))(t)
	var list []struct {
		ID        string
		Connected bool
	}
	must.OK(t, json.Unmarshal(reply, &list))
	out := map[string]bool{}
	for _, m := range list {
		out[m.ID] = m.Connected
	}
	return out
}

// TestReservations follows QEMU's qemu-pr-helper, which luksplug starts and ends, through the life of a LUN.
func TestReservations(t *testing.T) {
	t.Parallel()
	const manager = "luksplug-sdb-pr0"
	start := func(t *testing.T) (*peer.QEMU, string) {
		t.Helper()
		q := peer.Start(t, peer.Options{SCSI: true, Machine: peer.I440FX, Paused: true})
		return q, loopDevice(t, sized(t, "lun.img", 8*peer.MiB))
	}

	t.Run("managed", func(t *testing.T) {
		t.Parallel()
		ctx := bounded(t)
		q, device := start(t)
		before := stateOf(ctx, t, q)
		xml := lunXML(t, device, "<reservations managed='yes'/>")

		tool(ctx, t, q.Socket, "attach", xml).want(t, 6).wantStderr(t, "takes SCSI commands", "device_add luksplug-sdb")
		wantSame(ctx, t, q, before)
		eventually(ctx, t, "what watches the helper has ended", hostIsClean(t, q.UUID))

		proxy := asDisk(t, q)
		tool(ctx, t, proxy.Address, "attach", xml).want(t, 0)
		// A second attach finds a plain disk instead of a LUN, because of the proxy.
		tool(ctx, t, q.Socket, "attach", xml).want(t, 5).wantStderr(t, "its device is a scsi-hd, not a scsi-block")
		if m := managers(ctx, t, q); len(m) != 1 || !m[manager] {
			t.Errorf("QEMU has the reservation managers %v", m)
		}
		if helpers := peer.Helpers(q.UUID); len(helpers) != 1 || len(peer.Watchers(q.UUID)) != 1 {
			t.Errorf("the helpers are %v, the watchers %v", helpers, peer.Watchers(q.UUID))
		}
		if parts := strings.Join(listed(ctx, t, q)["sdb"].Parts, ", "); !strings.Contains(parts, "reservation helper ") {
			t.Errorf("list shows %s", parts)
		}
		tool(ctx, t, proxy.Address, "detach", "sdb").want(t, 0)
		wantSame(ctx, t, q, before)
		eventually(ctx, t, "the helper has ended", hostIsClean(t, q.UUID))
	})
	t.Run("of an interrupted run", func(t *testing.T) {
		t.Parallel()
		ctx := bounded(t)
		q, device := start(t)
		before := stateOf(ctx, t, q)
		// The connection is lost permanently at the first command.
		hooks := peer.CutAtStep(1, peer.CutBeforeForward)
		hooks.Connect = func(n int) bool { return n == 1 }
		xml := lunXML(t, device, "<reservations managed='yes'/>")
		tool(ctx, t, peer.NewProxy(t, q.Socket, hooks).Address, "attach", xml).want(t, 7)
		if held := listed(ctx, t, q)["sdb"]; held.State != "leftover" || len(peer.Helpers(q.UUID)) != 1 {
			t.Errorf("list shows %+v", held)
		}
		tool(ctx, t, q.Socket, "repair").want(t, 0)
		wantSame(ctx, t, q, before)
		eventually(ctx, t, "the helper has ended", hostIsClean(t, q.UUID))
	})
	t.Run("a helper of the user's", func(t *testing.T) {
		t.Parallel()
		ctx := bounded(t)
		q, device := start(t)
		before := stateOf(ctx, t, q)
		socket := filepath.Join(q.Dir, "pr.sock")
		xml := lunXML(t, device, "<reservations managed='no'><source type='unix' path='"+socket+"' mode='client'/></reservations>")
		proxy := asDisk(t, q)
		tool(ctx, t, proxy.Address, "attach", xml).want(t, 6).wantStderr(t, socket)
		wantSame(ctx, t, q, before)

		startCommand(t, exec.CommandContext(ctx, "qemu-pr-helper", "--socket", socket))
		eventually(ctx, t, "the helper listens", func() bool {
			c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", socket)
			if err == nil {
				_ = c.Close() // a probe
			}
			return err == nil
		})
		tool(ctx, t, proxy.Address, "attach", xml).want(t, 0)
		if m := managers(ctx, t, q); len(m) != 1 || !m[manager] || len(peer.Helpers(q.UUID)) != 0 {
			t.Errorf("QEMU has the reservation managers %v, and luksplug started %v", m, peer.Helpers(q.UUID))
		}
		tool(ctx, t, proxy.Address, "detach", "sdb").want(t, 0)
		wantSame(ctx, t, q, before)
	})
}
