package integration

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestCopyGuardVersions: no supported QEMU is migrated or snapshotted while a disk is copied, by a refusal that names the disk. The
// VM lives, the copy goes on, and afterwards the VM can be migrated.
func TestCopyGuardVersions(t *testing.T) {
	t.Parallel()
	for name, binary := range map[string]func(t *testing.T) string{
		"7.2":           func(t *testing.T) string { return peer.MatrixQEMU(t, "bookworm") },
		"the installed": func(*testing.T) string { return "" },
		"the newest":    func(t *testing.T) string { return peer.NewestQEMU(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			q := peer.Start(t, peer.Options{Binary: binary(t), SCSI: true, RootPorts: 1}) // QEMU 7.2 closes no descriptor while it is paused
			v := connected(ctx, t, q, q.Socket, t.TempDir(), shortDir(t, ""))
			plain := func() *blockgraph.Disk { // which QEMU opens since long
				path := writeFile(t, "image", strings.Repeat("x", 8*peer.MiB))
				return must.Get(diskxml.ParseDisk([]byte("<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='" + path + "'/><target dev='sda' bus='scsi'/></disk>")))(t)
			}
			must.Get(v.Attach(ctx, plain(), nil, hotplug.AttachOptions{}))(t)
			must.OK(t, v.StartCopy(ctx, "sda", plain(), nil, hotplug.CopyOptions{Speed: 1 << 20}))
			monitor := must.Get(q.Monitor(ctx))(t)
			migrate := func() error {
				_, err := monitor.Execute(ctx, "migrate", map[string]any{"uri": "exec:cat > /dev/null"})
				return err
			}
			refused := func(when string) {
				t.Helper()
				if err := migrate(); err == nil || !strings.Contains(err.Error(), "luksplug-sda-copying") {
					t.Errorf("%s: migrate: %v", when, err)
				}
				reasons := must.Get(monitor.Execute(ctx, "query-migrate", nil))(t)
				if !strings.Contains(string(reasons), "luksplug-sda-copying") {
					t.Errorf("%s: query-migrate: %s", when, reasons)
				}
				said := must.Get(monitor.Execute(ctx, "human-monitor-command", map[string]any{"command-line": "savevm now"}))(t)
				if !strings.Contains(string(said), "luksplug-sda-copying") {
					t.Errorf("%s: savevm: %s", when, said)
				}
			}
			refused("copying")
			must.OK(t, v.SetCopySpeed(ctx, "sda", 0), v.ConvergeCopy(ctx, "sda"))
			for must.Get(v.Copy(ctx, "sda"))(t).Phase != hotplug.CopyInStep {
				time.Sleep(10 * time.Millisecond)
			}
			refused("in step")
			must.Get(v.SwitchCopy(ctx, "sda", hotplug.Switch{}))(t)
			must.OK(t, migrate())
		})
	}
}

// TestCopyGuardLibvirt: libvirt neither saves, migrates, dumps nor snapshots a domain while a disk of it is copied. Its error names
// the disk, the domain lives, and the copy goes on. Afterwards libvirt saves it.
func TestCopyGuardLibvirt(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	l := peer.Libvirtd(t)
	from := must.Get(l.StartDomain(ctx, peer.DomainOptions{SCSI: true, Persistent: true}))(t)
	domain := must.Get(libvirtvm.Open(ctx, l.URI, from.Name, libvirtvm.Options{Options: hotplug.Options{LockDir: t.TempDir(), RunDir: must.Dir(t, "/dev/shm")}}))(t)
	t.Cleanup(func() { _ = domain.Close() })
	v := must.Get(domain.VM(ctx))(t)
	keys, disks := passphrases{}, [2]*blockgraph.Disk{}
	for i := range disks {
		volume := peer.NewVolume(t, peer.EmbeddedLUKS)
		keys[uuid.MustParse(volume.SecretUUID)] = volume.Passphrase
		disks[i] = must.Get(diskxml.ParseDisk([]byte(volume.DiskXML("sda", "scsi"))))(t)
	}
	must.Get(v.Attach(ctx, disks[0], keys, hotplug.AttachOptions{}))(t)
	must.OK(t, v.StartCopy(ctx, "sda", disks[1], keys, hotplug.CopyOptions{Speed: 1 << 20}))
	state := virsh(ctx, t, l, "domstate", from.Name)
	dir := shortDir(t, "")
	for _, args := range [][]string{
		{"managedsave", from.Name},
		{"save", from.Name, filepath.Join(dir, "saved")},
		{"migrate", "--live", "--unsafe", from.Name, l.URI, "--dname", "another", "--migrateuri", "unix://" + filepath.Join(dir, "migration")},
		{"dump", from.Name, filepath.Join(dir, "dump")},
		{"snapshot-create-as", from.Name, "now", "--memspec", "file=" + filepath.Join(dir, "memory") + ",snapshot=external"},
	} {
		out, err := l.Virsh(ctx, args...)
		t.Logf("%s: %s %v", args[0], out, err)
		if err == nil || !strings.Contains(err.Error(), "luksplug-sda-copying") {
			t.Errorf("%s: %s %v", args[0], out, err)
		}
		if now := virsh(ctx, t, l, "domstate", from.Name); now != state {
			t.Fatalf("after %s the domain is %s", args[0], now)
		}
		if c := must.Get(v.Copy(ctx, "sda"))(t); c.Phase == hotplug.CopyEnded || c.Phase == hotplug.CopyPaused {
			t.Fatalf("after %s the copy is %s: %v", args[0], c.Phase, c.Err)
		}
	}
	must.OK(t, v.SetCopySpeed(ctx, "sda", 0), v.ConvergeCopy(ctx, "sda"))
	for must.Get(v.Copy(ctx, "sda"))(t).Phase != hotplug.CopyInStep {
		time.Sleep(10 * time.Millisecond)
	}
	must.Get(v.SwitchCopy(ctx, "sda", hotplug.Switch{}))(t)
	must.Get(v.Detach(ctx, "sda", hotplug.DetachOptions{Wait: 10 * time.Second}))(t)
	virsh(ctx, t, l, "save", from.Name, filepath.Join(dir, "saved"))
	must.Get(os.Stat(filepath.Join(dir, "saved")))(t)
}

// copyUnderLoad copies the disk of a guest that writes a log to it, and back, and returns the number of lines.
func copyUnderLoad(ctx context.Context, t *testing.T, r *copyRig, dev string) int {
	t.Helper()
	log := startLog(ctx, t, r.q.Guest(), dev)
	for range 2 {
		must.OK(t, r.start(ctx, t, r.direct))
		log.wantMore(ctx, t, r.q.Guest())
		r.inStep(ctx, t)
		log.wantMore(ctx, t, r.q.Guest())
		must.OK(t, r.switchTo(ctx, r.direct))
		log.wantMore(ctx, t, r.q.Guest())
	}
	return log.stop(ctx, t, r.q.Guest())
}

// TestCopyThreads: a disk that an I/O thread of QEMU serves is copied and switched while the guest writes to it, and keeps its
// limits. No write is lost.
func TestCopyThreads(t *testing.T) {
	t.Parallel()
	for _, bus := range []string{"virtio", "scsi"} {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			options := peer.Options{RootPorts: 2, Guest: true, Extra: []string{"-object", "iothread,id=iothread1"}}
			if bus == "scsi" {
				options.Extra = append(options.Extra, "-device", "virtio-scsi-pci,id=scsi0,bus=rp1,iothread=iothread1")
			}
			limits := blockgraph.IOTune{Requests: blockgraph.Limits{Write: blockgraph.Limit{PerSecond: 5000}}, Bytes: blockgraph.Limits{Total: blockgraph.Limit{PerSecond: 500 << 20, Max: 600 << 20}}}
			r := newCopyRig(ctx, t, options, bus, func(d *blockgraph.Disk) {
				d.Serial, d.IOTune = "copied", &limits
				if bus == "virtio" {
					d.Driver.IOThread = 1
				}
			})
			must.OK(t, r.q.Guest().WaitBoot(ctx))
			dev := guestDisk(ctx, t, r.q, "copied")
			before := throttling(ctx, t, r.q)
			lines := copyUnderLoad(ctx, t, r, dev)
			if after := throttling(ctx, t, r.q); after != before || !strings.Contains(after, `"iops_wr":5000`) {
				t.Errorf("the limits were %s, and are %s", before, after)
			}
			must.Get(r.direct.Detach(ctx, r.disks[0].Target, hotplug.DetachOptions{Wait: time.Minute}))(t)
			checkVolumeLog(ctx, t, r.volumes[0], dev, lines)
		})
	}
}

// TestCopyFiltersLoad: a disk in a throttle group is copied and switched below the filter while the guest writes to it. No write
// is lost.
func TestCopyFiltersLoad(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	r := newCopyRig(ctx, t, peer.Options{RootPorts: 1, Guest: true, Extra: []string{"-object", "throttle-group,id=throttle-slow,x-iops-total=2000"}}, "virtio",
		func(d *blockgraph.Disk) { d.Serial, d.ThrottleFilters, d.CopyOnRead = "copied", []string{"slow"}, true })
	must.OK(t, r.q.Guest().WaitBoot(ctx))
	dev := guestDisk(ctx, t, r.q, "copied")
	lines := copyUnderLoad(ctx, t, r, dev)
	must.Get(r.direct.Detach(ctx, r.disks[0].Target, hotplug.DetachOptions{Wait: time.Minute}))(t)
	checkVolumeLog(ctx, t, r.volumes[0], dev, lines)
}

// throttling returns the limits of the disk's device.
func throttling(ctx context.Context, t *testing.T, q *peer.QEMU) string {
	t.Helper()
	var blocks []struct {
		Qdev     string
		Inserted map[string]any
	}
	monitor := must.Get(q.Monitor(ctx))(t)
	must.OK(t, json.Unmarshal(must.Get(monitor.Execute(ctx, "query-block", nil))(t), &blocks))
	limits := map[string]any{}
	for _, b := range blocks {
		for name, value := range b.Inserted {
			if strings.HasPrefix(name, "bps") || strings.HasPrefix(name, "iops") {
				limits[name] = value
			}
		}
	}
	return string(must.Get(json.Marshal(limits))(t))
}
