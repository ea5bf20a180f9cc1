package integration

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestHundredStarts starts and stops a domain a hundred times, with one disk among QEMU's arguments and one
// attached as it starts, and measures what that adds to a start.
func TestHundredStarts(t *testing.T) {
	peer.Long(t, "a domain is started three hundred times")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	h := newHookHost(t, "")
	with := h.define(ctx, t,
		plugged{volume: peer.NewVolume(t, peer.DetachedRaw), target: "vdb", cold: true},
		plugged{volume: peer.NewVolume(t, peer.DetachedQcow2), target: "vdc"})
	without := must.Get(h.StartDomain(ctx, peer.DomainOptions{Name: "without", Guest: true, Persistent: true, Off: true}))(t)
	l := peer.Libvirtd(t)
	plain := must.Get(l.StartDomain(ctx, peer.DomainOptions{Guest: true, Persistent: true, Off: true}))(t)
	took := map[string][]time.Duration{}
	start := func(what string, l *peer.Libvirt, d *peer.Domain) {
		began := time.Now()
		virsh(ctx, t, l, "start", "--paused", d.Name)
		took[what] = append(took[what], time.Since(began))
	}
	for range 100 {
		start("with the hook and two disks", h.Libvirt, with)
		virsh(ctx, t, h.Libvirt, "destroy", with.Name)
		h.wantClean(ctx, t)
		start("with the hook, without disks", h.Libvirt, without)
		virsh(ctx, t, h.Libvirt, "destroy", without.Name)
		start("without the hook", l, plain)
		virsh(ctx, t, l, "destroy", plain.Name)
	}
	for what, times := range took {
		slices.Sort(times)
		t.Logf("%s: median %s, of %d", what, times[len(times)/2].Round(time.Millisecond), len(times))
	}
	h.wantIdle(ctx, t)
}

// wantIdle checks that the host has no lock or process of luksplug's.
func (h *hookHost) wantIdle(ctx context.Context, t *testing.T) {
	t.Helper()
	if got := run(ctx, t, h.Inside(ctx, "find", "/run/luksplug/lock", "-type", "f")).want(t, 0); got.stdout != "" {
		t.Errorf("leftover locks: %s", got.stdout)
	}
	got := run(ctx, t, h.Inside(ctx, "sh", "-c", "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done")).want(t, 0)
	for line := range strings.Lines(got.stdout) {
		name, _, _ := strings.Cut(line, " ")
		for _, bad := range []string{"luksplug", "watch-daemon", "qemu-storage-daemon", "qemu-pr-helper", "qemu-system"} {
			if strings.HasSuffix(name, bad) {
				t.Errorf("a leftover process: %s", line)
			}
		}
	}
}
