package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// volumeStore is a key store of a test, as an argument of the program.
func volumeStore(t *testing.T) (path, uri string) {
	t.Helper()
	path = shortDir(t, "")
	must.OK(t, os.Chmod(path, 0o700))
	return path, "dir:" + path
}

// TestVolumeCreate: a volume of every layout, made by one command, is attached by the next, and a guest uses it.
func TestVolumeCreate(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := booted(ctx, t, peer.Options{RootPorts: 2})
	before := stateOf(ctx, t, q)
	const mib = 8
	for name, flags := range map[string][]string{
		"raw":            nil,
		"raw, detached":  {"--header", "HEADER"},
		"raw, LUKS2":     {"--luks2"},
		"qcow2":          {"--format", "qcow2"},
		"qcow2 detached": {"--format", "qcow2", "--header", "HEADER", "--cipher", "aes-cbc-essiv:sha256", "--hash", "sha512"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t, "")
			_, store := volumeStore(t)
			for i, f := range flags {
				if f == "HEADER" {
					flags[i] = filepath.Join(dir, "header")
				}
			}
			args := append([]string{"--keystore", store, "volume", "create", "vm1-vdb", "--size", "8M", "--path", filepath.Join(dir, "image")}, flags...)
			made := run(ctx, t, exec.CommandContext(ctx, luksplug, args...)).want(t, 0)
			disk := writeFile(t, "disk.xml", made.stdout)
			pattern := []byte("what the guest writes to " + name)
			for _, written := range []bool{false, true} {
				tool(ctx, t, q.Socket, "--keystore", store, "attach", disk).want(t, 0)
				dev := guestDisk(ctx, t, q, "vm1-vdb")
				if size := must.Get(q.Guest().SizeOf(ctx, dev))(t); size != mib*peer.MiB {
					t.Errorf("the guest sees %d bytes", size)
				}
				if !written {
					must.OK(t, q.Guest().WritePattern(ctx, dev, mib-1, 1, pattern)) // the last bytes
				} else if got := must.Get(q.Guest().ReadHash(ctx, dev, mib-1, 1))(t); got != peer.HashOf(peer.Pattern(pattern)) {
					t.Error("the guest reads other data than it wrote")
				}
				tool(ctx, t, q.Socket, "detach", "vdb").want(t, 0)
				wantSame(ctx, t, q, before)
			}
		})
	}
}

// TestVolumeInLibvirt: libvirt without luksplug attaches a volume with its header in the image. luksplug resizes only its own
// disks.
func TestVolumeInLibvirt(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	l := peer.Libvirtd(t)
	d := must.Get(l.StartDomain(ctx, peer.DomainOptions{Name: "vm1"}))(t)
	dir := shortDir(t, "")
	keys, store := volumeStore(t)
	for target, flags := range map[string][]string{"vdb": nil, "vdc": {"--format", "qcow2"}} {
		args := append([]string{"--keystore", store, "--output", "json", "volume", "create", "vm1-" + target, "--target", target, "--size", "8M", "--path", filepath.Join(dir, target)}, flags...)
		var made struct {
			Secret  string
			DiskXML string `json:"disk_xml"`
		}
		run(ctx, t, exec.CommandContext(ctx, luksplug, args...)).want(t, 0).decode(t, &made)
		virsh(ctx, t, l, "secret-define", filepath.Join(keys, made.Secret+".xml"))
		virsh(ctx, t, l, "secret-set-value", made.Secret, "--file", filepath.Join(keys, made.Secret), "--plain")
		virsh(ctx, t, l, "attach-device", d.Name, writeFile(t, target+".xml", made.DiskXML))
	}
	for _, target := range []string{"vdb", "vdc"} {
		if out := virsh(ctx, t, l, "domblkinfo", d.Name, target); !strings.Contains(out, "8388608") {
			t.Errorf("%s: %s", target, out)
		}
		if r := viaVirsh(ctx, t, l, d.Name, "volume", "resize", target, "16M").want(t, 5); !strings.Contains(r.stderr, "virsh blockresize "+d.Name) {
			t.Errorf("%s", r.stderr)
		}
	}
	xml := run(ctx, t, exec.CommandContext(ctx, luksplug, "--keystore", store, "volume", "create", "vm1-vdd", "--target", "vdd", "--size", "8M", "--path", filepath.Join(dir, "vdd"))).want(t, 0).stdout
	viaVirsh(ctx, t, l, d.Name, "--keystore", store, "attach", writeFile(t, "vdd.xml", xml)).want(t, 0)
	viaVirsh(ctx, t, l, d.Name, "volume", "resize", "vdd", "16M").want(t, 0)
	if r := viaVirsh(ctx, t, l, d.Name, "list").want(t, 0); !strings.Contains(r.stdout, "16 MiB") {
		t.Errorf("%s", r.stdout)
	}
	destroyInLibvirt(ctx, t, l)
}
