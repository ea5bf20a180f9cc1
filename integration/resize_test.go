package integration

import (
	"context"
	"fmt"
	"maps"
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

// prepare makes the volume and attaches it.
func (c *resizeCase) prepare(ctx context.Context, t *testing.T, q *peer.QEMU, store string) {
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
	c.dev = guestDisk(ctx, t, q, c.serial)
}

// TestResizeAttached: disks of all layouts grow while a guest uses them, and the guest sees that. No sector is lost.
func TestResizeAttached(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := booted(ctx, t, peer.Options{RootPorts: 9, SCSI: true, Extra: []string{"-object", "throttle-group,id=slow,x-iops-total=100000"}})
	_, store := volumeStore(t)
	const mib = peer.MiB
	cases := map[string]*resizeCase{
		"raw":               {target: "vdb", size: 8 * mib},
		"raw detached":      {target: "vdc", size: 8*mib + 512, create: []string{"--header", "HEADER"}},
		"raw LUKS2":         {target: "vdd", size: 8*mib + 1536, create: []string{"--luks2"}},
		"qcow2":             {target: "vde", size: 8*mib + 512, create: []string{"--format", "qcow2"}},
		"qcow2 detached":    {target: "vdf", size: 8*mib - 512, create: []string{"--format", "qcow2", "--header", "HEADER"}},
		"raw by QEMU":       {target: "vdg", size: 8 * mib, attach: []string{"--unlock", "qemu"}},
		"raw scsi":          {target: "sda", size: 8 * mib},
		"raw copy on read":  {target: "vdh", size: 8 * mib, edit: strings.NewReplacer("discard='unmap'", "discard='unmap' copy_on_read='on'")},
		"raw LUKS2, header": {target: "vdi", size: 8 * mib, create: []string{"--luks2", "--header", "HEADER"}},
	}
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		c := cases[name]
		t.Run(name, func(t *testing.T) {
			c.prepare(ctx, t, q, store)
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
