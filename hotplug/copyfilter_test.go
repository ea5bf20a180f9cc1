package hotplug_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/internal/must"
)

// vmWith is vm with further arguments for QEMU, by a relay.
func vmWith(ctx context.Context, t *testing.T, rewrite func([]byte) []byte, run string, arguments ...string) *hotplug.VM {
	t.Helper()
	socket, pid := qemuAt(t, arguments...)
	if rewrite != nil {
		socket = newRelay(t, socket, rewrite).address
		run = must.Dir(t, "/dev/shm")
	}
	v := must.Get(hotplug.Connect(ctx, dialer(socket), hotplug.Options{RunDir: run, LockDir: t.TempDir(),
		Process: func(context.Context) (*hotplug.Process, error) { return hotplug.LookUpProcess(pid) }}))(t)
	t.Cleanup(func() { _ = v.Close() })
	return v
}

// throttled are arguments that give a VM two throttle groups.
var throttled = []string{"-object", "throttle-group,id=throttle-slow,x-iops-total=100000", "-object", "throttle-group,id=throttle-slower,x-bps-total=1000000000"}

// filterDisk returns a disk with nodes over its image.
func filterDisk(t *testing.T, copyOnRead bool, groups ...string) *blockgraph.Disk {
	t.Helper()
	disk := luksDisk(t, "sdb")
	disk.CopyOnRead, disk.ThrottleFilters = copyOnRead, groups
	return disk
}

// chainOf returns the first nodes from a disk's device down.
func chainOf(ctx context.Context, t *testing.T, v *hotplug.VM, n int) []string {
	t.Helper()
	var graph struct {
		Nodes []struct {
			ID   uint64
			Name string
		}
		Edges []struct {
			Parent, Child uint64
			Name          string
		}
	}
	must.OK(t, json.Unmarshal(must.Get(v.Client().Execute(ctx, command("x-debug-query-block-graph")))(t), &graph))
	names, children := map[uint64]string{}, map[string]string{}
	for _, n := range graph.Nodes {
		names[n.ID] = n.Name
	}
	for _, e := range graph.Edges {
		if e.Name != "header" {
			children[names[e.Parent]] = names[e.Child]
		}
	}
	var out []string
	for at := "luksplug-sdb"; len(out) < n; {
		if at = children[at]; at == "" {
			break
		}
		out = append(out, at)
	}
	return out
}

// TestCopyFilters: a disk with throttle filters and copy-on-read is copied there and back below these, is listed, compared and
// detached like one that was attached so, and keeps them.
func TestCopyFilters(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cor    bool
		groups []string
		over   []string // the nodes
	}{
		"throttle":         {false, []string{"slow"}, []string{"luksplug-sdb-filter0"}},
		"two filters":      {false, []string{"slow", "slower"}, []string{"luksplug-sdb-filter1", "luksplug-sdb-filter0"}},
		"copy-on-read":     {true, nil, []string{"luksplug-sdb-cor"}},
		"all of the above": {true, []string{"slow", "slower"}, []string{"luksplug-sdb-filter1", "luksplug-sdb-filter0", "luksplug-sdb-cor"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			run := t.TempDir()
			v := vmWith(ctx, t, nil, run, throttled...)
			before := state(ctx, t, v)
			first, second := filterDisk(t, c.cor, c.groups...), filterDisk(t, c.cor, c.groups...)
			must.Get(v.Attach(ctx, first, store(key), hotplug.AttachOptions{}))(t)
			disks := []*blockgraph.Disk{first, second}
			luks := []string{"luksplug-sdb-luks", "luksplug.sdb-luks"}
			for i := range 2 {
				from, to := disks[i], disks[1-i]
				attached := state(ctx, t, v)
				must.OK(t, v.StartCopy(ctx, "sdb", to, store(key), hotplug.CopyOptions{}))
				d := inStep(ctx, t, v, "sdb").Disk
				if !slices.Equal(d.Nodes[:len(c.over)+1], append(slices.Clone(c.over), luks[i])) || d.Payload != from.Image.Source.Path || d.Copy.Nodes[0] != luks[1-i] || d.Device != "luksplug-sdb" {
					t.Errorf("copy %d: %v to %v", i, d.Nodes, d.Copy.Nodes)
				}
				if removed := must.Get(v.Repair(ctx))(t); len(removed) != 0 {
					t.Errorf("repair has removed %+v", removed)
				}
				if again, err := v.Attach(ctx, from, store(key), hotplug.AttachOptions{}); err != nil || !again.Already {
					t.Errorf("attached again during copy %d: %v", i, err)
				}
				if reflect.DeepEqual(attached, state(ctx, t, v)) {
					t.Error("no copy is there")
				}
				if from == first {
					must.OK(t, v.CancelCopy(ctx, "sdb"))
					if after := state(ctx, t, v); !reflect.DeepEqual(attached, after) {
						t.Errorf("canceled: before %+v\nafter  %+v", attached, after)
					}
					must.OK(t, v.StartCopy(ctx, "sdb", to, store(key), hotplug.CopyOptions{}))
					inStep(ctx, t, v, "sdb")
				}
				switched := must.Get(v.SwitchCopy(ctx, "sdb", hotplug.Switch{}))(t)
				if switched.Payload != to.Image.Source.Path || switched.Instance == "" || slices.Contains(switched.Old, "node "+c.over[0]) {
					t.Errorf("switched to %+v", switched)
				}
				if got := chainOf(ctx, t, v, len(c.over)+1); !slices.Equal(got, append(slices.Clone(c.over), luks[1-i])) {
					t.Errorf("the device is over %v", got)
				}
				listed := must.Get(v.List(ctx))(t)
				if len(listed) != 1 || listed[0].Copy != nil || listed[0].Size != 8<<20 || listed[0].Bus != "scsi0.0" || listed[0].Unlock != blockgraph.MethodEphemeralHeader {
					t.Errorf("listed %+v", listed[0])
				}
				if again, err := v.Attach(ctx, to, store(key), hotplug.AttachOptions{}); err != nil || !again.Already {
					t.Errorf("attached again after copy %d: %v", i, err)
				}
				if _, err := v.Attach(ctx, from, store(key), hotplug.AttachOptions{}); !errors.Is(err, hotplug.ErrTargetTaken) {
					t.Errorf("the old volume: %v", err)
				}
				without := *to
				without.CopyOnRead, without.ThrottleFilters = false, nil
				if _, err := v.Attach(ctx, &without, store(key), hotplug.AttachOptions{}); !errors.Is(err, hotplug.ErrTargetTaken) {
					t.Errorf("without what is over the image: %v", err)
				}
				if c.groups != nil {
					regrouped := *to
					regrouped.ThrottleFilters = slices.Clone(c.groups)
					regrouped.ThrottleFilters[0] = "another"
					if _, err := v.Attach(ctx, &regrouped, store(key), hotplug.AttachOptions{}); !errors.Is(err, hotplug.ErrTargetTaken) {
						t.Errorf("in another throttle group: %v", err)
					}
				}
				if i == 0 { // the other instance is detached, too
					must.Get(v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}))(t)
					wantNothingLeft(ctx, t, v, before, run)
					must.Get(v.Attach(ctx, first, store(key), hotplug.AttachOptions{}))(t)
					must.OK(t, v.StartCopy(ctx, "sdb", second, store(key), hotplug.CopyOptions{}))
					inStep(ctx, t, v, "sdb")
					must.Get(v.SwitchCopy(ctx, "sdb", hotplug.Switch{}))(t)
				}
			}
			if guestData(t, first) != guestData(t, second) {
				t.Error("the volumes differ")
			}
			must.Get(v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}))(t)
			wantNothingLeft(ctx, t, v, before, run)
		})
	}
}

// TestCopyFiltersUnknown: a QEMU that does not report what is below a filter does not get a copy of such a disk.
func TestCopyFiltersUnknown(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v := vmWith(ctx, t, func(line []byte) []byte {
		var reply struct{ ID json.RawMessage }
		if bytes.Contains(line, []byte(`"edges": `)) && json.Unmarshal(line, &reply) == nil {
			return []byte(fmt.Sprintf(`{"id":%s,"error":{"class":"GenericError","desc":"disabled"}}`+"\n", reply.ID))
		}
		return line
	}, "", throttled...)
	for _, disk := range []*blockgraph.Disk{filterDisk(t, false, "slow"), filterDisk(t, true)} {
		must.Get(v.Attach(ctx, disk, store(key), hotplug.AttachOptions{Unlock: hotplug.UnlockQEMU}))(t)
		before := state(ctx, t, v)
		if err := v.StartCopy(ctx, "sdb", luksDisk(t, "sdb"), store(key), hotplug.CopyOptions{}); !errors.Is(err, hotplug.ErrUncopyable) || !strings.Contains(err.Error(), "disabled") {
			t.Errorf("%v", err)
		}
		if after := state(ctx, t, v); !reflect.DeepEqual(before, after) {
			t.Errorf("before %+v\nafter  %+v", before, after)
		}
		must.Get(v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}))(t)
	}
}

// TestCopyOnReadChain: a disk that copies what it reads from the images below is not copied.
func TestCopyOnReadChain(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, _ := vm(t, hotplug.Options{})
	dir := t.TempDir()
	must.Run(t, "", "qemu-img", "create", "-q", "-f", "raw", dir+"/base", "8M")
	must.Run(t, "", "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", dir+"/base", dir+"/top")
	disk := parse(t, "sdb", "qcow2", dir+"/top", "")
	disk.Image.Backing = &blockgraph.Image{Format: blockgraph.FormatRaw, Terminated: true, Source: blockgraph.Source{Kind: blockgraph.SourceFile, Path: dir + "/base"}}
	disk.CopyOnRead = true
	must.Get(v.Attach(ctx, disk, nil, hotplug.AttachOptions{}))(t)
	must.OK(t, os.WriteFile(dir+"/new", make([]byte, 8<<20), 0o600))
	if err := v.StartCopy(ctx, "sdb", parse(t, "sdb", "raw", dir+"/new", ""), nil, hotplug.CopyOptions{}); !errors.Is(err, hotplug.ErrUncopyable) {
		t.Errorf("%v", err)
	}
}
