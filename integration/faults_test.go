package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/passphrase"
)

// TestFaults makes every step of every plan fail with every fault, in a real QEMU whose guest answers: a disk
// is attached completely or not at all, in the VM and on the host. Every kind of volume is in two of the
// places, and every place has two kinds.
func TestFaults(t *testing.T) {
	t.Parallel()
	kinds := peer.VolumeKinds()
	for i, where := range places() {
		t.Run(where.name, func(t *testing.T) {
			inEveryRun(t, i)
			t.Parallel()
			testFaults(t, where, "auto", kinds[i]) // TestFaultsEverywhere covers the others
		})
	}
}

// TestFaultsEverywhere is TestFaults for each kind of volume in each place.
func TestFaultsEverywhere(t *testing.T) {
	peer.Long(t, "runs the faults of TestFaults three times more")
	t.Parallel()
	kinds := peer.VolumeKinds()
	for i, where := range places() {
		t.Run(where.name, func(t *testing.T) {
			t.Parallel()
			testFaults(t, where, "auto", kinds[(i+1)%len(kinds)], kinds[(i+2)%len(kinds)], kinds[(i+3)%len(kinds)])
		})
	}
}

// TestFaultsOfOtherWays is TestFaults with volumes unlocked by QEMU or a storage daemon.
func TestFaultsOfOtherWays(t *testing.T) {
	t.Parallel()
	q35, own := places()[0], places()[3]
	t.Run("by QEMU", func(t *testing.T) {
		peer.Long(t, "the same volume unlocked by QEMU; every run has the faults of a storage daemon")
		t.Parallel()
		testFaults(t, own, "qemu", peer.DetachedQcow2)
	})
	t.Run("by a storage daemon", func(t *testing.T) {
		t.Parallel()
		testFaults(t, q35, "external", peer.Qcow2LUKS)
	})
}

func testFaults(t *testing.T, where place, unlock string, kinds ...peer.VolumeKind) {
	q := booted(bounded(t), t, where.vm)
	for i, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			f := newFaulty(bounded(t), t, q, where, peer.NewVolume(t, kind), unlock, "")
			for n := range f.steps {
				name := fmt.Sprintf("%d %s", n+1, f.steps[n].command)
				if !t.Run(name, func(t *testing.T) { f.everyFault(bounded(t), t, n+1) }) {
					return // the VM cannot be used for further steps
				}
			}
			t.Run("detach", func(t *testing.T) { f.detachFaults(bounded(t), t, i) })
		})
	}
}

// everyFault runs the faults at step n of an attach.
func (f *faulty) everyFault(ctx context.Context, t *testing.T, n int) {
	for _, c := range []struct {
		name string
		test func(context.Context, *testing.T, int)
	}{
		{"refused by QEMU", f.refused},
		{"cut before QEMU has it", func(ctx context.Context, t *testing.T, n int) { f.cut(ctx, t, n, peer.CutBeforeForward) }},
		{"cut before the reply", func(ctx context.Context, t *testing.T, n int) { f.cut(ctx, t, n, peer.CutBeforeReply) }},
		{"cut after the reply", func(ctx context.Context, t *testing.T, n int) { f.cut(ctx, t, n, peer.CutAfterReply) }},
		{"cut for good", f.cutForGood},
		{"killed, then repaired", f.killedAndRepaired},
		{"interrupted", f.interrupted},
		{"timed out", f.timedOut},
	} {
		if !t.Run(c.name, func(t *testing.T) { c.test(ctx, t, n) }) {
			return
		}
	}
}

// refused: QEMU fails the step.
func (f *faulty) refused(ctx context.Context, t *testing.T, n int) {
	proxy := peer.NewProxy(t, f.q.Socket, peer.FailStep(n))
	r := tool(ctx, t, proxy.Address, f.attachArgs()...)
	f.wantRolledBack(ctx, t, r, peer.InjectedFault, fmt.Sprintf("step %d of %d", n, len(f.steps)), f.steps[n-1].subject)
	if warned := f.Kind == peer.Qcow2LUKS && f.unlock == "auto"; !warned && strings.Count(r.stderr, "\n") != 1 {
		t.Errorf("standard error is not one line: %q", r.stderr)
	}
	wantRefusal(t, proxy)
}

// wantRefusal checks that QEMU itself refused the command.
func wantRefusal(t *testing.T, proxy *peer.Proxy) {
	t.Helper()
	sent, answered := 0, 0
	for _, r := range proxy.Records() {
		switch hit := strings.Contains(string(r.Bytes), peer.InjectedFault); {
		case hit && r.FromQEMU && strings.Contains(string(r.Bytes), `"error"`):
			answered++
		case hit && !r.FromQEMU:
			sent++
		}
	}
	if sent != 1 || answered != 1 {
		t.Errorf("the fault was sent %d times and refused %d times", sent, answered)
	}
}

// cut: the connection is lost around the step, and can be opened again.
func (f *faulty) cut(ctx context.Context, t *testing.T, n int, where peer.Cut) {
	proxy := peer.NewProxy(t, f.q.Socket, peer.CutAtStep(n, where))
	r := tool(ctx, t, proxy.Address, f.attachArgs()...)
	f.wantEither(ctx, t, r)
	if c := proxy.Connections(); c < 2 {
		t.Errorf("%d connections: there was no cut", c)
	}
}

// cutForGood: the connection is lost after the step and cannot be opened again. The program would wait for
// seconds, so the library is called, with a shorter wait; TestFaultsCutOff runs the program. A later run
// converges.
func (f *faulty) cutForGood(ctx context.Context, t *testing.T, n int) {
	hooks := peer.CutAtStep(n, peer.CutBeforeReply)
	hooks.Connect = func(n int) bool { return n == 1 }
	proxy := peer.NewProxy(t, f.q.Socket, hooks)
	err := f.attachByLibrary(ctx, t, proxy.Address, 50*time.Millisecond)
	var left *hotplug.LeftBehindError
	if !errors.As(err, &left) || !left.Unverified {
		t.Fatalf("the attach ended with %v", err)
	}
	for _, c := range f.after(n) {
		if !slices.ContainsFunc(left.Left, func(part string) bool { return strings.HasSuffix(part, " "+c.subject) }) {
			t.Errorf("%s is left over and not named: %v", c.subject, err)
		}
	}
	if n < len(f.steps) {
		f.wantHeld(ctx, t, "leftover", f.parts(f.after(n)))
	}
	f.converges(ctx, t, n)
}

// converges runs attach again, without faults, after n completed steps.
func (f *faulty) converges(ctx context.Context, t *testing.T, n int) {
	t.Helper()
	report := f.attach(ctx, t)
	if complete := n == len(f.steps); report.Already != complete {
		t.Errorf("after %d of %d steps: already attached is %v", n, len(f.steps), report.Already)
	}
	if !report.Already && len(report.Cleared) != len(f.parts(f.after(n))) {
		t.Errorf("cleared %v, and %v was left", report.Cleared, f.after(n))
	}
	f.wantAttached(ctx, t)
	f.gone(ctx, t)
}

// attachByLibrary attaches the disk by the library.
func (f *faulty) attachByLibrary(ctx context.Context, t *testing.T, address string, recovery time.Duration) error {
	t.Helper()
	xml := must.Get(os.ReadFile(f.xml))(t)
	disk := must.Get(diskxml.ParseDisk(xml))(t)
	vm := must.Get(hotplug.Connect(ctx, func(ctx context.Context) (*qmp.Client, error) { return qmp.Dial(ctx, address) },
		hotplug.Options{Recovery: recovery, LockDir: t.TempDir(), Process: func(context.Context) (*hotplug.Process, error) {
			return hotplug.LookUpProcess(f.q.PID)
		}}))(t)
	defer func() { _ = vm.Close() }() // the connection is lost
	_, err := vm.Attach(ctx, disk, fileStore(f.PassphraseFile), hotplug.AttachOptions{Unlock: hotplug.UnlockPolicy(f.unlock)})
	return err
}

// fileStore is a store with one secret, in a file.
type fileStore string

func (s fileStore) String() string { return string(s) }

func (s fileStore) Lookup(context.Context, secrets.Reference) (*secrets.Secret, error) {
	return passphrase.Open(string(s), nil)
}

// kill runs the program and kills it after n changes, before it sends another.
func (f *faulty) kill(ctx context.Context, t *testing.T, n int, args ...string) {
	t.Helper()
	b := newBackground()
	done := 0
	proxy := peer.NewProxy(t, f.q.Socket, peer.ProxyHooks{Command: func(c peer.Command) peer.Verdict {
		if done == n {
			return b.kill()
		}
		if c.Step > 0 {
			done++
		}
		return peer.Verdict{}
	}})
	b.start(t, program(ctx, proxy.Address, args...))
	b.wantKilled(t)
	if len(proxy.Steps()) < n {
		t.Fatalf("killed after the changes %v", proxy.Steps())
	}
}

// killedAndRepaired: the program is killed after the step; list shows the leftovers, and repair removes them.
// converges tests an attach instead.
func (f *faulty) killedAndRepaired(ctx context.Context, t *testing.T, n int) {
	f.kill(ctx, t, n, f.attachArgs()...)
	if n == len(f.steps) {
		f.wantAttached(ctx, t)
		tool(ctx, t, f.q.Socket, "repair").want(t, 0)
		f.wantAttached(ctx, t) // no leftovers: the disk is complete
		f.gone(ctx, t)
		return
	}
	left := f.parts(f.after(n))
	f.wantHeld(ctx, t, "leftover", left)
	r := tool(ctx, t, f.q.Socket, "repair").want(t, 0)
	for _, name := range slices.DeleteFunc(left, func(name string) bool { return name == daemonPart }) {
		r.wantStdout(t, " "+name+"\n")
	}
	wantSame(ctx, t, f.q, f.before)
}
