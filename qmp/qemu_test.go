package qmp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/qmptest"
)

func TestDialUnixAndTCP(t *testing.T) {
	t.Parallel()
	q := qmptest.StartQEMU(t, "-machine", "none")
	for name, address := range map[string]string{
		"path": q.Unix, "unix:path": "unix:" + q.Unix, "host:port": q.TCP, "tcp:host:port": "tcp:" + q.TCP,
	} {
		t.Run(name, func(t *testing.T) {
			c := dialTest(t, address)
			if v := c.Version(); v.QEMU.Major < 5 {
				t.Errorf("version %v", v)
			}
			if s := c.VersionString(); !strings.HasPrefix(s, c.Version().String()) || strings.Contains(s, "((") {
				t.Errorf("version string %q", s)
			}
			value, err := c.Execute(qmptest.Context(t), Command{Execute: "query-status"})
			if err != nil || !strings.Contains(string(value), `"running"`) {
				t.Errorf("query-status: %s, %v", value, err)
			}
			must.OK(t, c.Close())
			must.OK(t, c.Close()) // idempotent
			_, err = c.Execute(qmptest.Context(t), Command{Execute: "query-status"})
			if !errors.Is(err, ErrClosed) || isUnknown(err) {
				t.Errorf("after Close: %v", err)
			}
			if !errors.Is(c.Err(), ErrClosed) {
				t.Errorf("Err after Close: %v", c.Err())
			}
		})
	}
}

func TestPeerPID(t *testing.T) {
	t.Parallel()
	path := filepath.Join(qmptest.SocketDir(t), "own.sock")
	q := qmptest.StartQEMU(t, "-machine", "none", "-qmp", "unix:"+path+",server=on,wait=off")
	tcp := dialTest(t, q.TCP) // once it greets, its other sockets exist
	if pid, known := tcp.PeerPID(); known {
		t.Errorf("a TCP peer has a pid: %d", pid)
	}
	if pid, known := dialTest(t, path).PeerPID(); !known || pid != q.Cmd.Process.Pid {
		t.Errorf("peer pid %d, %v; QEMU is %d", pid, known, q.Cmd.Process.Pid)
	}
}

// TestPretty: a monitor that spreads its messages over lines gives the same replies, events and trace as another one.
func TestPretty(t *testing.T) {
	t.Parallel()
	dir := qmptest.SocketDir(t)
	pretty, mon := filepath.Join(dir, "pretty.sock"), filepath.Join(dir, "mon.sock")
	q := qmptest.StartQEMU(t, "-machine", "none", "-qmp-pretty", "unix:"+pretty+",server=on,wait=off",
		"-chardev", "socket,id=c,path="+mon+",server=on,wait=off", "-mon", "chardev=c,mode=control,pretty=on")
	plain := dialTest(t, q.Unix) // once it greets, its other sockets exist
	for _, path := range []string{pretty, mon} {
		var trace qmptest.Log
		c := dialTest(t, path, traceTo(&trace))
		if c.Version() != plain.Version() {
			t.Errorf("%v, want %v", c.Version(), plain.Version())
		}
		events := c.Subscribe("STOP", "RESUME")
		defer events.Close()
		// The reply to query-qmp-schema does not fit the client's buffer.
		for _, name := range []string{"query-commands", "stop", "query-qmp-schema", "cont", "query-chardev-backends"} {
			got := c.ExecuteAll(qmptest.Context(t), Command{Execute: name}, Command{Execute: "query-nothing"})
			want, err := plain.Execute(qmptest.Context(t), Command{Execute: name})
			if err != nil || got[0].Err != nil || string(got[0].Value) != string(must.Get(compact(want))(t)) {
				t.Errorf("%s: %.200s, %v, %v", name, got[0].Value, got[0].Err, err)
			}
			if !errors.Is(got[1].Err, ErrCommandNotFound) {
				t.Errorf("%v", got[1].Err)
			}
		}
		for _, want := range []string{"STOP", "RESUME"} {
			if e := qmptest.Await(t, events.Events(), "the event"); e.Event != want || e.Timestamp.Seconds == 0 {
				t.Errorf("%+v", e)
			}
		}
		if text := trace.String(); strings.Contains(text, "{\n") || strings.Contains(text, "\n ") || !strings.Contains(text, `"event":"RESUME"`) {
			t.Errorf("the trace has a message in more than one line:\n%.2000s", text)
		}
	}
}

func compact(text []byte) ([]byte, error) {
	var b bytes.Buffer
	err := json.Compact(&b, text)
	return b.Bytes(), err
}

// The greeting never comes while another client holds the monitor.
func TestSecondClient(t *testing.T) {
	t.Parallel()
	c, q := startNone(t)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, err := Dial(ctx, q.Unix)
	if !errors.Is(err, ErrNoGreeting) || !errors.Is(err, context.DeadlineExceeded) ||
		!strings.Contains(err.Error(), "another client") {
		t.Errorf("second client: %v", err)
	}
	must.OK(t, c.Close())
	dialTest(t, q.Unix) // now it is free
}

func TestSchema(t *testing.T) {
	t.Parallel()
	queries := 0
	c, q := startNone(t, WithTrace(func(e TraceEntry) {
		if e.Direction == Sent && strings.Contains(string(e.JSON), "query-qmp-schema") {
			queries++
		}
		if e.Direction == Received && queries == 1 && len(e.JSON) > 64<<10 {
			t.Logf("the schema has %d bytes", len(e.JSON))
		}
	}))
	var wg sync.WaitGroup
	schemas := make([]*Schema, 8)
	for i := range schemas {
		wg.Go(func() {
			var err error
			if schemas[i], err = c.Schema(qmptest.Context(t)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, s := range schemas {
		if s == nil || s != schemas[0] {
			t.Fatal("concurrent callers got different schemas")
		}
	}
	if queries != 1 {
		t.Errorf("QEMU was queried %d times", queries)
	}
	must.OK(t, c.Close())
	cached := dialTest(t, q.Unix, WithSchema(schemas[0]))
	if s, err := cached.Schema(qmptest.Context(t)); err != nil || s != schemas[0] {
		t.Errorf("WithSchema: %v", err)
	}
	checkRealSchema(t, schemas[0])
	checkAgainstQEMU(t, cached, schemas[0])
}

// checkAgainstQEMU compares Validate's verdict with QEMU's own.
func checkAgainstQEMU(t *testing.T, c *Client, s *Schema) {
	for _, test := range validations {
		_, err := c.Execute(qmptest.Context(t), Command{Execute: test.command, Arguments: test.args})
		_, known := qmptest.ErrorAs[*Error](err)
		if test.path == "" && !test.unknownCommand {
			// QEMU may refuse its meaning, but not its form.
			if known && (strings.Contains(err.Error(), "unexpected") || strings.Contains(err.Error(), "Invalid parameter")) {
				t.Errorf("%s %v passes Validate, QEMU says: %v", test.command, test.args, err)
			}
		} else if !known {
			t.Errorf("%s %v fails Validate, QEMU accepts it (%v)", test.command, test.args, err)
		}
	}
}

// Every refusal in errtext.go, provoked.
func TestErrorTexts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	q := qmptest.StartQEMU(t, "-machine", "pc", "-accel", "tcg", "-S", "-m", "64")
	c := dialTest(t, q.Unix)
	ctx := qmptest.Context(t)
	plain, luks, locked := filepath.Join(dir, "plain"), must.LUKS(t, "right", 3<<20), filepath.Join(dir, "locked")
	must.OK(t, os.WriteFile(plain, make([]byte, 1<<20), 0o600))
	must.OK(t, os.WriteFile(locked, make([]byte, 1<<20), 0o600))
	setUp := []Command{
		command("object-add", "qom-type", "secret", "id", "wrong", "data", "wrong"),
		command("blockdev-add", "driver", "null-co", "node-name", "n0"),
		command("blockdev-add", "driver", "raw", "node-name", "top", "file", "n0"),
		command("blockdev-add", "driver", "null-co", "node-name", "ro", "read-only", true),
		command("blockdev-add", "driver", "raw", "node-name", "over-ro", "file", "ro"),
		command("blockdev-add", "driver", "file", "node-name", "luks0", "filename", luks),
		command("blockdev-add", "driver", "file", "node-name", "plain0", "filename", plain),
		command("blockdev-add", "driver", "file", "node-name", "locked", "filename", locked),
		command("blockdev-add", "driver", "null-co", "node-name", "n1"),
		command("device_add", "driver", "virtio-blk-pci", "id", "d0", "drive", "n1"),
		command("device_del", "id", "d0"),
	}
	for i, r := range c.ExecuteAll(ctx, setUp...) {
		if r.Err != nil {
			t.Fatalf("%s: %v", setUp[i].Execute, r.Err)
		}
	}
	// A second QEMU holds the lock of the image.
	other, _ := startNone(t)
	if _, err := other.Execute(ctx, command("blockdev-add", "driver", "file", "node-name", "l", "filename", locked)); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Execute(ctx, command("blockdev-add", "driver", "raw", "node-name", "r", "file", "l")); err != nil {
		t.Fatal(err)
	}
	nbd := filepath.Join(qmptest.SocketDir(t), "nbd.sock")
	for _, cmd := range []Command{
		command("nbd-server-start", "addr", Object{{"type", "unix"}, {"data", Object{{"path", nbd}}}}),
		command("block-export-add", "type", "nbd", "id", "x", "node-name", "r", "writable", true),
	} {
		if _, err := other.Execute(ctx, cmd); err != nil {
			t.Fatal(err)
		}
	}

	sentinels := []error{
		ErrWrongPassphrase, ErrNotLUKS, ErrNodeNotFound, ErrNodeInUse, ErrNodeReadOnly, ErrImageLocked,
		ErrObjectNotFound, ErrDuplicate, ErrDeviceNotFound, ErrUnplugPending, ErrBusNotFound, ErrNoHotplug,
		ErrCommandNotFound, ErrChardevNotFound, ErrFDSetNotFound,
	}
	seen := make(map[error]bool)
	for _, test := range []struct {
		cmd  Command
		want error
	}{
		{command("blockdev-add", "driver", "luks", "node-name", "x", "file", "luks0", "key-secret", "wrong"), ErrWrongPassphrase},
		{command("blockdev-add", "driver", "luks", "node-name", "x", "file", "plain0", "key-secret", "wrong"), ErrNotLUKS},
		{command("blockdev-add", "driver", "luks", "node-name", "x", "file", "luks0", "key-secret", "none"), ErrObjectNotFound},
		{command("blockdev-del", "node-name", "none"), ErrNodeNotFound},
		{command("blockdev-add", "driver", "raw", "node-name", "x", "file", "none"), ErrNodeNotFound},
		{command("blockdev-del", "node-name", "n0"), ErrNodeInUse},
		{command("blockdev-del", "node-name", "n1"), ErrNodeInUse},
		{command("device_add", "driver", "virtio-blk-pci", "drive", "over-ro"), ErrNodeReadOnly},
		{command("device_add", "driver", "virtio-blk-pci", "drive", "locked"), ErrImageLocked},
		{command("object-del", "id", "none"), ErrObjectNotFound},
		{command("chardev-remove", "id", "none"), ErrChardevNotFound},
		{command("remove-fd", "fdset-id", 4711), ErrFDSetNotFound},
		{command("object-add", "qom-type", "secret", "id", "wrong", "data", "x"), ErrDuplicate},
		{command("blockdev-add", "driver", "null-co", "node-name", "n0"), ErrDuplicate},
		{command("device_add", "driver", "virtio-blk-pci", "id", "d0", "drive", "top"), ErrDuplicate},
		{command("device_del", "id", "none"), ErrDeviceNotFound},
		{command("device_del", "id", "d0"), ErrUnplugPending},
		{command("device_add", "driver", "virtio-blk-pci", "bus", "none", "drive", "top"), ErrBusNotFound},
		{command("device_add", "driver", "isa-serial"), ErrNoHotplug},
		{command("no-such-command"), ErrCommandNotFound},
	} {
		_, err := c.Execute(ctx, test.cmd)
		refusal, ok := qmptest.ErrorAs[*Error](err)
		if !ok || refusal.Command != test.cmd.Execute || refusal.Class == "" {
			t.Errorf("%v: %v", test.cmd, err)
			continue
		}
		for _, sentinel := range sentinels {
			if errors.Is(err, sentinel) != errors.Is(sentinel, test.want) {
				t.Errorf("%q: Is(%v) is %v, want %v", err, sentinel, errors.Is(err, sentinel), test.want)
			}
		}
		seen[test.want] = true
	}
	for _, sentinel := range sentinels {
		if !seen[sentinel] {
			t.Errorf("%v was not provoked", sentinel)
		}
	}
}

// command builds a Command from name and value pairs.
func command(execute string, pairs ...any) Command {
	cmd := Command{Execute: execute}
	for i := 0; i < len(pairs); i += 2 {
		cmd.Arguments = append(cmd.Arguments, Member{Name: pairs[i].(string), Value: pairs[i+1]})
	}
	return cmd
}

// Every descriptor reaches the command that it was passed with, in a pipeline
// among other commands and from several goroutines at once.
func TestFilePassing(t *testing.T) {
	t.Parallel()
	c, _ := startNone(t)
	const files = 24
	cmds := make([]Command, 0, 2*files)
	for i := range files {
		cmd := command("add-fd", "fdset-id", i, "opaque", fmt.Sprint("file ", i))
		cmd.File = qmptest.Memfd(t, int64(i+1)<<20)
		cmds = append(cmds, cmd, Command{Execute: "query-status"})
	}
	var wg sync.WaitGroup
	for _, half := range [][]Command{cmds[:files], cmds[files:]} {
		wg.Go(func() {
			for i, r := range c.ExecuteAll(qmptest.Context(t), half...) {
				if r.Err != nil {
					t.Errorf("%s: %v", half[i].Execute, r.Err)
				}
			}
		})
	}
	wg.Wait()
	for i := range files {
		node := fmt.Sprint("n", i)
		for _, r := range c.ExecuteAll(qmptest.Context(t),
			command("blockdev-add", "driver", "file", "node-name", node, "filename", fmt.Sprint("/dev/fdset/", i), "locking", "off")) {
			must.OK(t, r.Err)
		}
	}
	value, err := c.Execute(qmptest.Context(t), Command{Execute: "query-named-block-nodes"})
	must.OK(t, err)
	var nodes []struct {
		Name  string `json:"node-name"`
		Image struct {
			Size int64 `json:"virtual-size"`
		} `json:"image"`
	}
	must.OK(t, json.Unmarshal(value, &nodes))
	for _, node := range nodes {
		var i int64
		if _, err := fmt.Sscanf(node.Name, "n%d", &i); err != nil {
			t.Fatal(err)
		}
		if node.Image.Size != (i+1)<<20 {
			t.Errorf("fdset %d holds the file of %d bytes", i, node.Image.Size)
		}
	}
	if len(nodes) != files {
		t.Errorf("%d nodes, want %d", len(nodes), files)
	}
}

func TestFileCannotBePassed(t *testing.T) {
	t.Parallel()
	c, q := startNone(t)
	closed := qmptest.Memfd(t, 0)
	must.OK(t, closed.Close())
	cmd := Command{Execute: "add-fd", File: closed}
	_, err := c.Execute(qmptest.Context(t), cmd)
	if isUnknown(err) || err == nil || errors.Is(err, ErrConnectionLost) ||
		!strings.Contains(err.Error(), "cannot pass the file") {
		t.Errorf("closed file: %v", err)
	}
	if _, err := c.Execute(qmptest.Context(t), Command{Execute: "query-status"}); err != nil {
		t.Errorf("the client after that: %v", err)
	}
	cmd.File = qmptest.Memfd(t, 0)
	if _, err := dialTest(t, q.TCP).Execute(qmptest.Context(t), cmd); !errors.Is(err, ErrFileUnsupported) {
		t.Errorf("over TCP: %v", err)
	}
	if _, err := c.Execute(qmptest.Context(t), Command{Execute: "add-fd"}); err == nil {
		t.Error("add-fd without a file")
	}
}

// Events that a command causes are queued before its reply is returned, and
// listeners that do not read delay nothing.
func TestEvents(t *testing.T) {
	t.Parallel()
	c, q := startNone(t)
	all, stops, idle := c.Subscribe(), c.Subscribe("STOP"), c.Subscribe()
	defer idle.Close()
	const rounds = 300
	for range rounds {
		for _, r := range c.ExecuteAll(qmptest.Context(t), Command{Execute: "stop"}, Command{Execute: "cont"}) {
			must.OK(t, r.Err)
		}
	}
	for i := range rounds {
		if e := qmptest.Await(t, stops.Events(), "STOP"); e.Event != "STOP" {
			t.Fatalf("STOP %d is %s", i, e.Event)
		}
		for _, want := range []string{"STOP", "RESUME"} {
			e := qmptest.Await(t, all.Events(), want)
			if e.Event != want {
				t.Fatalf("%s %d is %s", want, i, e.Event)
			}
			at := time.Unix(e.Timestamp.Seconds, e.Timestamp.Microseconds*int64(time.Microsecond/time.Nanosecond))
			if age := time.Since(at); age < -time.Minute || age > qmptest.Patience {
				t.Fatalf("the event is %s old", age)
			}
		}
	}
	stops.Close()
	stops.Close()
	qmptest.AwaitClosed(t, stops.Events(), "a closed subscription")

	_, err := c.Execute(qmptest.Context(t), Command{Execute: "quit"})
	must.OK(t, err)
	if e := qmptest.Await(t, all.Events(), "SHUTDOWN"); e.Event != "SHUTDOWN" || e.Data["reason"] != "host-qmp-quit" {
		t.Errorf("last event: %+v", e)
	}
	qmptest.AwaitClosed(t, all.Events(), "a subscription of a lost connection")
	qmptest.AwaitDone(t, c.Done())
	<-q.Exited
	if !errors.Is(c.Err(), ErrConnectionLost) {
		t.Errorf("Err: %v", c.Err())
	}
	late := c.Subscribe()
	defer late.Close()
	qmptest.AwaitClosed(t, late.Events(), "a subscription made too late")
}

// Many goroutines, each of whose replies must be its own.
func TestConcurrentReplies(t *testing.T) {
	t.Parallel()
	c, _ := startNone(t)
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := range 50 {
				name := fmt.Sprintf("no-%d-%d", g, i)
				_, err := c.Execute(qmptest.Context(t), command("blockdev-del", "node-name", name))
				if err == nil || !strings.Contains(err.Error(), "'"+name+"'") {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	wg.Wait()
}

// A pipeline far longer than QEMU's queue; a failure in it stops nothing.
func TestLongPipeline(t *testing.T) {
	t.Parallel()
	c, _ := startNone(t)
	cmds := make([]Command, 2000)
	for i := range cmds {
		cmds[i] = Command{Execute: "query-status"}
		if i%3 == 0 {
			cmds[i] = command("blockdev-del", "node-name", fmt.Sprint("no", i))
		}
	}
	for i, r := range c.ExecuteAll(qmptest.Context(t), cmds...) {
		if i%3 == 0 {
			if !errors.Is(r.Err, ErrNodeNotFound) || !strings.Contains(r.Err.Error(), fmt.Sprintf("'no%d'", i)) {
				t.Fatalf("%d: %v", i, r.Err)
			}
		} else if r.Err != nil {
			t.Fatalf("%d: %v", i, r.Err)
		}
	}
}

// Death of QEMU wakes every caller at once.
func TestQEMUKilled(t *testing.T) {
	t.Parallel()
	c, q := startNone(t)
	must.OK(t, q.Cmd.Process.Signal(syscall.SIGSTOP)) // so that no reply comes
	const callers = 10
	errs := make(chan error, callers)
	for range callers {
		go func() {
			_, err := c.Execute(context.Background(), Command{Execute: "query-status"})
			errs <- err
		}()
	}
	waitPending(t, c, callers)
	q.Kill()
	for range callers {
		err := qmptest.Await(t, errs, "a woken caller")
		if !isUnknown(err) || !errors.Is(err, ErrConnectionLost) {
			t.Errorf("woken with %v", err)
		}
	}
	_, err := c.Execute(qmptest.Context(t), Command{Execute: "query-status"})
	if isUnknown(err) || !errors.Is(err, ErrConnectionLost) {
		t.Errorf("after the loss: %v", err)
	}
	if _, err := Dial(qmptest.Context(t), q.Unix); !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "no process listens") {
		t.Errorf("dialling a dead QEMU: %v", err)
	}
}

// waitPending waits until n commands are in flight.
func waitPending(t testing.TB, c *Client, n int) {
	t.Helper()
	s := c.dispatcher.(*socket)
	waitUntil(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.pending) == n
	})
}

// waitUntil waits for a state that has no event to wait for.
func waitUntil(t testing.TB, reached func() bool) {
	t.Helper()
	for deadline := time.Now().Add(qmptest.Patience); !reached(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the state is not reached")
		}
	}
}
