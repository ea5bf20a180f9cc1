package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/qmp"
)

// letters returns the n-th target: vdaaaa and so on.
func letters(n int) string {
	out := []byte("vdaaaa")
	for i := len(out) - 1; n > 0; i-- {
		out[i], n = byte('a'+n%26), n/26
	}
	return string(out)
}

// crowded is the state of a QEMU that lists n nodes of n disks, n drives, objects and descriptor sets; or, if one is
// true, all of one disk.
func crowded(n int, one bool) *State {
	s := &State{Objects: map[string]string{}, Devices: map[string]string{}, Chardevs: map[string]string{}}
	for i := range n {
		name := blockgraph.Name(letters(i), blockgraph.RoleLUKS)
		if one {
			name = blockgraph.Name("vdb", blockgraph.Role(fmt.Sprintf("luks%d", i)))
		}
		s.Nodes = append(s.Nodes, Node{Name: name})
		s.Drives = append(s.Drives, Drive{Path: fmt.Sprintf("%sdevice%d", Peripheral, i), Node: name})
		s.Objects[name] = "secret"
		s.FDSets = append(s.FDSets, FDSet{ID: blockgraph.FirstFDSet + int64(i)})
	}
	slices.Reverse(s.Drives)
	return s
}

// work returns the processor time of n runs, garbage collection included.
func work(n int, f func()) time.Duration {
	used := func() time.Duration {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // fails for another argument only
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	begin := used()
	for range n {
		f()
	}
	return used() - begin
}

// TestStateIsLinear: a state with 64 times as many nodes takes about as much work as 64 of the smaller states, and not
// 64 times that, whatever a QEMU lists. There is room for the processor's caches.
func TestStateIsLinear(t *testing.T) {
	const small, factor, room = 1_250, 64, 20
	for name, one := range map[string]bool{"a disk for each node": false, "one disk": true} {
		for what, use := range map[string]func(*State){
			"Disks": func(s *State) { s.Disks() },
			"Throttling": func(s *State) {
				d := &AttachedDisk{}
				for _, n := range s.Nodes {
					d.Nodes = append(d.Nodes, n.Name+"x")
				}
				s.Throttling(d)
			},
			"FreeFDSet": func(s *State) { s.FreeFDSet() },
		} {
			few, many := crowded(small, one), crowded(factor*small, one)
			a, b := work(factor, func() { use(few) }), work(1, func() { use(many) })
			if b > room*max(a, time.Millisecond) {
				t.Errorf("%s, %s: %s for %d times %d nodes, %s for %d", name, what, a, factor, small, b, factor*small)
			}
		}
	}
}

// TestDisksOfManyNodes: the disks are those that the names say, with the device that uses the first of their nodes.
func TestDisksOfManyNodes(t *testing.T) {
	t.Parallel()
	disks := crowded(200_000, false).Disks()
	if len(disks) != 200_000 || disks[1].Target != "vdaaab" || disks[1].Device != "device1" || len(disks[1].Left()) != 3 {
		t.Errorf("%d disks, %+v", len(disks), disks[1])
	}
	disks = crowded(1000, true).Disks()
	if len(disks) != 1 || disks[0].Device != "device999" || len(disks[0].Nodes) != 1000 {
		t.Errorf("%+v", disks)
	}
}

// TestNamesOfOptionsAreBounded: a name of an image that is longer than QEMU's is not parsed, since nested options take
// the square of its length.
func TestNamesOfOptionsAreBounded(t *testing.T) {
	t.Parallel()
	deep := "json:" + strings.Repeat(`{"a":`, 9000) + "1" + strings.Repeat("}", 9000)
	if o := ParseOptions(deep); o != nil {
		t.Error("it was parsed")
	}
	if ImageName(deep) != deep {
		t.Error("it has another name")
	}
}

// scsiBusOf answers for a SCSI controller with many units. It counts the commands at once, and ends ctx after some.
type scsiBusOf struct {
	units  int
	atOnce int
	asked  int
	cancel context.CancelFunc
}

func (b *scsiBusOf) Query(ctx context.Context, commands ...qmp.Command) ([]json.RawMessage, error) {
	return monitor.Values(b.QueryEach(ctx, commands...))
}

func (b *scsiBusOf) QueryEach(ctx context.Context, commands ...qmp.Command) []qmp.Result {
	b.atOnce = max(b.atOnce, len(commands))
	if b.asked += len(commands); b.asked > 10_000 {
		b.cancel()
	}
	out := make([]qmp.Result, len(commands))
	for i, c := range commands {
		property, _ := c.Arguments.Get("property").(string)
		switch {
		case ctx.Err() != nil:
			out[i].Err = ctx.Err()
		case c.Execute == "qom-list":
			out[i].Value = json.RawMessage(`[` + strings.Repeat(`{"name":"child[0]","type":"link<x>"},`, b.units-1) + `{"name":"child[0]","type":"link<x>"}]`)
		case strings.HasPrefix(property, "child["):
			out[i].Value = json.RawMessage(`"/machine/x"`)
		default:
			out[i].Value = json.RawMessage("1")
		}
	}
	return out
}

// TestUnitsOfManyLinks: the units of a controller are queried in batches, because each answer may be as long as the
// monitor's bound, and only until the context ends.
func TestUnitsOfManyLinks(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	bus := &scsiBusOf{units: 200_000, cancel: cancel}
	if _, err := scsiUnits(ctx, bus, "/bus"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if bus.atOnce > 2*linksAtOnce || bus.asked > 11_000 {
		t.Errorf("%d commands at once, %d in all", bus.atOnce, bus.asked)
	}
	units, err := scsiUnits(context.Background(), &scsiBusOf{units: 100, cancel: cancel}, "/bus")
	if err != nil || len(units) != 100 || units[99] != (blockgraph.SCSIUnit{Target: 1, LUN: 1}) {
		t.Errorf("%d units, %v", len(units), err)
	}
}
