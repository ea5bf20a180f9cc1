package integration

import (
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
		"raw":             nil,
		"raw, detached":   {"--header", "HEADER"},
		"raw, LUKS2":      {"--luks2"},
		"qcow2":           {"--format", "qcow2"},
		"qcow2 detached":  {"--format", "qcow2", "--header", "HEADER", "--cipher", "aes-cbc-essiv:sha256", "--hash", "sha512"},
		"qcow2 over LUKS": {"--format", "qcow2", "--backing", "BASE", "--backing-format", "luks"},
		"a block device":  {"--path", "DEVICE"},
	} {
		t.Run(name, func(t *testing.T) {
			if name != "raw, detached" && name != "a block device" {
				peer.Long(t, "attaches another layout; every run has two, and libvirt attaches others")
			}
			dir := shortDir(t, "")
			_, store := volumeStore(t)
			create := []string{"--keystore", store, "volume", "create", "--size", "8M"}
			for i, f := range flags {
				switch f {
				case "HEADER":
					flags[i] = filepath.Join(dir, "header")
				case "BASE":
					flags[i] = filepath.Join(dir, "base")
					run(ctx, t, exec.CommandContext(ctx, luksplug, append(create, "base", "--path", flags[i])...)).want(t, 0)
				case "DEVICE":
					flags[i] = blockDevice(t, 10*peer.MiB)
				}
			}
			args := append(append(create, "vm1-vdb", "--path", filepath.Join(dir, "image")), flags...)
			made := run(ctx, t, exec.CommandContext(ctx, luksplug, args...)).want(t, 0)
			disk := writeFile(t, "disk.xml", made.stdout)
			pattern := []byte("what the guest writes to " + name)
			for _, written := range []bool{false, true} {
				tool(ctx, t, q.Socket, "--keystore", store, "attach", disk).want(t, 0)
				wantAttached(ctx, t, store, disk)
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

// blockDevice returns a block device of that size, in bytes.
func blockDevice(t *testing.T, size int64) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("loop devices need root")
	}
	file := writeFile(t, "device", "")
	must.OK(t, os.Truncate(file, size))
	out, err := exec.CommandContext(t.Context(), "losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device: %v: %s", err, out)
	}
	path := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", path).Run() }) // the test is over
	return path
}

// volumeDocument is a <volume> of 8 MiB in a pool.
func volumeDocument(name, format, encryption string) string {
	return "<volume><name>" + name + "</name><capacity unit='MiB'>8</capacity><allocation>0</allocation><target><format type='" + format + "'/>" +
		"<permissions><mode>0644</mode></permissions>" + encryption + "</target></volume>"
}

// TestVolumeInLibvirt: libvirt without luksplug attaches a volume with its header in the image, made from flags or from a
// <volume> document of its pool, of which it then reports what it would have made itself. luksplug resizes only its own disks.
func TestVolumeInLibvirt(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	l := peer.Libvirtd(t)
	d := must.Get(l.StartDomain(ctx, peer.DomainOptions{Name: "vm1"}))(t)
	dir := shortDir(t, "")
	keys, store := volumeStore(t)
	virsh(ctx, t, l, "pool-create-as", "disks", "dir", "--target", dir)
	pool := writeFile(t, "pool.xml", virsh(ctx, t, l, "pool-dumpxml", "disks"))
	targets := map[string][]string{
		"vdb": {"vm1-vdb", "--size", "8M", "--path", filepath.Join(dir, "vdb")},
		"vdc": {"vm1-vdc", "--size", "8M", "--path", filepath.Join(dir, "vdc"), "--format", "qcow2"},
		"vdd": {writeFile(t, "vdd.xml", volumeDocument("vdd", "raw", "<encryption format='luks'><cipher name='aes' size='128' mode='cbc' hash='sha512'/></encryption>")), "--pool-xml", pool},
		"vde": {writeFile(t, "vde.xml", volumeDocument("vde", "qcow2", "<encryption format='default'/>")), "--pool-xml", pool},
	}
	if !peer.IsLong() { // qemu-img and QEMU derive keys for seconds
		delete(targets, "vdc")
		delete(targets, "vdd")
	}
	for target, args := range targets {
		args := append([]string{"--keystore", store, "--output", "json", "volume", "create", "--target", target}, args...)
		var made struct {
			Secret    string
			DiskXML   string `json:"disk_xml"`
			VolumeXML string `json:"volume_xml"`
		}
		run(ctx, t, exec.CommandContext(ctx, luksplug, args...)).want(t, 0).decode(t, &made)
		virsh(ctx, t, l, "secret-define", filepath.Join(keys, made.Secret+".xml"))
		virsh(ctx, t, l, "secret-set-value", made.Secret, "--file", filepath.Join(keys, made.Secret), "--plain")
		virsh(ctx, t, l, "attach-device", d.Name, writeFile(t, target+".xml", made.DiskXML))
		if !strings.Contains(made.VolumeXML, "<encryption format='luks'>") || !strings.Contains(made.VolumeXML, made.Secret) {
			t.Errorf("%s: the volume is\n%s", target, made.VolumeXML)
		}
	}
	virsh(ctx, t, l, "pool-refresh", "disks")
	for target := range targets {
		if out := virsh(ctx, t, l, "domblkinfo", d.Name, target); !strings.Contains(out, "8388608") {
			t.Errorf("%s: %s", target, out)
		}
		out := virsh(ctx, t, l, "vol-dumpxml", target, "--pool", "disks")
		if !strings.Contains(out, "<encryption format='luks'") || !strings.Contains(out, "<capacity unit='bytes'>8388608<") {
			t.Errorf("libvirt reports of %s:\n%s", target, out)
		}
	}
	if r := viaVirsh(ctx, t, l, d.Name, "volume", "resize", "vdb", "16M").want(t, 5); !strings.Contains(r.stderr, "virsh blockresize "+d.Name) {
		t.Errorf("%s", r.stderr)
	}
	wantHeldByQEMU(ctx, t, store, dir, slices.Collect(maps.Keys(targets))...)
	xml := run(ctx, t, exec.CommandContext(ctx, luksplug, "--keystore", store, "volume", "create", "vm1-vdf", "--target", "vdf", "--size", "8M", "--path", filepath.Join(dir, "vdf"))).want(t, 0).stdout
	viaVirsh(ctx, t, l, d.Name, "--keystore", store, "attach", writeFile(t, "vdf.xml", xml)).want(t, 0)
	viaVirsh(ctx, t, l, d.Name, "volume", "resize", "vdf", "16M").want(t, 0)
	if r := viaVirsh(ctx, t, l, d.Name, "list").want(t, 0); !strings.Contains(r.stdout, "16 MiB") {
		t.Errorf("%s", r.stdout)
	}
	destroyInLibvirt(ctx, t, l)
}

// TestMoveHeader: a guest finds its data after the header was moved out of the image, and after it was moved back.
func TestMoveHeader(t *testing.T) {
	t.Parallel()
	peer.Long(t, "boots a guest; hotplug/volume reads the data of moved volumes by qemu-io in every run")
	ctx := bounded(t)
	q := booted(ctx, t, peer.Options{RootPorts: 2})
	before := stateOf(ctx, t, q)
	layouts := map[string][]string{"LUKS1": nil, "LUKS2": {"--luks2"}}
	for name, flags := range layouts {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t, "")
			_, store := volumeStore(t)
			image, header := filepath.Join(dir, "image"), filepath.Join(dir, "header")
			command := func(args ...string) result {
				t.Helper()
				return run(ctx, t, exec.CommandContext(ctx, luksplug, append([]string{"--keystore", store, "volume"}, args...)...))
			}
			xml := command(append([]string{"create", "vm1-vdb", "--size", "8M", "--path", image}, flags...)...).want(t, 0).stdout
			inside := writeFile(t, "inside.xml", xml)
			detached := writeFile(t, "detached.xml", strings.Replace(xml, "</encryption>", "<header type='file'><source file='"+header+"'/></header></encryption>", 1))
			pattern := []byte("what the guest writes to " + name)
			attached := func(disk string, use func(dev string)) {
				t.Helper()
				tool(ctx, t, q.Socket, "--keystore", store, "attach", disk).want(t, 0)
				use(guestDisk(ctx, t, q, "vm1-vdb"))
				if r := command("detach-header", image, header+".other"); r.code != 5 || !strings.Contains(r.stderr, "a VM uses the volume") {
					t.Errorf("of an attached volume: exit code %d, %s", r.code, r.stderr)
				}
				tool(ctx, t, q.Socket, "detach", "vdb").want(t, 0)
				wantSame(ctx, t, q, before)
			}
			reads := func(dev string) {
				if got := must.Get(q.Guest().ReadHash(ctx, dev, 7, 1))(t); got != peer.HashOf(peer.Pattern(pattern)) {
					t.Error("the guest reads other data than it wrote")
				}
			}
			attached(inside, func(dev string) { must.OK(t, q.Guest().WritePattern(ctx, dev, 7, 1, pattern)) })
			command("detach-header", "--wipe", image, header).want(t, 0)
			attached(detached, reads)
			command("attach-header", "--remove", detached).want(t, 0)
			attached(inside, reads)
		})
	}
}

// usedVolume is what volume info and volume list say of the use of a volume.
type usedVolume struct {
	Path     string
	Attached []struct{ VM, Target string }
	InUse    bool `json:"in_use"`
	InUseBy  []struct {
		Name string
		PID  int
	} `json:"in_use_by"`
	Birth   string `json:"key_birth"`
	Checked []struct{ Slot *int }
}

// wantHeldByQEMU checks that volumes that luksplug has not attached are listed as in use by a QEMU.
func wantHeldByQEMU(ctx context.Context, t *testing.T, store, dir string, names ...string) {
	t.Helper()
	var list struct{ Volumes []usedVolume }
	run(ctx, t, exec.CommandContext(ctx, luksplug, "--keystore", store, "--output", "json", "volume", "list", "--pool", dir)).want(t, 0).decode(t, &list)
	found := 0
	for _, v := range list.Volumes {
		if filepath.Dir(v.Path) != dir {
			continue // of another test
		}
		found++
		if !slices.Contains(names, filepath.Base(v.Path)) || len(v.Attached) != 0 || !v.InUse || len(v.InUseBy) != 1 || !strings.HasPrefix(v.InUseBy[0].Name, "qemu-system") || v.Birth == "" {
			t.Errorf("%+v", v)
		}
	}
	if found != len(names) {
		t.Errorf("%d volumes of %v", found, names)
	}
	run(ctx, t, exec.CommandContext(ctx, luksplug, "--keystore", store, "volume", "info", filepath.Join(dir, names[0]))).want(t, 0).wantStdout(t, "in use", "by qemu-system")
}

// wantAttached checks that volume info shows the VM that has the volume of a disk, and the key slot that its secret opens.
func wantAttached(ctx context.Context, t *testing.T, store, disk string) {
	t.Helper()
	var v usedVolume
	run(ctx, t, exec.CommandContext(ctx, luksplug, "--keystore", store, "--output", "json", "volume", "info", disk, "--check")).want(t, 0).decode(t, &v)
	if len(v.Attached) != 1 || v.Attached[0].Target != "vdb" || !v.InUse || len(v.InUseBy) == 0 || v.Birth == "" || len(v.Checked) != 1 || v.Checked[0].Slot == nil {
		t.Errorf("%+v", v)
	}
}
