package luks_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
)

// BenchmarkUnlockBeside unlocks one header, made by cryptsetup with default
// settings, in three ways by turns: by this package, by `cryptsetup open
// --test-passphrase`, and by the blockdev-add of a qemu-storage-daemon, which does
// what that of a running VM does. It reports the medians of five times each.
//
// That takes longer than a benchmark usually does, so that it runs once.
func BenchmarkUnlockBeside(b *testing.B) {
	must.Have(b, "cryptsetup", "qemu-storage-daemon")
	path := must.File(b, make([]byte, 4<<20))
	run(b, "cryptsetup", "luksFormat", "-q", "--type", "luks1", "--key-file", "-", path)
	h := open(b, path)
	estimated, _, err := h.QEMUUnlockTime()
	must.OK(b, err)
	daemon := startDaemon(b, "--object", secretFile(b, []byte(passphrase)))
	ways := []struct {
		unit string
		run  func()
	}{
		{"luksplug-s", func() { unlock(b, h, passphrase).Wipe() }},
		{"cryptsetup-s", func() { run(b, "cryptsetup", "open", "--test-passphrase", "--key-file", "-", path) }},
		{"QEMU-s", func() {
			daemon.execute(b, "blockdev-add", map[string]any{"driver": "luks", "node-name": "n", "key-secret": "s",
				"file": map[string]any{"driver": "file", "filename": path}})
		}},
	}
	const times = 5
	for b.Loop() {
		taken := make([][]float64, len(ways))
		for range times {
			for i, way := range ways {
				start := time.Now()
				way.run()
				taken[i] = append(taken[i], time.Since(start).Seconds())
			}
			daemon.execute(b, "blockdev-del", map[string]any{"node-name": "n"})
		}
		for i, way := range ways {
			slices.Sort(taken[i])
			b.ReportMetric(taken[i][times/2], way.unit)
		}
		b.ReportMetric(taken[2][times/2]/taken[0][times/2], "QEMU/luksplug")
		b.ReportMetric(estimated.Seconds(), "QEMUUnlockTime-s")
		b.ReportMetric(0, "ns/op") // of all together: nothing that anybody wants to know
	}
}

// daemon is the monitor of a qemu-storage-daemon.
type daemon struct {
	to   *json.Encoder
	from *json.Decoder
}

// startDaemon starts a qemu-storage-daemon that ends with the test.
func startDaemon(t testing.TB, args ...string) daemon {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "qmp")
	listener := must.Get(net.Listen("unix", socket))(t)
	defer func() { _ = listener.Close() }() // only one connection is wanted
	cmd := exec.CommandContext(t.Context(), "qemu-storage-daemon", append(args, "--chardev", "socket,id=c,path="+socket, "--monitor", "chardev=c")...)
	must.OK(t, cmd.Start())
	t.Cleanup(func() {
		var exit *exec.ExitError // killed
		if err := errors.Join(cmd.Process.Kill(), cmd.Wait()); err != nil && !errors.As(err, &exit) {
			t.Error(err)
		}
	})
	must.OK(t, listener.(*net.UnixListener).SetDeadline(time.Now().Add(10*time.Second)))
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(fmt.Errorf("qemu-storage-daemon does not come: %w", err))
	}
	t.Cleanup(func() { _ = conn.Close() }) // nothing is in flight
	d := daemon{json.NewEncoder(conn), json.NewDecoder(conn)}
	var greeting struct{ QMP json.RawMessage }
	must.OK(t, d.from.Decode(&greeting))
	d.execute(t, "qmp_capabilities", nil)
	return d
}

// execute runs a command and waits until it has succeeded.
func (d daemon) execute(t testing.TB, command string, arguments map[string]any) {
	t.Helper()
	message := map[string]any{"execute": command}
	if arguments != nil {
		message["arguments"] = arguments
	}
	must.OK(t, d.to.Encode(message))
	for {
		var reply struct {
			Return json.RawMessage `json:"return"`
			Error  json.RawMessage `json:"error"`
		}
		must.OK(t, d.from.Decode(&reply))
		if reply.Error != nil {
			t.Fatalf("%s: %s", command, reply.Error)
		}
		if reply.Return != nil {
			return // otherwise it was an event
		}
	}
}
