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

// interrupted: the program gets SIGINT while QEMU works on the step.
func (f *faulty) interrupted(ctx context.Context, t *testing.T, n int) {
	b := newBackground()
	r, hit := f.held(ctx, t, n, b, func() {
		<-b.started
		_ = b.cmd.Process.Signal(os.Interrupt) // the exit code shows whether it arrived
	}, f.attachArgs()...)
	if !hit {
		t.Fatalf("the program did not reach step %d: %s", n, r.stderr)
	}
	f.wantRolledBack(ctx, t, r, ": interrupted", f.steps[n-1].subject)
}

// timedOut: the --timeout expires while QEMU works on the step.
func (f *faulty) timedOut(ctx context.Context, t *testing.T, n int) {
	here := fmt.Sprintf("step %d of %d", n, len(f.steps))
	// On a busy machine it may expire before the step; then it was too short.
	for timeout := 250 * time.Millisecond; ; timeout *= 2 {
		r, _ := f.held(ctx, t, n, newBackground(), func() {}, append([]string{"--timeout", timeout.String()}, f.attachArgs()...)...)
		if diff := f.before.Diff(stateOf(ctx, t, f.q)); len(diff) > 0 {
			t.Fatalf("exit code %d, and the VM is not as it was before: %q\n%s", r.code, diff, r.stderr)
		}
		if strings.Contains(r.stderr, here) {
			f.wantRolledBack(ctx, t, r, "the time limit of", "has passed", f.steps[n-1].subject)
			return
		}
		if ctx.Err() != nil || timeout > time.Minute {
			t.Fatalf("no time-out hit %s: exit code %d, %s", here, r.code, r.stderr)
		}
	}
}

// held runs the program and delays step n until the program has stopped waiting for it. It also reports
// whether the program reached the step.
func (f *faulty) held(ctx context.Context, t *testing.T, n int, b *background, giveUp func(), args ...string) (result, bool) {
	t.Helper()
	var hit atomic.Bool
	proxy := peer.NewProxy(t, f.q.Socket, peer.ProxyHooks{Command: func(c peer.Command) peer.Verdict {
		// In a program that failed earlier, the n-th change undoes something.
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

// detachFaults runs the faults at each step of a detach. first varies the point of the cut, so that several
// volumes cover all points at all steps.
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
			return // the VM cannot be used for further steps
		}
	}
}

// distinct leaves repeated changes out: while the guest has not answered, device_del is sent again, a number
// of times that depends on the machine's load. The remaining steps are the same in every run.
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
	// After its last reply the program does not reconnect.
	if c := proxy.Connections(); c < 2 && where != peer.CutAfterReply {
		t.Errorf("%d connections: there was no cut", c)
	}
}

// refusedDetach: QEMU fails the step. The program tries again if that can help; otherwise the next run
// finishes.
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

// finishes runs detach again after an incomplete one.
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
	q := booted(ctx, t, peer.Options{RootPorts: 2, SCSI: true})
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
			requests := 0
			for _, s := range proxy.Steps() {
				if s == "device_del" {
					requests++
				}
			}
			if requests < 2 {
				t.Errorf("the program did not repeat the request: %v", proxy.Steps())
			}
		})
	}
}

// TestFaultsCutOff: the connection is lost permanently during an attach. The program names the possible
// leftovers, and repair removes them.
func TestFaultsCutOff(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{RootPorts: 2, Paused: true})
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
