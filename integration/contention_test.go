package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// secondMonitor returns QEMU's arguments for another monitor, and its socket.
func secondMonitor(t *testing.T) (socket string, args []string) {
	t.Helper()
	socket = filepath.Join(shortDir(t, ""), "qmp.sock")
	return socket, []string{"-chardev", "socket,id=second,server=on,wait=off,path=" + socket, "-mon", "chardev=second,mode=control"}
}

// journal records which run changed something in QEMU, in chronological order.
type journal struct {
	mu      sync.Mutex
	entries []string
}

// of returns the function that records the commands of who.
func (j *journal) of(who string) func(peer.Command) {
	return func(c peer.Command) {
		if c.Step > 0 {
			j.mu.Lock()
			defer j.mu.Unlock()
			j.entries = append(j.entries, who)
		}
	}
}

// turns returns the journal without repetitions: an uninterrupted run is one entry.
func (j *journal) turns() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Compact(slices.Clone(j.entries))
}

// TestTwoRunsNeverInterleave: two runs on one VM wait for each other, and a wait that is too long is a
// refusal.
func TestTwoRunsNeverInterleave(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	socket, args := secondMonitor(t)
	q := peer.Start(t, peer.Options{Paused: true, RootPorts: 4, Extra: args})
	q.AlsoAt(socket)
	var wrote journal
	one, held := gated(ctx, t, q.Socket, wrote.of("one"))
	two := peer.NewProxy(t, socket, peer.ProxyHooks{Command: func(c peer.Command) peer.Verdict {
		wrote.of("two")(c)
		return peer.Verdict{}
	}})
	attach := func(target string) []string {
		v := peer.NewVolume(t, peer.DetachedRaw)
		return attachArgs(t, v, v.DiskXML(target, "virtio"))
	}

	vdb, vdc := attach("vdb"), attach("vdc")
	first := start(ctx, t, one.Address, vdb...)
	held.wait(t, first)
	// The first run is in progress now.
	refused := tool(ctx, t, two.Address, append([]string{"--timeout", "1s"}, vdc...)...).want(t, 5)
	who := fmt.Sprintf("process %d", first.cmd.Process.Pid)
	refused.wantStderr(t, "luksplug: waiting for another luksplug run on this VM ("+who+")\n", "the VM is locked by "+who, "try again")
	tool(ctx, t, two.Address, "list").want(t, 0) // only reads, and does not wait
	if steps := two.Steps(); len(steps) > 0 {
		t.Errorf("the locked-out runs sent %v", steps)
	}
	second := start(ctx, t, two.Address, vdc...)
	second.waitStderr(ctx, t, "waiting for another luksplug run")
	held.open()
	first.end(ctx, t).want(t, 0)
	second.end(ctx, t).want(t, 0)
	if got := wrote.turns(); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("turns %v", got)
	}

	vdd, vde := attach("vdd"), attach("vde")
	first, second = start(ctx, t, one.Address, vdd...), start(ctx, t, two.Address, vde...)
	first.end(ctx, t).want(t, 0)
	second.end(ctx, t).want(t, 0)
	// In either order each has one turn; "two" may continue that from above.
	if got := wrote.turns(); len(got) > 4 {
		t.Errorf("turns %v", got)
	}
	disks := disksIn[struct{ Target, State string }](t, tool(ctx, t, q.Socket, "list", "--output", "json"))
	if got := fmt.Sprint(disks); got != "[{vdb attached} {vdc attached} {vdd attached} {vde attached}]" {
		t.Errorf("disks %s", got)
	}
}

// TestLockEndsWithItsHolder: killing a run releases its lock.
func TestLockEndsWithItsHolder(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	socket, args := secondMonitor(t)
	q := peer.Start(t, peer.Options{Paused: true, RootPorts: 2, Extra: args})
	q.AlsoAt(socket)
	before := stateOf(ctx, t, q)
	var wrote journal
	proxy, held := gated(ctx, t, q.Socket, wrote.of("first"))
	v := peer.NewVolume(t, peer.DetachedRaw)
	first := start(ctx, t, proxy.Address, attachArgs(t, v, v.DiskXML("vdb", "virtio"))...)
	held.wait(t, first)
	must.OK(t, first.cmd.Process.Kill())
	<-first.ended
	held.drop()
	got := tool(ctx, t, socket, "repair").want(t, 0)
	if strings.Contains(got.stderr, "waiting") {
		t.Errorf("waited for a killed run: %s", got.stderr)
	}
	wantSame(ctx, t, q, before)
}

// TestMonitorHeld: QEMU's monitor serves one client at a time, and does not answer another.
func TestMonitorHeld(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Paused: true, RootPorts: 2})
	holder := must.Get(peer.DialMonitor(ctx, q.Socket))(t)
	defer func() { _ = holder.Close() }() // at the latest
	v := peer.NewVolume(t, peer.DetachedRaw)
	disk := attachArgs(t, v, v.DiskXML("vdb", "virtio"))
	got := tool(ctx, t, q.Socket, append([]string{"--timeout", "3s"}, disk...)...).want(t, 1)
	got.wantStderr(t, "waiting for the monitor "+q.Socket, "another client")
	if last := failure(got); !strings.HasPrefix(last, "luksplug: ") || !strings.Contains(last, "another client") {
		t.Errorf("the error does not say why: %s", last)
	}

	waiting := start(ctx, t, q.Socket, disk...)
	waiting.waitStderr(ctx, t, "waiting for the monitor")
	must.OK(t, holder.Close())
	waiting.end(ctx, t).want(t, 0)
}

// TestHeldWaitEndsOnSignal: an interrupted wait leaves the VM unchanged.
func TestHeldWaitEndsOnSignal(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	socket, args := secondMonitor(t)
	q := peer.Start(t, peer.Options{Paused: true, RootPorts: 2, Extra: args})
	q.AlsoAt(socket)
	before := stateOf(ctx, t, q)
	var wrote journal
	proxy, held := gated(ctx, t, q.Socket, wrote.of("first"))
	v, other := peer.NewVolume(t, peer.DetachedRaw), peer.NewVolume(t, peer.DetachedRaw)
	first := start(ctx, t, proxy.Address, append([]string{"-v"}, attachArgs(t, v, v.DiskXML("vdb", "virtio"))...)...)
	held.wait(t, first)
	second := start(ctx, t, socket, attachArgs(t, other, other.DiskXML("vdc", "virtio"))...)
	second.waitStderr(ctx, t, "waiting for another luksplug run")
	must.OK(t, second.cmd.Process.Signal(os.Interrupt))
	second.end(ctx, t).want(t, 5)
	// The first run is interrupted during a command, and undoes it.
	must.OK(t, first.cmd.Process.Signal(os.Interrupt))
	first.waitStderr(ctx, t, "signal received") // otherwise it could finish before it handles the signal
	held.open()
	first.end(ctx, t).want(t, 6).wantStderr(t, "the VM is as it was before")
	wantSame(ctx, t, q, before)
}
