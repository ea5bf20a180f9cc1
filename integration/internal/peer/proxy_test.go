package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/must"
)

// proxied starts a QEMU that runs no guest, and a proxy in front of it.
func proxied(t *testing.T, hooks ProxyHooks) (*QEMU, *Proxy) {
	t.Helper()
	q := Start(t, Options{Paused: true, RootPorts: 1})
	return q, NewProxy(t, q.Socket, hooks)
}

// dialProxy connects a client to the proxy.
func dialProxy(ctx context.Context, t *testing.T, p *Proxy) *Monitor {
	t.Helper()
	m, err := DialMonitor(ctx, p.Address)
	must.OK(t, err)
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// node is a block node without a file.
func node(name string) map[string]any {
	return map[string]any{"driver": "null-co", "node-name": name, "size": MiB, "read-zeroes": true}
}

func TestProxyPassesAndRecords(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	q, p := proxied(t, ProxyHooks{})
	m := dialProxy(ctx, t, p)
	schema, err := m.Execute(ctx, "query-qmp-schema", nil)
	if err != nil || len(schema) < 100_000 {
		t.Errorf("the schema came with %d bytes, error %v", len(schema), err)
	}
	if _, err := m.Execute(ctx, "blockdev-add", node("a")); err != nil {
		t.Error(err)
	}
	if _, err := m.Execute(ctx, "blockdev-del", map[string]any{"node-name": "a"}); err != nil {
		t.Error(err)
	}
	if got := p.Steps(); !slices.Equal(got, []string{"blockdev-add", "blockdev-del"}) {
		t.Errorf("steps %v", got)
	}
	sent := 0
	for _, r := range p.Records() {
		if !r.FromQEMU {
			sent++
		}
		if !json.Valid(r.Bytes) {
			t.Errorf("recorded no JSON: %.80q", r.Bytes)
		}
	}
	if sent != 4 {
		t.Errorf("recorded %d commands, want 4", sent)
	}
	if s := mustState(ctx, t, q); len(s.Nodes) != 0 {
		t.Errorf("nodes %v are left", s.Nodes)
	}
}

// TestFailStep: QEMU refuses the injected argument in every command of a plan, and changes nothing.
func TestFailStep(t *testing.T) {
	t.Parallel()
	commands := []struct {
		name string
		args map[string]any
	}{
		{"object-add", map[string]any{"qom-type": "secret", "id": "s", "data": "x"}},
		{"blockdev-add", node("b")},
		{"device_add", map[string]any{"driver": "virtio-blk-pci", "id": "d", "drive": "base", "bus": "rp1"}},
		{"device_del", map[string]any{"id": "dev"}},
		{"blockdev-del", map[string]any{"node-name": "base"}},
		{"object-del", map[string]any{"id": "sec"}},
		{"add-fd", nil},
		{"remove-fd", map[string]any{"fdset-id": 7}},
	}
	for _, c := range commands {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			q, p := proxied(t, FailStep(1))
			mustExecute(ctx, t, q, "blockdev-add", node("base"))
			mustExecute(ctx, t, q, "object-add", map[string]any{"qom-type": "secret", "id": "sec", "data": "x"})
			before := mustState(ctx, t, q)
			var refused *CommandError
			_, err := dialProxy(ctx, t, p).Execute(ctx, c.name, c.args)
			if !errors.As(err, &refused) || !strings.Contains(refused.Desc, InjectedFault) {
				t.Errorf("QEMU did not refuse the argument: %v", err)
			}
			if diff := before.Diff(mustState(ctx, t, q)); len(diff) != 0 {
				t.Errorf("the failed command changed QEMU: %v", diff)
			}
		})
	}
}

func TestCutAtStep(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		cut  Cut
		done bool // whether QEMU has run the command
		told bool // whether the client knows
	}{
		{"before QEMU has it", CutBeforeForward, false, false},
		{"before the reply", CutBeforeReply, true, false},
		{"after the reply", CutAfterReply, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			q, p := proxied(t, CutAtStep(2, c.cut))
			m := dialProxy(ctx, t, p)
			_, err := m.Execute(ctx, "blockdev-add", node("one"))
			must.OK(t, err)
			_, err = m.Execute(ctx, "blockdev-add", node("two"))
			if told := err == nil; told != c.told {
				t.Errorf("the client got %v", err)
			}
			if _, err := m.Execute(ctx, "query-status", nil); err == nil {
				t.Error("the connection is still open")
			}
			if got := slices.Contains(mustState(ctx, t, q).Nodes, "two"); got != c.done {
				t.Errorf("QEMU has run the command: %v, want %v", got, c.done)
			}
			again := dialProxy(ctx, t, p)
			if _, err := again.Execute(ctx, "blockdev-add", node("three")); err != nil {
				t.Errorf("after connecting again: %v", err)
			}
			if p.Connections() != 2 {
				t.Errorf("%d connections counted, want 2", p.Connections())
			}
		})
	}
}

func TestProxyRefusesConnections(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	_, p := proxied(t, ProxyHooks{Connect: func(n int) bool { return n != 2 }})
	_ = dialProxy(ctx, t, p).Close()
	if _, err := DialMonitor(ctx, p.Address); err == nil {
		t.Error("the second connection was served")
	}
	dialProxy(ctx, t, p)
}

func TestProxySwallowsEventsAndDelays(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	const delay = 150 * time.Millisecond
	_, p := proxied(t, ProxyHooks{
		Event: func(e Event) bool { return e.Name != "STOP" && e.Name != "RESUME" },
		Command: func(c Command) Verdict {
			if c.Name == "query-status" {
				return Verdict{Delay: delay}
			}
			return Verdict{}
		},
	})
	m := dialProxy(ctx, t, p)
	for _, command := range []string{"cont", "stop", "system_reset"} {
		_, err := m.Execute(ctx, command, nil)
		must.OK(t, err)
	}
	e, err := m.WaitEvent(ctx, func(Event) bool { return true })
	if err != nil || e.Name != "RESET" {
		t.Errorf("first event %q, error %v; want RESET, as STOP and RESUME are swallowed", e.Name, err)
	}
	start := time.Now()
	if _, err := m.Execute(ctx, "query-status", nil); err != nil || time.Since(start) < delay {
		t.Errorf("a delayed reply took %v, error %v", time.Since(start), err)
	}
}

func TestProxyPassesDescriptors(t *testing.T) {
	t.Parallel()
	q, p := proxied(t, ProxyHooks{})
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: p.Address, Net: "unix"})
	must.OK(t, err)
	defer func() { _ = conn.Close() }()
	file, err := os.Open(os.DevNull)
	must.OK(t, err)
	defer func() { _ = file.Close() }()
	_, err = conn.Write([]byte(`{"execute": "qmp_capabilities"}`))
	must.OK(t, err)
	// Three commands in quick succession, the middle one without a descriptor, the last in two writes.
	first := []byte(`{"execute": "add-fd", "arguments": {"fdset-id": 1}}` + "\n")
	_, _, err = conn.WriteMsgUnix(first, unix.UnixRights(int(file.Fd())), nil)
	must.OK(t, err)
	_, err = conn.Write([]byte(`{"execute": "query-status"} {"execute": `))
	must.OK(t, err)
	_, _, err = conn.WriteMsgUnix([]byte(`"add-fd", "arguments": {"fdset-id": 2}}`), unix.UnixRights(int(file.Fd())), nil)
	must.OK(t, err)
	d := json.NewDecoder(conn)
	for range 5 { // the greeting and four replies
		var reply map[string]json.RawMessage
		must.OK(t, d.Decode(&reply))
		if reply["error"] != nil {
			t.Errorf("QEMU says %s", reply["error"])
		}
	}
	if got := mustState(testContext(t), t, q).FDSets; !slices.Equal(got, []string{"1 (1)", "2 (1)"}) {
		t.Errorf("descriptor sets %v", got)
	}
	var with []string
	for _, r := range p.Records() {
		if r.FDs > 0 {
			with = append(with, fmt.Sprintf("%s %d", r.Bytes[12:20], r.FDs))
		}
	}
	if !slices.Equal(with, []string{`"add-fd" 1`, `"add-fd" 1`}) {
		t.Errorf("descriptors were recorded with %v", with)
	}
}
