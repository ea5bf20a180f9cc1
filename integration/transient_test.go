package integration

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// overlaysOf returns the files next to a volume's payload that are named like overlays.
func overlaysOf(t *testing.T, v *peer.Volume) []string {
	t.Helper()
	return must.Get(filepath.Glob(v.Payload + ".TRANSIENT-*"))(t)
}

func imageBytes(t *testing.T, v *peer.Volume) []byte {
	t.Helper()
	var all []byte
	for _, path := range []string{v.Payload, v.Header} {
		if path == "" {
			continue
		}
		content := must.Get(os.ReadFile(path))(t)
		all = append(all, content...)
	}
	return all
}

// TestTransientKilled kills the program after it has made the overlay and before QEMU opens it: list shows the
// file, and repair or the next attach removes it.
func TestTransientKilled(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
	v := peer.NewVolume(t, peer.DetachedRaw)
	p := newPlug(t, q, v, "sdb", "scsi", "<transient/>")
	before, image := stateOf(ctx, t, q), imageBytes(t, v)
	for _, again := range []string{"repair", "attach"} {
		b := newBackground()
		proxy := peer.NewProxy(t, q.Socket, peer.ProxyHooks{Command: func(c peer.Command) peer.Verdict {
			if !bytes.Contains(c.Bytes, []byte("blockdev-add")) || !bytes.Contains(c.Bytes, []byte(".TRANSIENT-")) {
				return peer.Verdict{}
			}
			return b.kill()
		}})
		b.start(t, program(ctx, proxy.Address, p.attachArgs()...))
		b.wantKilled(t)
		left := overlaysOf(t, v)
		d := listed(ctx, t, q)["sdb"]
		if len(left) != 1 || d.State != "leftover" || !slices.Contains(d.Parts, "file "+left[0]) {
			t.Fatalf("next to the image: %v; list: %+v", left, d)
		}
		if again == "repair" {
			tool(ctx, t, q.Socket, "repair").want(t, 0).wantStdout(t, left[0])
		} else {
			if report := p.attach(ctx, t); report.Already || !slices.Contains(report.Cleared, "file "+left[0]) {
				t.Errorf("attach reports %+v", report)
			}
			p.detach(ctx, t)
		}
		if left := overlaysOf(t, v); len(left) != 0 {
			t.Errorf("after %s, left are %v", again, left)
		}
		wantSame(ctx, t, q, before)
	}
	if !bytes.Equal(image, imageBytes(t, v)) {
		t.Error("the image, or its header, has been changed")
	}
}

// TestFaultsOfTransient is TestFaults for a transient disk, with an overlay in QEMU or a storage daemon.
func TestFaultsOfTransient(t *testing.T) {
	peer.Long(t, "runs every fault at every step of a transient disk")
	t.Parallel()
	where := place{"scsi", "scsi", [2]string{"sdb", "sdc"}, peer.Options{SCSI: true, Paused: true}}
	for _, unlock := range []string{"auto", "external"} {
		t.Run(unlock, func(t *testing.T) {
			t.Parallel()
			v := peer.NewVolume(t, peer.DetachedRaw)
			image := imageBytes(t, v)
			f := newFaulty(bounded(t), t, peer.Start(t, where.vm), where, v, unlock, "<transient/>")
			for n := range f.steps {
				if !t.Run(strconv.Itoa(n+1)+" "+f.steps[n].command, func(t *testing.T) { f.everyFault(bounded(t), t, n+1) }) {
					return // the VM cannot be used for further steps
				}
				if left := overlaysOf(t, v); len(left) != 0 {
					t.Errorf("after the faults of step %d, left are %v", n+1, left)
				}
			}
			if !bytes.Equal(image, imageBytes(t, v)) {
				t.Error("the image, or its header, has been changed")
			}
		})
	}
}

// TestTransientLibvirt: a guest writes to a transient disk; image and header do not change, and nothing is
// recorded. The overlay is removed when the domain ends.
func TestTransientLibvirt(t *testing.T) {
	peer.Long(t, "a libvirtd and a guest; the other tests of transient disks need none")
	t.Parallel()
	ctx := bounded(t)
	l := peer.Libvirtd(t)
	d := must.Get(l.StartDomain(ctx, peer.DomainOptions{Persistent: true, SCSI: true, Guest: true}))(t)
	g := d.Guest()
	must.OK(t, g.WaitBoot(ctx))
	v := peer.NewVolume(t, peer.DetachedRaw)
	image := imageBytes(t, v)
	xml := strings.Replace(v.DiskXML("sda", "scsi"), "</disk>", "<serial>gone</serial><transient/></disk>", 1)
	attach := attachArgs(t, v, xml)
	viaLibvirt(ctx, t, l, d.Name, append(attach, "--persistent")...).want(t, 3)
	viaLibvirt(ctx, t, l, d.Name, attach...).want(t, 0).wantStderr(t, "not recorded")
	for _, scope := range []string{"--live", "--config"} {
		if text := metadata(ctx, l, d.Name, scope); strings.Contains(text, v.Payload) {
			t.Errorf("recorded: %s", text)
		}
	}
	dev := must.Get(g.WaitDisk(ctx, "gone"))(t)
	pattern := []byte("these data are discarded afterwards; ")
	must.OK(t, g.WritePattern(ctx, dev, 1, 1, pattern))
	wantHash(ctx, t, d, dev, 1, pattern)
	if left := overlaysOf(t, v); len(left) != 0 {
		t.Errorf("next to the image is %v", left)
	}
	viaLibvirt(ctx, t, l, d.Name, "detach", "sda").want(t, 0)
	if !bytes.Equal(image, imageBytes(t, v)) {
		t.Error("the image, or its header, has been changed")
	}
	viaLibvirt(ctx, t, l, d.Name, attach...).want(t, 0)
	must.Get(l.Virsh(ctx, "destroy", d.Name))(t)
	if left := overlaysOf(t, v); len(left) != 0 || !bytes.Equal(image, imageBytes(t, v)) {
		t.Errorf("after the domain, next to the image is %v, or the image has been changed", left)
	}
}
