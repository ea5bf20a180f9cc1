package integration

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/luksplug/luksplug/integration/internal/peer"
)

// interrupted: the user presses ^C while QEMU works on the step.
func (f *faulty) interrupted(ctx context.Context, t *testing.T, n int) {
	b := newBackground()
	r, hit := f.held(ctx, t, n, b, func() {
		<-b.started
		_ = b.cmd.Process.Signal(os.Interrupt) // that it was is seen by how the program ends
	}, f.attachArgs()...)
	if !hit {
		t.Fatalf("the program never came to step %d: %s", n, r.stderr)
	}
	f.wantRolledBack(ctx, t, r, "context canceled", f.steps[n-1].subject)
}

// timedOut: the time of --timeout ends while QEMU works on the step.
func (f *faulty) timedOut(ctx context.Context, t *testing.T, n int) {
	here := fmt.Sprintf("step %d of %d", n, len(f.steps))
	// On a machine that is busy it may end before the step; then it was too short.
	for timeout := 250 * time.Millisecond; ; timeout *= 2 {
		r, _ := f.held(ctx, t, n, newBackground(), func() {}, append([]string{"--timeout", timeout.String()}, f.attachArgs()...)...)
		if diff := f.before.Diff(stateOf(ctx, t, f.q)); len(diff) > 0 {
			t.Fatalf("exit code %d, and the VM is not as it was before: %q\n%s", r.code, diff, r.stderr)
		}
		if strings.Contains(r.stderr, here) {
			f.wantRolledBack(ctx, t, r, "deadline exceeded", f.steps[n-1].subject)
			return
		}
		if ctx.Err() != nil || timeout > time.Minute {
			t.Fatalf("no time-out hit %s: exit code %d, %s", here, r.code, r.stderr)
		}
	}
}

// held runs the program and holds step n back from QEMU until the program has given up waiting for it. It
// also reports whether the program came that far.
func (f *faulty) held(ctx context.Context, t *testing.T, n int, b *background, giveUp func(), args ...string) (result, bool) {
	t.Helper()
	var hit atomic.Bool
	proxy := peer.NewProxy(t, f.q.Socket, peer.ProxyHooks{Command: func(c peer.Command) peer.Verdict {
		// The n-th change of a program that gave up earlier takes something back.
		if c.Step == n && c.Name == f.steps[n-1].command {
			hit.Store(true)
			giveUp()
			b.said(ctx, gaveUp)
		}
		return peer.Verdict{}
	}})
	b.start(t, program(ctx, proxy.Address, args...))
	return b.result(t), hit.Load()
}

// detachFaults goes through what can happen at each step of a detach. first varies the place of the cut, so
// that several volumes cover all places at all steps.
func (f *faulty) detachFaults(ctx context.Context, t *testing.T, first int) {
	f.attach(ctx, t)
	steps := distinct(changesOf(ctx, t, f.q, "detach", f.target))
	wantSame(ctx, t, f.q, f.before)
	cuts := []peer.Cut{peer.CutBeforeForward, peer.CutBeforeReply, peer.CutAfterReply}
	for n := 1; n <= len(steps); n++ {
		where := cuts[(first+n)%len(cuts)]
		t.Run(fmt.Sprintf("%d %s/cut", n, steps[n-1].command), func(t *testing.T) { f.cutDetach(ctx, t, n, where) })
		t.Run(fmt.Sprintf("%d %s/refused by QEMU", n, steps[n-1].command), func(t *testing.T) { f.refusedDetach(ctx, t, n) })
		if n < len(steps) { // after the last there is nothing to finish
			t.Run(fmt.Sprintf("%d %s/killed", n, steps[n-1].command), func(t *testing.T) {
				f.attach(ctx, t)
				f.kill(ctx, t, n, "detach", f.target)
				f.finishes(ctx, t)
			})
		}
		if t.Failed() {
			return // the VM is in no state to go on with
		}
	}
}

// distinct leaves repeated changes out: device_del is sent again while the guest has not answered, as often
// as the load of the machine makes it. Only a step that every run has can be counted on.
func distinct(changes []change) []change {
	var out []change
	for _, c := range changes {
		if !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out
}

// cutDetach: the connection is lost around the step, and can be opened again.
func (f *faulty) cutDetach(ctx context.Context, t *testing.T, n int, where peer.Cut) {
	f.attach(ctx, t)
	proxy := peer.NewProxy(t, f.q.Socket, peer.CutAtStep(n, where))
	tool(ctx, t, proxy.Address, "detach", f.target).want(t, 0)
	wantSame(ctx, t, f.q, f.before)
	// After its last reply the program needs no connection any more.
	if c := proxy.Connections(); c < 2 && where != peer.CutAfterReply {
		t.Errorf("%d connections: there was no cut", c)
	}
}

// refusedDetach: QEMU fails the step. The program tries again where that can help; otherwise the next run
// does.
func (f *faulty) refusedDetach(ctx context.Context, t *testing.T, n int) {
	f.attach(ctx, t)
	proxy := peer.NewProxy(t, f.q.Socket, peer.FailStep(n))
	r := tool(ctx, t, proxy.Address, "detach", f.target)
	wantRefusal(t, proxy)
	if r.code == 0 {
		wantSame(ctx, t, f.q, f.before)
		return
	}
	r.wantStderr(t, peer.InjectedFault)
	f.finishes(ctx, t)
}

// finishes runs detach again after one that did not come to its end.
func (f *faulty) finishes(ctx context.Context, t *testing.T) {
	t.Helper()
	if _, there := listed(ctx, t, f.q)[f.target]; there {
		f.detach(ctx, t)
	}
	wantSame(ctx, t, f.q, f.before)
}

// TestFaultsSwallowedEvent: the event that the guest has released the device never arrives.
func TestFaultsSwallowedEvent(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := booted(ctx, t, peer.Options{RootPorts: 1, SCSI: true})
	v := peer.NewVolume(t, peer.DetachedRaw)
	for bus, target := range map[string]string{"virtio": "vdb", "scsi": "sdb"} {
		t.Run(bus, func(t *testing.T) {
			p := newPlug(t, q, v, target, bus, "")
			before := stateOf(ctx, t, q)
			p.attach(ctx, t)
			var swallowed atomic.Int32
			proxy := peer.NewProxy(t, q.Socket, peer.ProxyHooks{Event: func(e peer.Event) bool {
				if e.Name == "DEVICE_DELETED" {
					swallowed.Add(1)
				}
				return e.Name != "DEVICE_DELETED"
			}})
			tool(ctx, t, proxy.Address, "detach", p.target).want(t, 0)
			wantSame(ctx, t, q, before)
			if swallowed.Load() == 0 {
				t.Error("QEMU sent no event to swallow")
			}
			if steps := proxy.Steps(); len(steps) < 2 || !slices.Equal(steps[:2], []string{"device_del", "device_del"}) {
				t.Errorf("the program did not ask again: %v", steps)
			}
		})
	}
}

// TestFaultsCutOff: the connection is lost for good during an attach. The program says what may be left, and
// repair removes it.
func TestFaultsCutOff(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{RootPorts: 1, Paused: true})
	p := newPlug(t, q, peer.NewVolume(t, peer.DetachedRaw), "vdb", "virtio", "")
	before := stateOf(ctx, t, q)
	hooks := peer.CutAtStep(6, peer.CutBeforeReply)
	hooks.Connect = func(n int) bool { return n == 1 }
	proxy := peer.NewProxy(t, q.Socket, hooks)
	r := tool(ctx, t, proxy.Address, p.attachArgs()...).want(t, 7)
	wantTexts(t, "the error", failure(r), []string{"possibly left behind", "luksplug repair", "luksplug-vdb-header-storage", "luksplug-vdb-payload-storage", "luksplug-vdb-secret0", "luksplug-vdb-luks"})
	tool(ctx, t, q.Socket, "repair").want(t, 0)
	wantSame(ctx, t, q, before)
}
