package main

import (
	"bufio"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestRunStall runs everything once: luksplug delays the guest for less time than QEMU does.
func TestRunStall(t *testing.T) {
	peer.Long(t, "QEMU derives a key four times")
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a private libvirtd needs root")
	}
	dir := t.TempDir()
	v, err := startStallVM(t.Context(), dir)
	must.OK(t, err)
	defer v.close()
	ways := v.ways()
	stalls, err := v.measure(t.Context(), ways, 1)
	must.OK(t, err)
	about, err := v.about(t.Context())
	if err != nil || !strings.Contains(about, "QEMU 1") || !strings.Contains(about, "libvirt 1") {
		t.Errorf("about %q, error %v", about, err)
	}
	byQEMU := stalls[slices.IndexFunc(ways, func(w way) bool { return w.kind == reference })][0]
	for i, w := range ways {
		s := stalls[i][0]
		if w.kind == ours && (s.answer > byQEMU.answer/2 || s.timer > byQEMU.timer/2 || s.disk > byQEMU.disk/2) {
			t.Errorf("%s: %+v, which is about what virsh does: %+v", w.name, s, byQEMU)
		}
	}
}

// someWays returns the smallest input for a table.
func someWays() ([]way, [][]stall) {
	const ms = time.Millisecond
	ways := []way{{name: "`virsh`", kind: reference}, {name: "nothing"}, {name: "`luksplug`", kind: ours}}
	return ways, [][]stall{
		{{command: 2000 * ms, monitor: 2000 * ms, answer: 1990 * ms, timer: 1900 * ms, disk: 1900 * ms}},
		{{command: 9 * ms, monitor: 6 * ms, answer: ms, timer: 2 * ms, disk: 3 * ms}, {command: 9 * ms, monitor: 8 * ms, answer: ms, timer: 2 * ms, disk: 3 * ms}},
		{{command: 1200 * ms, monitor: 8 * ms, answer: 5 * ms, timer: 5 * ms, disk: 6 * ms}},
	}
}

func TestPublish(t *testing.T) {
	t.Parallel()
	ways, stalls := someWays()
	document := filepath.Join(t.TempDir(), "d.md")
	text := "# Before\n" + tableBegin + "old\n" + tableEnd + "after\n"
	must.OK(t, os.WriteFile(document, []byte(text), 0o600))
	var out strings.Builder
	must.OK(t, publish(&out, document, "a machine", stallTable(ways, stalls), verdict(ways, stalls)))
	if !strings.Contains(out.String(), "\nluksplug  1     1200.0 (1200.0)  0.60   5.0 (5.0)") {
		t.Errorf("printed:\n%s", out.String())
	}
	got, err := os.ReadFile(document)
	must.OK(t, err)
	for _, want := range []string{
		"# Before\n" + tableBegin + "Measured on ", ": a machine.",
		"\n| nothing | 2 | 9.0 (9.0) | 1/222 | 1.0 (1.0) | 1/1990 | 7.0 (8.0) | 1/286 | 2.0 (2.0) | 1/950 | 3.0 (3.0) | 1/633 |\n",
		"- `luksplug`: ", "1/398 of virsh's (wanted: at most 1/200, met)", "command 0.60 of virsh's (wanted: less than 1, met).\n" + tableEnd + "after\n",
	} {
		if !strings.Contains(string(got), want) {
			t.Errorf("the document lacks %q:\n%s", want, got)
		}
	}
	if strings.Contains(string(got), "old") {
		t.Error("the old table is still there")
	}
	must.OK(t, os.WriteFile(document, []byte("no marks"), 0o600))
	if err := replaceTable(document, "x"); err == nil {
		t.Error("a document without marks was changed")
	}
}

func TestRatio(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		of, to time.Duration
		want   string
	}{{0, 5, "0.00"}, {5, 5, "1.00"}, {15, 10, "1.50"}, {2, 19, "0.11"}, {2, 20, "1/10"}, {3, 2300, "1/767"}} {
		if got := ratio(c.of, c.to); got != c.want {
			t.Errorf("ratio of %d to %d is %s, want %s", c.of, c.to, got, c.want)
		}
	}
}

// TestPing: the pings measure a monitor that does not answer for a while.
func TestPing(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root has real-time priorities")
	}
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	must.OK(t, err)
	const slow, which = 60 * time.Millisecond, 3
	ended := make(chan error, 1)
	asked := make(chan struct{})
	go func() { ended <- serve(listener, slow, which, asked) }()
	monitor, err := dialBlocking(socket)
	must.OK(t, err)
	p := startPing(monitor)
	<-asked
	got, err := p.stop()
	if err != nil || got.answer < slow || got.gap < got.answer || got.gap > time.Minute {
		t.Errorf("%+v, error %v", got, err)
	}
	if err := errors.Join(monitor.Close(), <-ended, listener.Close()); err != nil {
		t.Error(err)
	}
}

// serve is a monitor that delays one of its answers and sends an event before each.
func serve(listener net.Listener, slow time.Duration, which int, asked chan<- struct{}) error {
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	if _, err := conn.Write([]byte(`{"QMP":{}}` + "\n")); err != nil {
		return err
	}
	r := bufio.NewReader(conn)
	for i := 0; ; i++ {
		if _, err := r.ReadString('\n'); err != nil {
			return nil // closed
		}
		if i == which {
			time.Sleep(slow) // the delay to measure
		}
		if _, err := conn.Write([]byte(`{"event":"X"}` + "\n" + `{"return":{}}` + "\n")); err != nil {
			return err
		}
		if i == which+1 {
			close(asked)
		}
	}
}
