package hotplug_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/qmp"
)

// madeUp is a monitor that answers what it is told to, which no real QEMU can be made to do. It counts the commands.
type madeUp struct {
	answers map[string]string // values by the command; {} for others
	delay   time.Duration     // before each answer to a command that changes something
	asked   atomic.Int64
}

// dial starts serving on a unix socket, which the VM's process is said to have, and returns a dialer.
func (m *madeUp) dial(t *testing.T) hotplug.Dialer {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qmp")
	listener := must.Get(net.Listen("unix", path))(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { m.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		wg.Wait()
	})
	return func(ctx context.Context) (*qmp.Client, error) { return qmp.Dial(ctx, path) }
}

func (m *madeUp) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }() // the client may have closed it
	in, out := bufio.NewReader(conn), bufio.NewWriter(conn)
	_, _ = fmt.Fprintln(out, `{"QMP":{"version":{"qemu":{"micro":2,"minor":0,"major":10},"package":""},"capabilities":[]}}`)
	for out.Flush() == nil {
		line, err := in.ReadBytes('\n')
		var c struct {
			Execute   string
			Arguments map[string]any
			ID        json.RawMessage
		}
		if err != nil || json.Unmarshal(line, &c) != nil {
			return
		}
		m.asked.Add(1)
		answer, known := m.answers[c.Execute]
		if path, ok := c.Arguments["path"].(string); ok {
			answer, known = m.answers[c.Execute+" "+path]
		}
		switch {
		case !known && strings.HasPrefix(c.Execute, "qom-list"):
			answer = "[]"
		case !known:
			answer = "{}"
		}
		if !strings.HasPrefix(c.Execute, "q") {
			time.Sleep(m.delay)
		}
		_, _ = fmt.Fprintf(out, `{"return":%s,"id":%s}`+"\n", answer, c.ID)
	}
}

// crowd returns the answers of a QEMU with n nodes, objects and drives, each of a disk of its own.
func crowd(n int, attached bool) map[string]string {
	target := func(i int) string {
		name := []byte("vdaaaa")
		for at := len(name) - 1; i > 0; at-- {
			name[at], i = byte('a'+i%26), i/26
		}
		return "luksplug-" + string(name)
	}
	var nodes, objects, drives []string
	for i := range n {
		nodes = append(nodes, fmt.Sprintf(`{"node-name":"%s-luks"}`, target(i)))
		objects = append(objects, fmt.Sprintf(`{"name":"%s-secret0","type":"child<secret>"}`, target(i)))
		if attached {
			drives = append(drives, fmt.Sprintf(`{"qdev":"%s","inserted":{"node-name":"%s-luks"}}`, target(i), target(i)))
		}
	}
	list := func(all []string) string { return "[" + strings.Join(all, ",") + "]" }
	return map[string]string{
		"query-named-block-nodes": list(nodes), "qom-list /objects": list(objects), "query-block": list(drives),
		"query-fdsets": "[]", "query-chardev": "[]", "query-uuid": `{"UUID":"0a81f5b2-8403-4b23-88d6-21ccc2f80d6f"}`,
		"x-debug-query-block-graph": `{"nodes":[],"edges":[]}`, "query-block-exports": "[]", "query-jobs": "[]",
		"query-status": `{"status":"running"}`, "query-migrate": `{}`,
	}
}

// connectTo connects to a made-up monitor.
func connectTo(t *testing.T, m *madeUp) *hotplug.VM {
	t.Helper()
	v := must.Get(hotplug.Connect(bounded(t), m.dial(t), hotplug.Options{RunDir: t.TempDir(), LockDir: t.TempDir(), Files: hotplug.FilesRemote, Recovery: time.Second}))(t)
	t.Cleanup(func() { _ = v.Close() })
	return v
}

// TestManyNodes: 200,000 made-up nodes are listed in linear time; what would take a command for each of them ends
// with the caller's context.
func TestManyNodes(t *testing.T) {
	const nodes = 200_000
	m := &madeUp{answers: crowd(nodes, true)}
	v := connectTo(t, m)
	disks, err := v.List(bounded(t)) // a minute
	if err != nil || len(disks) != nodes || disks[nodes-1].Leftover() {
		t.Fatalf("%d disks, %v", len(disks), err)
	}
	for name, use := range map[string]func(ctx context.Context, v *hotplug.VM) error{
		"repair, of attached disks": func(ctx context.Context, v *hotplug.VM) error { _, err := v.Repair(ctx); return err },
		"detach": func(ctx context.Context, v *hotplug.VM) error {
			_, err := v.Detach(ctx, "vdaaab", hotplug.DetachOptions{Wait: time.Second})
			return err
		},
		"attach": func(ctx context.Context, v *hotplug.VM) error {
			_, err := v.Attach(ctx, plainDisk(t, "vdb"), nil, hotplug.AttachOptions{})
			return err
		},
	} {
		limitedTime(t, name, v, use)
	}
	leftovers := &madeUp{answers: crowd(nodes, false), delay: time.Millisecond}
	limitedTime(t, "repair, of leftovers", connectTo(t, leftovers), func(ctx context.Context, v *hotplug.VM) error { _, err := v.Repair(ctx); return err })
}

// limitedTime runs f with a context of a second, and checks that it ends soon after it.
func limitedTime(t *testing.T, name string, v *hotplug.VM, f func(ctx context.Context, v *hotplug.VM) error) {
	t.Helper()
	const limit, slack = time.Second, 20 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	begin := time.Now()
	err := f(ctx, v)
	t.Logf("%s: %v after %s", name, err, time.Since(begin))
	if took := time.Since(begin); err == nil || took > limit+slack {
		t.Errorf("%s: %v after %s", name, err, took)
	}
}

// TestRepairIsLinear: eight times as many leftovers cause eight times as many commands, and no more queries of the
// state.
func TestRepairIsLinear(t *testing.T) {
	count := func(n int) int64 {
		m := &madeUp{answers: crowd(n, false)}
		_, err := connectTo(t, m).Repair(bounded(t))
		var left *hotplug.LeftBehindError
		if !errors.As(err, &left) { // it lists them still
			t.Errorf("%d leftovers: %v", n, err)
		}
		return m.asked.Load()
	}
	if few, many := count(50), count(400); many > 9*few {
		t.Errorf("%d commands for 50 leftovers, %d for 400", few, many)
	}
}
