package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// limitsOf is QEMU's report of the limits of one disk (query-block).
type limitsOf struct {
	Group       string
	Read        int64 `json:"bps_rd"`
	ReadBurst   int64 `json:"bps_rd_max"`
	BurstLength int64 `json:"bps_rd_max_length"`
	Requests    int64 `json:"iops"`
	Size        int64 `json:"iops_size"`
}

// limitsIn queries the limits of the disk with that top node.
func limitsIn(ctx context.Context, t *testing.T, q *peer.QEMU, node string) limitsOf {
	t.Helper()
	reply := must.Get(q.Query(ctx, "query-block", nil))(t)
	var blocks []struct {
		Inserted struct {
			limitsOf
			Node string `json:"node-name"`
		}
	}
	must.OK(t, json.Unmarshal(reply, &blocks))
	for _, b := range blocks {
		if b.Inserted.Node == node {
			return b.Inserted.limitsOf
		}
	}
	t.Fatalf("no device has the node %s: %s", node, reply)
	return limitsOf{}
}

// wantProperties checks properties of a device, whose values are JSON.
func wantProperties(ctx context.Context, t *testing.T, q *peer.QEMU, device string, properties map[string]string) {
	t.Helper()
	for name, want := range properties {
		got := must.Get(q.Query(ctx, "qom-get", map[string]any{"path": "/machine/peripheral/" + device, "property": name}))(t)
		if !sameJSON(t, string(got), want) {
			t.Errorf("QEMU has %s %s, want %s", name, got, want)
		}
	}
}

// limited are the limits that these tests set.
const limited = `<iotune><read_bytes_sec>1048576</read_bytes_sec><read_bytes_sec_max>4194304</read_bytes_sec_max>
  <read_bytes_sec_max_length>3</read_bytes_sec_max_length><total_iops_sec>200</total_iops_sec>
  <size_iops_sec>8192</size_iops_sec><group_name>bronze</group_name></iotune>`

// TestLimits sets limits on a disk of each bus. If QEMU refuses them, the disk is removed: a guest must not
// have a disk without its limits.
func TestLimits(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	// A VM that has not run releases SCSI and USB disks at once.
	guest := peer.Start(t, peer.Options{RootPorts: 2, Guest: true})
	paused := peer.Start(t, peer.Options{SCSI: true, Machine: peer.I440FX, Paused: true, Extra: []string{"-device", "qemu-xhci"}})
	must.OK(t, guest.Guest().WaitBoot(ctx))
	for _, c := range []struct {
		bus, target string
		q           *peer.QEMU
	}{{"virtio", "vdb", guest}, {"scsi", "sdb", paused}, {"usb", "sdc", paused}} {
		t.Run(c.bus, func(t *testing.T) {
			p := newPlug(t, c.q, peer.NewVolume(t, peer.EmbeddedLUKS), c.target, c.bus, limited)
			before := stateOf(ctx, t, c.q)
			proxy := peer.NewProxy(t, c.q.Socket, peer.FailCommand("block_set_io_throttle"))
			tool(ctx, t, proxy.Address, p.attachArgs()...).want(t, 6).wantStderr(t, "block_set_io_throttle luksplug-"+c.target, peer.InjectedFault)
			wantSame(ctx, t, c.q, before)

			p.attach(ctx, t)
			want := limitsOf{Group: "bronze", Read: 1 << 20, ReadBurst: 4 << 20, BurstLength: 3, Requests: 200, Size: 8192}
			if got := limitsIn(ctx, t, c.q, "luksplug-"+c.target+"-luks"); got != want {
				t.Errorf("QEMU has the limits %+v, want %+v", got, want)
			}
			p.detach(ctx, t)
			wantSame(ctx, t, c.q, before)
		})
	}
}

// TestThrottleFilters attaches a disk with two throttle groups of the VM, which remain after the detach. A
// group that the VM lacks is refused before the first change.
func TestThrottleFilters(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	group := func(name string, limit int) []string {
		return []string{"-object", fmt.Sprintf(`{"qom-type":"throttle-group","id":"throttle-%s","limits":{"iops-total":%d}}`, name, limit)}
	}
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true, Extra: append(group("disks", 100), group("all", 500)...)})
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	before := stateOf(ctx, t, q)

	p := newPlug(t, q, v, "sdb", "scsi", "<throttlefilters><throttlefilter group='disks'/><throttlefilter group='all'/></throttlefilters>")
	p.attach(ctx, t)
	reply := must.Get(q.Query(ctx, "query-named-block-nodes", map[string]any{"flat": true}))(t)
	var nodes []struct {
		Name string `json:"node-name"`
		File string
	}
	must.OK(t, json.Unmarshal(reply, &nodes))
	groups := map[string]string{}
	for _, n := range nodes {
		if _, options, ok := strings.Cut(n.File, "json:"); ok && strings.Contains(n.Name, "-filter") {
			var o struct {
				Group string `json:"throttle-group"`
			}
			must.OK(t, json.Unmarshal([]byte(options), &o))
			groups[n.Name] = o.Group
		}
	}
	if groups["luksplug-sdb-filter0"] != "throttle-disks" || groups["luksplug-sdb-filter1"] != "throttle-all" {
		t.Errorf("QEMU has the filters %v", groups)
	}
	p.detach(ctx, t)
	wantSame(ctx, t, q, before)

	p = newPlug(t, q, v, "sdb", "scsi", "<throttlefilters><throttlefilter group='none'/></throttlefilters>")
	tool(ctx, t, q.Socket, p.attachArgs()...).want(t, 5).wantStderr(t, "throttle group 'none' not found")
	wantSame(ctx, t, q, before)
}

// TestThreadsAndQueues has I/O threads of the VM serve the queues of a disk that the guest uses.
func TestThreadsAndQueues(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := booted(ctx, t, peer.Options{RootPorts: 2, Extra: []string{"-object", "iothread,id=iothread1", "-object", "iothread,id=iothread2"}})
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	before := stateOf(ctx, t, q)
	for _, c := range []struct {
		name, driver string
		properties   map[string]string
	}{
		{"one thread", "iothread='2' queues='3' queue_size='128' event_idx='off' packed='on'/>",
			map[string]string{"num-queues": "3", "queue-size": "128", "event_idx": "false", "packed": "true", "iothread": `"/objects/iothread2"`}},
		{"any thread", "><iothreads><iothread id='1'/><iothread id='2'/></iothreads></driver>",
			map[string]string{"iothread-vq-mapping": `[{"iothread": "iothread1"}, {"iothread": "iothread2"}]`}},
		{"a thread for each queue", "queues='3'><iothreads><iothread id='1'><queue id='0'/><queue id='2'/></iothread><iothread id='2'><queue id='1'/></iothread></iothreads></driver>",
			map[string]string{"iothread-vq-mapping": `[{"vqs": [0, 2], "iothread": "iothread1"}, {"vqs": [1], "iothread": "iothread2"}]`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlug(t, q, v, "vdb", "virtio", "")
			p.xml = writeFile(t, "vdb.xml", strings.Replace(serialXML(t, v.DiskXML("vdb", "virtio"), "source"), "type='"+v.Format+"'/>", "type='"+v.Format+"' "+c.driver, 1))
			p.attach(ctx, t)
			wantProperties(ctx, t, q, "luksplug-vdb", c.properties)
			p.detach(ctx, t)
			writeThrough(ctx, t, q, v, p.xml)
			wantSame(ctx, t, q, before)
		})
	}
	p := newPlug(t, q, v, "vdb", "virtio", "")
	p.xml = writeFile(t, "vdb.xml", strings.Replace(serialXML(t, v.DiskXML("vdb", "virtio"), "source"), "type='"+v.Format+"'/>", "type='"+v.Format+"' iothread='7'/>", 1))
	tool(ctx, t, q.Socket, p.attachArgs()...).want(t, 5).wantStderr(t, "iothread '7' is not defined")
}

// TestAppearance checks a disk's properties in the guest, and its position in the boot order.
func TestAppearance(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{SCSI: true, Machine: peer.I440FX, Paused: true, Extra: []string{"-device", "qemu-xhci"}})
	before := stateOf(ctx, t, q)
	for _, c := range []struct {
		target, bus, onTarget, extra string
		properties                   map[string]string
	}{
		{"sdb", "scsi", "removable='on' rotation_rate='7200' dpofua='on'", `<wwn>5000c50015ea71ad</wwn><boot order='3'/><vendor>MAKER</vendor><product>THING 1</product>
			<blockio logical_block_size='4096' physical_block_size='4096'/>`, map[string]string{"removable": "true", "rotation_rate": "7200", "dpofua": "true",
			"bootindex": "3", "vendor": `"MAKER"`, "product": `"THING 1"`, "wwn": "5764824127192592813", "logical_block_size": "4096"}},
		{"sdc", "usb", "removable='on'", "<boot order='4'/>", map[string]string{"removable": "true", "bootindex": "4"}},
	} {
		t.Run(c.bus, func(t *testing.T) {
			p := newPlug(t, q, peer.NewVolume(t, peer.EmbeddedLUKS), c.target, c.bus, c.extra)
			p.xml = writeFile(t, "disk.xml", strings.Replace(string(must.Get(os.ReadFile(p.xml))(t)), "<target ", "<target "+c.onTarget+" ", 1))
			p.attach(ctx, t)
			wantProperties(ctx, t, q, "luksplug-"+c.target, c.properties)
			p.detach(ctx, t)
			wantSame(ctx, t, q, before)
		})
	}
}

// sameJSON reports whether two JSON texts have equal values.
func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y any
	if err := errors.Join(json.Unmarshal([]byte(a), &x), json.Unmarshal([]byte(b), &y)); err != nil {
		t.Fatalf("%q or %q is not JSON: %v", a, b, err)
	}
	return reflect.DeepEqual(x, y)
}
