package integration

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// viaLibvirt runs the program on a domain, without virsh in PATH.
func viaLibvirt(ctx context.Context, t *testing.T, l *peer.Libvirt, domain string, args ...string) result {
	t.Helper()
	cmd := exec.CommandContext(ctx, luksplug, append([]string{"--connect", l.URI, "--domain", domain}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+t.TempDir())
	return run(ctx, t, cmd)
}

// virsh runs virsh and returns its output without the final line feed.
func virsh(ctx context.Context, t *testing.T, l *peer.Libvirt, args ...string) string {
	t.Helper()
	out := must.Get(l.Virsh(ctx, args...))(t)
	return strings.TrimSpace(out)
}

// bootedDomain starts a domain whose guest accepts commands, and returns its QEMU's state.
func bootedDomain(ctx context.Context, t *testing.T, l *peer.Libvirt) (*peer.Domain, peer.State) {
	t.Helper()
	d := must.Get(l.StartDomain(ctx, peer.DomainOptions{Guest: true}))(t)
	must.OK(t, d.Guest().WaitBoot(ctx))
	before := stateOf(ctx, t, d)
	return d, before
}

// viaVirsh runs the program on a domain, with virsh in PATH.
func viaVirsh(ctx context.Context, t *testing.T, l *peer.Libvirt, domain string, args ...string) result {
	t.Helper()
	return run(ctx, t, l.Inside(ctx, luksplug, append([]string{"--connect", l.URI, "--domain", domain}, args...)...))
}

// TestLibvirtHandOver attaches a disk with virsh, which passes the ephemeral header, and without virsh, by a
// file. libvirt does not get the passphrase.
func TestLibvirtHandOver(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	l := peer.Libvirtd(t)
	d, before := bootedDomain(ctx, t, l)
	uuid := virsh(ctx, t, l, "domuuid", d.Name)
	for name, c := range map[string]struct {
		run     func(context.Context, *testing.T, *peer.Libvirt, string, ...string) result
		passing bool
	}{
		"by virsh":      {viaVirsh, true},
		"without virsh": {viaLibvirt, false},
	} {
		t.Run(name, func(t *testing.T) {
			v := peer.NewFormatted(t, peer.EmbeddedLUKS, "--type", "luks2", "--sector-size", "512", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
			trace := filepath.Join(t.TempDir(), "trace")
			args := append([]string{"--trace", trace, "--output", "json"}, attachArgs(t, v, serialXML(t, v.DiskXML("vdb", "virtio"), "handed"))...)
			got := c.run(ctx, t, l, d.Name, args...).want(t, 0)
			if got.wantUnlock(t, "ephemeral"); got.stderr != "" {
				t.Errorf("attach says %s", got.stderr)
			}
			guestDisk(ctx, t, d, "handed")
			wantTrace(t, trace, c.passing)
			if left := headerFiles(t, uuid); len(left) > 0 {
				t.Errorf("left after the attach: %v", left)
			}
			found := evidence{}
			found.dir(t, l.Dir)
			found.dir(t, filepath.Dir(trace))
			found.hides(t, string(v.Passphrase))
			c.run(ctx, t, l, d.Name, "--timeout", "1m", "detach", "vdb").want(t, 0)
			wantSame(ctx, t, d, before)
			if left, err := peer.ReadHost(uuid); err != nil || len(left) > 0 {
				t.Errorf("after the detach there are %v, error %v", left, err)
			}
		})
	}
}

// wantTrace checks that the header was passed as a descriptor, or else as a file.
func wantTrace(t *testing.T, path string, passing bool) {
	t.Helper()
	trace := must.Get(os.ReadFile(path))(t)
	for text, want := range map[string]bool{`"execute":"add-fd"`: passing, `"/dev/fdset/`: passing, `/luksplug-vdb-header-storage"`: !passing} {
		if bytes.Contains(trace, []byte(text)) != want {
			t.Errorf("%s among the commands: %v, want %v", text, !want, want)
		}
	}
}

// TestLibvirtDomain runs the commands of a libvirt user on one domain, over libvirt's RPC alone.
func TestLibvirtDomain(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	l := peer.Libvirtd(t)
	d, before := bootedDomain(ctx, t, l)

	t.Run("no running domain", func(t *testing.T) { withoutDomain(ctx, t, l) })
	t.Run("attach and detach", func(t *testing.T) {
		v := peer.NewVolume(t, peer.DetachedRaw)
		args := attachArgs(t, v, serialXML(t, v.DiskXML("vdb", "virtio"), "over-rpc"))
		viaLibvirt(ctx, t, l, d.Name, args...).want(t, 0)
		dev := guestDisk(ctx, t, d, "over-rpc")
		pattern := []byte("written in a libvirt domain. ")
		must.OK(t, d.Guest().WritePattern(ctx, dev, 3, 1, pattern))
		// The domain by its id and UUID.
		disks := disksIn[listEntry](t, viaLibvirt(ctx, t, l, virsh(ctx, t, l, "domid", d.Name), "list", "--output", "json"))
		if len(disks) != 1 || disks[0].Target != "vdb" || disks[0].State != "attached" || disks[0].Payload != v.Payload || disks[0].Header != v.Header {
			t.Errorf("list %+v", disks)
		}
		uuid := virsh(ctx, t, l, "domuuid", d.Name)
		if again := viaLibvirt(ctx, t, l, uuid, args...).want(t, 0); !strings.HasPrefix(again.stdout, "vdb already attached\n") {
			t.Errorf("the second attach: %s", again.stdout)
		}
		viaLibvirt(ctx, t, l, uuid, "--timeout", "1m", "detach", "vdb").want(t, 0)
		wantSame(ctx, t, d, before)
		if err := d.Guest().WaitGone(ctx, dev); err != nil {
			t.Error(err)
		}
		plain, err := v.ReadThrough(ctx, 3*peer.MiB, peer.MiB)
		if err != nil || !bytes.Equal(plain, peer.Pattern(pattern)) {
			t.Errorf("the host does not read what the guest wrote; error %v", err)
		}
		found := evidence{}
		found.dir(t, l.Dir) // libvirt's and QEMU's logs among others
		found.hides(t, string(v.Passphrase))
	})
	t.Run("wrong passphrase", func(t *testing.T) {
		v := peer.NewVolume(t, peer.DetachedQcow2)
		disk := writeFile(t, "disk.xml", v.DiskXML("vdb", "virtio"))
		got := viaLibvirt(ctx, t, l, d.Name, "--passphrase-file", writeFile(t, "key", "wrong"), "attach", disk).want(t, 4)
		wantOneLine(t, got, "vdb", v.Header, "wrong passphrase")
		wantSame(ctx, t, d, before)
	})
	t.Run("files are checked first", func(t *testing.T) {
		v := peer.NewVolume(t, peer.DetachedRaw)
		missing := filepath.Join(t.TempDir(), "missing")
		got := viaLibvirt(ctx, t, l, d.Name, attachArgs(t, v, edited(t, v.DiskXML("vdb", "virtio"), v.Header, missing))...).want(t, 5)
		wantOneLine(t, got, "header", missing)
		wantSame(ctx, t, d, before)
	})
	t.Run("warnings about migration", func(t *testing.T) {
		for kind, want := range map[peer.VolumeKind]bool{peer.Qcow2LUKS: true, peer.DetachedQcow2: false} {
			v := peer.NewVolume(t, kind)
			got := viaLibvirt(ctx, t, l, d.Name, attachArgs(t, v, v.DiskXML("vdb", "virtio"))...).want(t, 0)
			if says := strings.Contains(got.stdout, "luksplug migrate-check "+d.Name+" DESTINATION --prepare"); says != want {
				t.Errorf("%v: attach says %s", kind, got.stdout)
			}
			viaLibvirt(ctx, t, l, d.Name, "--timeout", "1m", "detach", "vdb").want(t, 0)
		}
		wantSame(ctx, t, d, before)
	})
	t.Run("next to libvirt's own disks", func(t *testing.T) {
		nextToLibvirt(ctx, t, l, d)
		wantSame(ctx, t, d, before)
	})
}

// nextToLibvirt attaches a disk between two of libvirt's: each gets an address, and a detach does not affect
// the others.
func nextToLibvirt(ctx context.Context, t *testing.T, l *peer.Libvirt, d *peer.Domain) {
	t.Helper()
	byLibvirt := func(target string) string {
		image := sized(t, target+".img", 8*peer.MiB)
		virsh(ctx, t, l, "attach-disk", d.Name, image, target, "--live", "--sourcetype", "file", "--driver", "qemu", "--subdriver", "raw", "--serial", target)
		return guestDisk(ctx, t, d, target)
	}
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	first := byLibvirt("vdc")
	viaLibvirt(ctx, t, l, d.Name, attachArgs(t, v, serialXML(t, v.DiskXML("vdb", "virtio"), "ours"))...).want(t, 0)
	ours := guestDisk(ctx, t, d, "ours")
	second := byLibvirt("vdd")
	if disks := []string{first, ours, second}; len(slices.Compact(slices.Sorted(slices.Values(disks)))) != 3 {
		t.Errorf("the guest's disks are %v", disks)
	}
	if disks := listOf(ctx, t, l, d.Name); len(disks) != 1 || disks[0].Target != "vdb" {
		t.Errorf("list shows libvirt's disks: %+v", disks)
	}
	// libvirt does not know luksplug's disk, and gives its target to another one.
	taken := sized(t, "taken.img", 8*peer.MiB)
	virsh(ctx, t, l, "attach-disk", d.Name, taken, "vdb", "--live", "--sourcetype", "file", "--driver", "qemu", "--subdriver", "raw")
	if disks := listOf(ctx, t, l, d.Name); len(disks) != 1 || !strings.Contains(disks[0].Difference, "libvirt has another disk of the domain with this target") {
		t.Errorf("list does not show that libvirt has a vdb as well: %+v", disks)
	}
	unplugByLibvirt(ctx, t, l, d, "vdb")
	// luksplug does not detach libvirt's disks.
	viaLibvirt(ctx, t, l, d.Name, "detach", "vdc").want(t, 5)

	unplugByLibvirt(ctx, t, l, d, "vdc")
	viaLibvirt(ctx, t, l, d.Name, "--timeout", "1m", "detach", "vdb").want(t, 0)
	if _, err := d.Guest().ReadHash(ctx, second, 0, 1); err != nil {
		t.Errorf("libvirt's other disk: %v", err)
	}
	unplugByLibvirt(ctx, t, l, d, "vdd")
}

// unplugByLibvirt returns when libvirt has detached a disk of its own.
func unplugByLibvirt(ctx context.Context, t *testing.T, l *peer.Libvirt, d *peer.Domain, target string) {
	t.Helper()
	m := must.Get(d.Monitor(ctx))(t)
	virsh(ctx, t, l, "detach-disk", d.Name, target, "--live")
	must.Get(m.WaitEvent(ctx, func(e peer.Event) bool {
		return e.Name == "DEVICE_DELETED" && strings.Contains(string(e.Data), `"device": "virtio-disk`)
	}))(t)
	virsh(ctx, t, l, "dumpxml", d.Name) // libvirt removes the nodes before it answers
}

// withoutDomain checks the messages for a missing, inactive or unreachable domain.
func withoutDomain(ctx context.Context, t *testing.T, l *peer.Libvirt) {
	t.Helper()
	const idle = `<domain type='qemu'><name>idle</name><memory unit='MiB'>64</memory><os><type arch='x86_64' machine='q35'>hvm</type></os></domain>`
	virsh(ctx, t, l, "define", writeFile(t, "idle.xml", idle))
	wantOneLine(t, viaLibvirt(ctx, t, l, "idle", "list", "--all").want(t, 5), "domain idle is off", "virsh start idle")
	viaLibvirt(ctx, t, l, "idle", "list").want(t, 0).wantStdout(t, "the domain is off")
	wantOneLine(t, viaLibvirt(ctx, t, l, "nobody", "list").want(t, 1), "domain nobody", l.Socket)
	wantOneLine(t, viaLibvirt(ctx, t, l, "a3a5c6f0-0c55-4a52-9d04-2bb4d3a1c0de", "list").want(t, 1), "a3a5c6f0-0c55-4a52-9d04-2bb4d3a1c0de")
	missing := filepath.Join(t.TempDir(), "missing.sock")
	got := run(ctx, t, exec.CommandContext(ctx, luksplug, "--connect", "qemu+unix:///system?socket="+missing, "--domain", "idle", "list")).want(t, 1)
	wantOneLine(t, got, missing)
	if _, err := os.Stat(missing); err == nil {
		t.Error("a socket was made")
	}
}
