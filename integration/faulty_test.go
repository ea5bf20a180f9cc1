package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
)

// faulty is one plan on one VM, for the tests of faults.
type faulty struct {
	*plug
	before peer.State
	steps  []change // of a whole attach, as the program itself sent them
}

// change is a command that changes something, and what it changes.
type change struct {
	command string
	subject string // name of the node, object or device, or that of a descriptor set's content
	part    string // its name in list: the same, or the set's number
	adds    bool
}

// parseChange parses a command as the monitor received it.
func parseChange(t *testing.T, raw []byte) change {
	t.Helper()
	var c struct {
		Execute   string
		Arguments struct {
			NodeName string `json:"node-name"`
			ID       string
			Set      int `json:"fdset-id"`
			Opaque   string
		}
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		t.Fatalf("the program sent %q: %v", raw, err)
	}
	a := c.Arguments
	if a.Set != 0 {
		return change{c.Execute, a.Opaque, strconv.Itoa(a.Set), c.Execute == "add-fd"}
	}
	return change{c.Execute, a.NodeName + a.ID, a.NodeName + a.ID, strings.HasSuffix(c.Execute, "add")}
}

// after returns the parts of the disk in the VM after the first n steps.
func (f *faulty) after(n int) []change {
	var there []change
	for _, s := range f.steps[:n] {
		if s.adds {
			there = append(there, s)
		} else {
			there = slices.DeleteFunc(there, func(x change) bool { return x.part == s.part })
		}
	}
	return there
}

// parts returns the names in list of those changes, and of a storage daemon.
func (f *faulty) parts(changes []change) []string {
	var names []string
	for _, c := range changes {
		names = append(names, c.part)
	}
	if f.unlock == "external" {
		names = append(names, daemonPart)
	}
	slices.Sort(names)
	return names
}

// daemonPart is a storage daemon in a list of parts, without its process id.
const daemonPart = "storage daemon"

// changesOf returns the commands of a run that change something.
func changesOf(ctx context.Context, t *testing.T, q *peer.QEMU, args ...string) []change {
	t.Helper()
	var mu sync.Mutex
	var sent [][]byte
	proxy := peer.NewProxy(t, q.Socket, peer.ProxyHooks{Command: func(c peer.Command) peer.Verdict {
		mu.Lock()
		defer mu.Unlock()
		if c.Step > 0 {
			sent = append(sent, slices.Clone(c.Bytes))
		}
		return peer.Verdict{}
	}})
	tool(ctx, t, proxy.Address, args...).want(t, 0)
	mu.Lock()
	defer mu.Unlock()
	var out []change
	for _, raw := range sent {
		c := parseChange(t, raw)
		for _, earlier := range out { // remove-fd does not name the set's content
			if c.subject == "" && earlier.part == c.part {
				c.subject = earlier.subject
			}
		}
		out = append(out, c)
	}
	return out
}

// newFaulty attaches and detaches the disk once, to learn the steps. unlock is the value of --unlock, extra
// are further elements of the disk.
func newFaulty(ctx context.Context, t *testing.T, q *peer.QEMU, where place, v *peer.Volume, unlock, extra string) *faulty {
	t.Helper()
	f := &faulty{plug: newPlug(t, q, v, where.targets[0], where.bus, extra), before: stateOf(ctx, t, q)}
	f.unlock = unlock
	f.steps = changesOf(ctx, t, q, f.attachArgs()...)
	f.wantAttached(ctx, t)
	f.detach(ctx, t)
	wantSame(ctx, t, q, f.before)
	plan := tool(ctx, t, q.Socket, "plan", "--unlock", unlock, f.xml).want(t, 0).stdout
	if want := fmt.Sprintf("plan for %s: %d steps\n", f.target, len(f.steps)); !strings.Contains("\n"+plan, "\n"+want) {
		t.Fatalf("the program sent the changes %v, and its plan differs:\n%s", f.steps, plan)
	}
	return f
}

// wantAttached ends the test unless the complete disk is attached, and nothing else of luksplug's exists.
func (f *faulty) wantAttached(ctx context.Context, t *testing.T) {
	t.Helper()
	f.wantHeld(ctx, t, "attached", f.parts(f.after(len(f.steps))))
}

// wantHeld ends the test unless list shows the disk in that state, made of those parts.
func (f *faulty) wantHeld(ctx context.Context, t *testing.T, state string, names []string) {
	t.Helper()
	held := listed(ctx, t, f.q)
	d, ok := held[f.target]
	if !ok || len(held) != 1 || d.State != state {
		t.Fatalf("the VM holds %+v, want %s %s", held, f.target, state)
	}
	var got []string
	for _, part := range d.Parts {
		kind, name, _ := strings.Cut(part, " ")
		if strings.HasPrefix(part, daemonPart+" ") {
			name = daemonPart
		} else if kind == "file" {
			t.Errorf("%s of %s still exists", part, f.target)
		}
		got = append(got, name)
	}
	// The controller of an attached disk is not listed.
	if state == "attached" {
		names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return strings.HasSuffix(n, "-scsi") })
	}
	if slices.Sort(got); !slices.Equal(got, names) {
		t.Fatalf("%s is %s with %v, want %v", f.target, state, got, names)
	}
}

// wantRolledBack ends the test unless the last line says that the attach failed and was undone, and the VM
// is as before.
func (f *faulty) wantRolledBack(ctx context.Context, t *testing.T, r result, says ...string) {
	t.Helper()
	r.want(t, 6)
	wantTexts(t, "the error", failure(r), append(says, "luksplug: disk "+f.target+" was not attached", "as it was before"))
	wantSame(ctx, t, f.q, f.before)
}

// wantEither ends the test unless the disk is attached completely or not at all. It leaves the VM without it.
func (f *faulty) wantEither(ctx context.Context, t *testing.T, r result) {
	t.Helper()
	if r.code != 0 {
		f.wantRolledBack(ctx, t, r)
		return
	}
	f.wantAttached(ctx, t)
	f.gone(ctx, t)
}

// gone detaches the disk, after which the VM must be as it was.
func (f *faulty) gone(ctx context.Context, t *testing.T) {
	t.Helper()
	f.detach(ctx, t)
	wantSame(ctx, t, f.q, f.before)
}

// gaveUp is the program's log message when it has stopped waiting for a reply.
const gaveUp = "querying QEMU for the outcome"
