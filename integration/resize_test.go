package integration

import (
	"context"
	"fmt"
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

// sectorMark is what a test writes to a sector.
func sectorMark(what string) string { return "luksplug-test-" + what }

// writeSector has the guest write a mark to a sector of its disk.
func writeSector(ctx context.Context, t *testing.T, g *peer.Guest, dev string, at int64, mark string) {
	t.Helper()
	must.Get(g.Run(ctx, fmt.Sprintf("printf %%s '%s' | dd of=%s bs=512 seek=%d conv=notrunc,fsync 2>/dev/null", mark, dev, at/512)))(t)
}

// wantSector checks that the guest reads a mark in a sector, from the disk and not from its cache.
func wantSector(ctx context.Context, t *testing.T, g *peer.Guest, dev string, at int64, mark string) {
	t.Helper()
	got := must.Get(g.Run(ctx, fmt.Sprintf("echo 3 > /proc/sys/vm/drop_caches; dd if=%s bs=512 skip=%d count=1 2>/dev/null | head -c %d | tr -c 'a-z0-9-' '?'", dev, at/512, len(mark))))(t)
	if got != mark {
		t.Errorf("the guest reads %q at byte %d, and not %q", got, at, mark)
	}
}

// resizeCase is a volume of TestResizeAttached.
type resizeCase struct {
	target string
	size   int64
	create []string // flags of volume create
	attach []string // flags of attach
	edit   *strings.Replacer
	serial string
	dev    string // in the guest
	disk   string // the document
	path   string
}

// attached makes the volume and attaches it.
func (c *resizeCase) attached(ctx context.Context, t *testing.T, q *peer.QEMU, store string) {
	t.Helper()
	dir := shortDir(t, "")
	c.path, c.serial = filepath.Join(dir, "image"), "vm1-"+c.target
	for i, f := range c.create {
		if f == "HEADER" {
			c.create[i] = filepath.Join(dir, "header")
		}
	}
	args := append([]string{"--keystore", store, "volume", "create", c.serial, "--target", c.target, "--size", fmt.Sprint(c.size), "--path", c.path}, c.create...)
	xml := run(ctx, t, exec.CommandContext(ctx, luksplug, args...)).want(t, 0).stdout
	if c.edit != nil {
		xml = c.edit.Replace(xml)
	}
	c.disk = writeFile(t, c.target+".xml", xml)
	tool(ctx, t, q.Socket, append([]string{"--keystore", store, "attach", c.disk}, c.attach...)...).want(t, 0)
}

// TestResizeAttached: disks of all layouts grow while a guest uses them, and the guest sees that. No sector is lost.
func TestResizeAttached(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := booted(ctx, t, peer.Options{RootPorts: 9, SCSI: true, Extra: []string{"-object", "throttle-group,id=throttle-slow,x-iops-total=100000"}})
	_, store := volumeStore(t)
	const mib = peer.MiB
	cases := map[string]*resizeCase{
		"raw":            {target: "vdb", size: 8 * mib},
		"raw detached":   {target: "vdc", size: 8*mib + 512, create: []string{"--header", "HEADER"}},
		"raw LUKS2":      {target: "vdd", size: 8*mib + 1536, create: []string{"--luks2"}},
		"qcow2":          {target: "vde", size: 8*mib + 512, create: []string{"--format", "qcow2"}},
		"qcow2 detached": {target: "vdf", size: 8*mib - 512, create: []string{"--format", "qcow2", "--header", "HEADER"}},
		"raw by QEMU":    {target: "vdg", size: 8 * mib, attach: []string{"--unlock", "qemu"}},
		"raw scsi":       {target: "sda", size: 8 * mib, edit: strings.NewReplacer("</disk>", "<iotune><total_iops_sec>100000</total_iops_sec><group_name>bronze</group_name></iotune></disk>")},
		"raw copy on read": {target: "vdh", size: 8 * mib, edit: strings.NewReplacer("discard='unmap'", "discard='unmap' copy_on_read='on'",
			"</disk>", "<throttlefilters><throttlefilter group='slow'/></throttlefilters></disk>")},
		"raw LUKS2, header": {target: "vdi", size: 8 * mib, create: []string{"--luks2", "--header", "HEADER"}},
	}
	if !peer.IsLong() { // each takes seconds, and the others have their nodes
		maps.DeleteFunc(cases, func(name string, _ *resizeCase) bool {
			return name != "raw detached" && name != "qcow2 detached" && name != "raw scsi" && name != "raw copy on read"
		})
	}
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		c := cases[name]
		t.Run(name, func(t *testing.T) {
			c.attached(ctx, t, q, store)
			c.dev = guestDisk(ctx, t, q, c.serial)
			g := q.Guest()
			writeSector(ctx, t, g, c.dev, c.size-512, sectorMark("old-end"))
			grown := c.size + 5*mib + 512
			r := tool(ctx, t, q.Socket, "--output", "json", "volume", "resize", c.target, fmt.Sprint(grown), "--dry-run").want(t, 0)
			if size := must.Get(g.SizeOf(ctx, c.dev))(t); size != c.size || !strings.Contains(r.stdout, `"dry_run": true`) {
				t.Fatalf("a dry run: the guest sees %d bytes; %s", size, r.stdout)
			}
			tool(ctx, t, q.Socket, "volume", "resize", c.target, "+5243392").want(t, 0)
			if size := must.Get(g.SizeOf(ctx, c.dev))(t); size != grown {
				t.Fatalf("the guest sees %d bytes, and not %d", size, grown)
			}
			wantSector(ctx, t, g, c.dev, c.size-512, sectorMark("old-end"))
			writeSector(ctx, t, g, c.dev, grown-512, sectorMark("new-end"))
			wantSector(ctx, t, g, c.dev, grown-512, sectorMark("new-end"))
			tool(ctx, t, q.Socket, "volume", "resize", c.target, fmt.Sprint(grown)).want(t, 0) // again
			if r := tool(ctx, t, q.Socket, "volume", "resize", c.target, "8M").want(t, 5); !strings.Contains(r.stderr, "detached") {
				t.Errorf("a smaller size: %s", r.stderr)
			}
			// While the VM has it, nothing else resizes it.
			run(ctx, t, exec.CommandContext(ctx, luksplug, "--keystore", store, "volume", "resize", c.disk, "40M")).want(t, 5)
			tool(ctx, t, q.Socket, "detach", c.target).want(t, 0)
			tool(ctx, t, q.Socket, append([]string{"--keystore", store, "attach", c.disk}, c.attach...)...).want(t, 0)
			c.dev = guestDisk(ctx, t, q, c.serial)
			wantSector(ctx, t, g, c.dev, grown-512, sectorMark("new-end"))
		})
	}
}

// TestResizeRefused: what would not follow is refused before anything is changed.
func TestResizeRefused(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Paused: true, SCSI: true})
	_, store := volumeStore(t)
	send := func(name string, args map[string]any) {
		t.Helper()
		must.Get(q.Query(ctx, name, args))(t)
	}
	for name, c := range map[string]struct {
		resizeCase
		flags  []string
		before func(c *resizeCase)
		want   string
		code   int
	}{
		"external":  {resizeCase: resizeCase{target: "sda", attach: []string{"--unlock", "external"}}, want: "storage daemon", code: 5},
		"read-only": {resizeCase: resizeCase{target: "sdc", edit: strings.NewReplacer("<target", "<readonly/><target")}, want: "read-only", code: 5},
		"transient": {resizeCase: resizeCase{target: "sdd", edit: strings.NewReplacer("<target", "<transient/><target")}, want: "transient", code: 5},
		"a job": {resizeCase: resizeCase{target: "sde"}, before: func(*resizeCase) {
			send("blockdev-add", map[string]any{"driver": "file", "filename": sized(t, "copy", 8*peer.MiB), "node-name": "copy"})
			send("blockdev-mirror", map[string]any{"job-id": "j", "device": "luksplug-sde-luks", "target": "copy", "sync": "full", "speed": 1})
		}, want: "job j (mirror)", code: 5},
		"a larger file": {resizeCase: resizeCase{target: "sdf"}, before: func(c *resizeCase) {
			must.OK(t, os.Truncate(c.path, 64*peer.MiB))
		}, want: "has grown to 67108864 bytes", code: 5},
		"no space":             {resizeCase: resizeCase{target: "sdg"}, flags: []string{"--preallocate", "+4096T"}, want: "no space left", code: 6},
		"qcow2 not allocated":  {resizeCase: resizeCase{target: "sdh", create: []string{"--format", "qcow2", "--header", "HEADER"}}, flags: []string{"--preallocate", "16M"}, want: "the image is qcow2", code: 5},
		"qcow2 as no file can": {resizeCase: resizeCase{target: "sdi", create: []string{"--format", "qcow2", "--header", "HEADER"}}, flags: []string{"4096P"}, want: "as it was before", code: 6},
	} {
		t.Run(name, func(t *testing.T) {
			c.size = 8 * peer.MiB
			c.attached(ctx, t, q, store)
			if c.before != nil {
				c.before(&c.resizeCase)
			}
			old := must.Get(os.Stat(c.path))(t).Size()
			before := stateOf(ctx, t, q)
			if c.flags == nil {
				c.flags = []string{"16M"}
			}
			r := tool(ctx, t, q.Socket, append([]string{"volume", "resize", c.target}, c.flags...)...).want(t, c.code)
			if !strings.Contains(r.stderr, c.want) {
				t.Errorf("%s", r.stderr)
			}
			if now := must.Get(os.Stat(c.path))(t).Size(); now != old {
				t.Errorf("the file has %d bytes, and had %d", now, old)
			}
			wantSame(ctx, t, q, before)
		})
	}
}

// TestResizeFails: if QEMU refuses, a file that was grown gets its size back. If no answer comes, QEMU is queried.
func TestResizeFails(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Paused: true, SCSI: true})
	_, store := volumeStore(t)
	c := resizeCase{target: "sda", size: 8 * peer.MiB}
	c.attached(ctx, t, q, store)
	old := must.Get(os.Stat(c.path))(t).Size()
	refusing := peer.NewProxy(t, q.Socket, peer.FailCommand("block_resize"))
	for _, flags := range [][]string{{"16M"}, {"16M", "--preallocate"}} {
		r := tool(ctx, t, refusing.Address, append([]string{"volume", "resize", "sda"}, flags...)...).want(t, 6)
		if !strings.Contains(r.stderr, "as it was before") {
			t.Errorf("%s", r.stderr)
		}
		if now := must.Get(os.Stat(c.path))(t).Size(); now != old {
			t.Errorf("%v: the file has %d bytes, and had %d", flags, now, old)
		}
	}
	// Without an answer: QEMU has done it.
	cutting := peer.NewProxy(t, q.Socket, peer.CutAtStep(1, peer.CutBeforeReply))
	tool(ctx, t, cutting.Address, "volume", "resize", "sda", "16M").want(t, 0)
	// Other VMs would keep the size of a disk that they share.
	shared := writeFile(t, "sdb.xml", "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='"+sized(t, "shared", 8*peer.MiB)+"'/><shareable/><target dev='sdb' bus='scsi'/></disk>")
	tool(ctx, t, q.Socket, "attach", shared).want(t, 0)
	if r := tool(ctx, t, q.Socket, "volume", "resize", "sdb", "16M").want(t, 5); !strings.Contains(r.stderr, "shareable") {
		t.Errorf("%s", r.stderr)
	}
	// A file that already has its new size, after a run that was killed, is resized by the next.
	must.OK(t, os.Truncate(c.path, old+16*peer.MiB))
	tool(ctx, t, q.Socket, "volume", "resize", "sda", "24M").want(t, 0)
	if now := must.Get(os.Stat(c.path))(t).Size(); now != old+16*peer.MiB {
		t.Errorf("the file has %d bytes", now)
	}
}

// TestResizeBlockDevice: a device of the host is resized by its owner, and the VM is told.
func TestResizeBlockDevice(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Paused: true, SCSI: true})
	v := peer.NewVolume(t, peer.DetachedRaw)
	device := loopDevice(t, v.Payload)
	xml := strings.NewReplacer("type='file' device='disk'", "type='block' device='disk'", "file='"+v.Payload+"'", "dev='"+device+"'").Replace(v.DiskXML("sda", "scsi"))
	tool(ctx, t, q.Socket, attachArgs(t, v, xml)...).want(t, 0)
	if r := tool(ctx, t, q.Socket, "volume", "resize", "sda", "80M").want(t, 5); !strings.Contains(r.stderr, "which makes 67108864 bytes now") {
		t.Errorf("%s", r.stderr)
	}
	must.OK(t, os.Truncate(v.Payload, 80*peer.MiB))
	must.Get(exec.Command("losetup", "--set-capacity", device).CombinedOutput())(t)
	tool(ctx, t, q.Socket, "volume", "resize", "sda", "80M").want(t, 0)
	if r := tool(ctx, t, q.Socket, "list").want(t, 0); !strings.Contains(r.stdout, "80 MiB") {
		t.Errorf("%s", r.stdout)
	}
}
