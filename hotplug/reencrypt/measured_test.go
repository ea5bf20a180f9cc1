package reencrypt_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/reencrypt"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/qmptest"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
)

var layouts = []reencrypt.Layout{
	reencrypt.LayoutRaw, reencrypt.LayoutQcow2, reencrypt.LayoutLUKS, reencrypt.LayoutDetachedRaw, reencrypt.LayoutDetachedQcow2, reencrypt.LayoutLUKSInQcow2,
}

const passphrase = "test passphrase"

// disk is an image that was made for a test.
type disk struct {
	layout       reencrypt.Layout
	path, header string
	format       blockgraph.Format
	headerSize   int64 // of LUKS
}

// newDisk makes an empty disk, as luksplug makes volumes.
func newDisk(t *testing.T, layout reencrypt.Layout, size int64, q volume.Qcow2, backing string) disk {
	t.Helper()
	dir := t.TempDir()
	d := disk{layout: layout, path: filepath.Join(dir, "image"), format: blockgraph.FormatRaw}
	switch layout {
	case reencrypt.LayoutQcow2, reencrypt.LayoutDetachedQcow2, reencrypt.LayoutLUKSInQcow2:
		d.format = blockgraph.FormatQcow2
	}
	if layout == reencrypt.LayoutRaw || layout == reencrypt.LayoutQcow2 {
		args := []string{"create", "-q", "-f", string(d.format)}
		if q.ClusterSize != 0 {
			args = append(args, "-o", fmt.Sprintf("cluster_size=%d", q.ClusterSize))
		}
		if backing != "" {
			args = append(args, "-b", backing, "-F", "raw")
		}
		must.Run(t, "", "qemu-img", append(args, d.path, strconv.FormatInt(size, 10))...)
		return d
	}
	r := volume.Request{Path: d.path, Format: d.format, Size: size, Qcow2: q, Passphrase: secrets.New([]byte(passphrase)), Unlock: time.Millisecond}
	if layout == reencrypt.LayoutDetachedRaw || layout == reencrypt.LayoutDetachedQcow2 {
		d.header = filepath.Join(dir, "header")
		r.Header = d.header
	}
	if backing != "" {
		r.Backing = &volume.Backing{Path: backing, Format: "raw"}
	}
	v := must.Get(volume.Create(t.Context(), r, nil))(t)
	if d.headerSize = v.LUKS.PayloadOffset(); d.header != "" || d.headerSize == 0 {
		d.headerSize = 2 << 20
	}
	return d
}

// node returns the block node of the disk.
func (d disk) node(name string) qmp.Object {
	file := func(path string) qmp.Object {
		return qmp.Object{{"driver", "file"}, {"filename", path}, {"discard", "unmap"}}
	}
	switch d.layout {
	case reencrypt.LayoutLUKSInQcow2:
		return qmp.Object{{"driver", "qcow2"}, {"node-name", name}, {"discard", "unmap"}, {"file", file(d.path)}, {"encrypt", qmp.Object{{"format", "luks"}, {"key-secret", "key"}}}}
	case reencrypt.LayoutRaw, reencrypt.LayoutQcow2:
		return qmp.Object{{"driver", string(d.format)}, {"node-name", name}, {"discard", "unmap"}, {"file", file(d.path)}}
	}
	out := qmp.Object{{"driver", "luks"}, {"node-name", name}, {"key-secret", "key"}, {"discard", "unmap"}}
	if d.header != "" {
		out = append(out, qmp.Member{Name: "header", Value: file(d.header)})
	}
	return append(out, qmp.Member{Name: "file", Value: qmp.Object{{"driver", string(d.format)}, {"discard", "unmap"}, {"file", file(d.path)}}})
}

// write has qemu-io execute commands on the disk.
func (d disk) write(t *testing.T, commands ...string) {
	t.Helper()
	var args []string
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	key := must.File(t, passphrase)
	must.Run(t, "", "qemu-io", append(args, "-d", "unmap", "--object", "secret,id=key,file="+key, "json:"+string(must.Get(json.Marshal(d.node("disk")))(t)))...)
}

func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	must.OK(t, unix.Stat(path, &st))
	return st.Blocks * 512
}

// mirror copies a disk by blockdev-mirror, and returns the bytes that the target has then.
func mirror(t *testing.T, source, target disk, speed int64) int64 {
	t.Helper()
	ctx := qmptest.Context(t)
	conn := qmptest.StartOver(t, qmptest.Program(t, "qemu-storage-daemon"), "--chardev", "socket,id=m,fd=3", "--monitor", "chardev=m", "--object", "secret,id=key,file="+must.File(t, passphrase))
	c := must.Get(qmp.NewConn(ctx, conn))(t)
	defer qmptest.Close(t, c)
	for _, cmd := range []qmp.Command{
		{Execute: "blockdev-add", Arguments: source.node("source")},
		{Execute: "blockdev-add", Arguments: target.node("target")},
		{Execute: "blockdev-mirror", Arguments: qmp.Object{{"job-id", "job"}, {"device", "source"}, {"target", "target"}, {"sync", "full"}, {"speed", speed}, {"auto-dismiss", false}}},
	} {
		must.Get(c.Execute(ctx, cmd))(t)
	}
	await := func(status string) {
		for {
			var jobs []struct{ Status, Error string }
			must.OK(t, json.Unmarshal(must.Get(c.Execute(ctx, qmp.Command{Execute: "query-jobs"}))(t), &jobs))
			if len(jobs) != 1 || jobs[0].Error != "" {
				t.Fatalf("jobs: %+v", jobs)
			}
			if jobs[0].Status == status {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	await("ready")
	must.Get(c.Execute(ctx, qmp.Command{Execute: "job-complete", Arguments: qmp.Object{{"id", "job"}}}))(t)
	await("concluded")
	must.Get(c.Execute(ctx, qmp.Command{Execute: "job-dismiss", Arguments: qmp.Object{{"id", "job"}}}))(t)
	for _, node := range []string{"source", "target"} { // closing writes the tables
		must.Get(c.Execute(ctx, qmp.Command{Execute: "blockdev-del", Arguments: qmp.Object{{"node-name", node}}}))(t)
	}
	return allocated(t, target.path)
}

// estimate returns the cost of copying a disk.
func estimate(ctx context.Context, t *testing.T, size int64, source, target disk, q volume.Qcow2, layers ...reencrypt.Layer) reencrypt.Cost {
	t.Helper()
	c := reencrypt.Copying{
		Source: reencrypt.Source{Layout: source.layout, Size: size, Header: source.header, Layers: append([]reencrypt.Layer{{Path: source.path, Format: source.format}}, layers...)},
		Target: reencrypt.Target{Layout: target.layout, Path: target.path + ".new", HeaderSize: target.headerSize, Qcow2: q},
	}
	if target.header != "" {
		c.Target.Header = target.header + ".new"
	}
	return must.Get(reencrypt.EstimateCost(ctx, c))(t)
}

// compare compares what a target has with what was expected: no less is expected, and at most the share of the file system
// more, a cluster for each kind of table, which is full of holes, and the LUKS header, of which luksplug writes only what is
// not zero.
func compare(t *testing.T, cost reencrypt.Cost, got int64, target disk, q volume.Qcow2) {
	t.Helper()
	want := cost.Allocation + cost.Metadata
	if target.header != "" {
		want -= target.headerSize + target.headerSize/1024 + 64<<10 // in another file
	}
	slack := want/1024 + 64<<10 + 2*max(q.ClusterSize, 64<<10) + target.headerSize
	if got > want || want-got > slack {
		t.Errorf("the target has %d KiB, and %d KiB were expected (%d KiB of data, %d KiB in addition)", got>>10, want>>10, cost.Allocation>>10, cost.Metadata>>10)
	}
	if !cost.Exact {
		t.Errorf("not exact: %+v", cost)
	}
	if want > cost.Most {
		t.Errorf("expected %d, at most %d", want, cost.Most)
	}
}

// quick are the pairs of layouts that are always tested: thin, fat, and qcow2 with LUKS inside, for whose making qemu-img takes seconds.
var quick = [][2]reencrypt.Layout{
	{reencrypt.LayoutRaw, reencrypt.LayoutQcow2},
	{reencrypt.LayoutRaw, reencrypt.LayoutLUKSInQcow2},
	{reencrypt.LayoutQcow2, reencrypt.LayoutLUKS},
	{reencrypt.LayoutDetachedRaw, reencrypt.LayoutRaw},
	{reencrypt.LayoutLUKS, reencrypt.LayoutDetachedRaw},
}

// TestCostOfLayouts: for each pair of layouts, QEMU's job leaves a target of the size that was computed before.
func TestCostOfLayouts(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img", "qemu-io", "qemu-storage-daemon")
	const size = 24 << 20
	for _, from := range layouts {
		for _, to := range layouts {
			if os.Getenv("LUKSPLUG_LONG") == "" && !slices.Contains(quick, [2]reencrypt.Layout{from, to}) {
				continue
			}
			t.Run(fmt.Sprintf("%s to %s", from, to), func(t *testing.T) {
				t.Parallel()
				source, target := newDisk(t, from, size, volume.Qcow2{}, ""), newDisk(t, to, size, volume.Qcow2{}, "")
				source.write(t, "write -P 7 1M 2M", "write -P 8 9M 5k", "write -P 9 20M 1M", "discard 20M 512k")
				cost := estimate(t.Context(), t, size, source, target, volume.Qcow2{})
				compare(t, cost, mirror(t, source, target, 0), target, volume.Qcow2{})
				sparse := func(l reencrypt.Layout) bool {
					return l == reencrypt.LayoutRaw || l == reencrypt.LayoutQcow2 || l == reencrypt.LayoutLUKSInQcow2
				}
				if thin := sparse(from) && sparse(to); cost.Thin != thin || thin != (cost.Copied < size/4) {
					t.Errorf("thin is %v, and %d are copied", cost.Thin, cost.Copied)
				}
			})
		}
	}
}

// TestCostOfParts: scattered small writes, other cluster sizes, and images below the source.
func TestCostOfParts(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img", "qemu-io", "qemu-storage-daemon")
	const size = 32 << 20
	var scattered []string
	for at := 8 << 10; at < size; at += 1 << 20 {
		scattered = append(scattered, fmt.Sprintf("write -P 7 %d 4k", at))
	}
	backing := filepath.Join(t.TempDir(), "backing")
	must.Run(t, "", "qemu-img", "create", "-q", "-f", "raw", backing, "24M")
	must.Run(t, "", "qemu-io", "-f", "raw", backing, "-c", "write -P 6 2M 3M", "-c", "write -P 6 10M 1M")
	// qemu-img writes the first 4 KiB of a raw image.
	for _, c := range []struct {
		name           string
		from, to       reencrypt.Layout
		fromQ, toQ     volume.Qcow2
		backing        string
		data           int64 // that are copied
		writes         []string
		backingIsBelow []reencrypt.Layer
	}{
		{name: "raw", from: reencrypt.LayoutRaw, to: reencrypt.LayoutRaw, writes: scattered, data: 32 * 64 << 10},
		{name: "small target clusters", from: reencrypt.LayoutRaw, to: reencrypt.LayoutLUKSInQcow2, toQ: volume.Qcow2{ClusterSize: 4096}, writes: scattered, data: 33 * 4096},
		{name: "large target clusters", from: reencrypt.LayoutQcow2, to: reencrypt.LayoutQcow2, toQ: volume.Qcow2{ClusterSize: 2 << 20}, writes: scattered, data: size},
		{name: "large source clusters", from: reencrypt.LayoutLUKSInQcow2, to: reencrypt.LayoutLUKSInQcow2, fromQ: volume.Qcow2{ClusterSize: 1 << 20}, writes: scattered[:8], data: 8 << 20},
		{name: "fat and small target clusters", from: reencrypt.LayoutLUKS, to: reencrypt.LayoutLUKSInQcow2, toQ: volume.Qcow2{ClusterSize: 4096}, writes: scattered[:1], data: size},
		{name: "backing image", from: reencrypt.LayoutLUKSInQcow2, to: reencrypt.LayoutLUKSInQcow2, writes: []string{"write -P 1 4M 2M", "write -z 10M 512k"}, data: 4<<20 + 512<<10 + 64<<10,
			backing: backing, backingIsBelow: []reencrypt.Layer{{Path: backing, Format: blockgraph.FormatRaw}}},
	} {
		if os.Getenv("LUKSPLUG_LONG") == "" && c.to == reencrypt.LayoutLUKSInQcow2 {
			continue // qemu-img takes seconds for each
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			source, target := newDisk(t, c.from, size, c.fromQ, c.backing), newDisk(t, c.to, size, c.toQ, "")
			source.write(t, c.writes...)
			cost := estimate(t.Context(), t, size, source, target, c.toQ, c.backingIsBelow...)
			if cost.Copied != c.data {
				t.Errorf("%d KiB are copied, want %d", cost.Copied>>10, c.data>>10)
			}
			compare(t, cost, mirror(t, source, target, 0), target, c.toQ)
		})
	}
}

// TestCostOfTime: a limited job takes as long as was computed, or longer.
func TestCostOfTime(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img", "qemu-io", "qemu-storage-daemon")
	const size, speed = 64 << 20, 8 << 20
	source, target := newDisk(t, reencrypt.LayoutQcow2, size, volume.Qcow2{}, ""), newDisk(t, reencrypt.LayoutQcow2, size, volume.Qcow2{}, "")
	source.write(t, "write -P 7 3M 12M")
	cost := must.Get(reencrypt.EstimateCost(t.Context(), reencrypt.Copying{
		Source: reencrypt.Source{Layout: source.layout, Size: size, Layers: []reencrypt.Layer{{Path: source.path, Format: source.format}}},
		Target: reencrypt.Target{Layout: target.layout, Path: target.path}, Speed: speed,
	}))(t)
	if cost.Time != 2*time.Second || !cost.BySpeed {
		t.Fatalf("computed: %s, %v", cost.Time, cost.BySpeed)
	}
	begin := time.Now()
	mirror(t, source, target, speed)
	// The last slice of the limit (100 ms) is not waited for.
	if took := time.Since(begin); took < cost.Time-500*time.Millisecond {
		t.Errorf("it took %s, less than %s", took, cost.Time)
	}
}
