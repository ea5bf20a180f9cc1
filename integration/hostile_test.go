package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
)

// hostile is a monitor that no real QEMU is: it greets, answers qmp_capabilities, and then each command as serve says.
// It returns its address.
func hostile(t *testing.T, serve func(conn net.Conn, command string, id json.RawMessage)) string {
	t.Helper()
	path := filepath.Join(shortDir(t, ""), "qmp")
	listener := must.Get(net.Listen("unix", path))(t)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }() // the program may have closed it
				in := bufio.NewReader(conn)
				_, _ = fmt.Fprintln(conn, `{"QMP":{"version":{"qemu":{"micro":2,"minor":0,"major":10},"package":""},"capabilities":[]}}`)
				for {
					line, err := in.ReadBytes('\n')
					var c struct {
						Execute string
						ID      json.RawMessage
					}
					switch {
					case err != nil || json.Unmarshal(line, &c) != nil:
						return
					case c.Execute == "qmp_capabilities":
						_, _ = fmt.Fprintf(conn, `{"return":{},"id":%s}`+"\n", c.ID)
					default:
						serve(conn, c.Execute, c.ID)
					}
				}
			}()
		}
	}()
	return path
}

// TestHostileMonitor: whatever a QEMU sends, the program ends within its time limit, and its memory stays of the order
// of the bound of a message, which is 16 MiB.
func TestHostileMonitor(t *testing.T) {
	t.Parallel()
	repeat := func(conn net.Conn, text string) {
		chunk := []byte(strings.Repeat(text, 64<<10/len(text)))
		for {
			if _, err := conn.Write(chunk); err != nil {
				return
			}
		}
	}
	var nodes strings.Builder
	for i := range 200_000 {
		fmt.Fprintf(&nodes, `{"node-name":"luksplug-vd%c%c%c%c-luks"},`, 'a'+i/26/26/26%26, 'a'+i/26/26%26, 'a'+i/26%26, 'a'+i%26)
	}
	crowd := "[" + strings.TrimSuffix(nodes.String(), ",") + "]"
	const event = `{"event":"RESUME","data":{"x":"yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"},"timestamp":{"seconds":1,"microseconds":1}}` + "\n"
	for name, c := range map[string]struct {
		serve func(conn net.Conn, command string, id json.RawMessage)
		args  []string
		code  int
	}{
		"an endless line": {func(conn net.Conn, _ string, _ json.RawMessage) {
			_, _ = fmt.Fprint(conn, `{"return":"`)
			repeat(conn, "x")
		}, []string{"list"}, 1},
		"an endless flood of events": {func(conn net.Conn, _ string, _ json.RawMessage) { repeat(conn, event) }, []string{"list"}, 1},
		"endless nesting": {func(conn net.Conn, _ string, _ json.RawMessage) {
			_, _ = fmt.Fprint(conn, `{"return":`)
			repeat(conn, "[")
		}, []string{"list"}, 1},
		"200,000 nodes, listed":   {answers(crowd), []string{"list"}, 0},
		"200,000 nodes, repaired": {answers(crowd), []string{"repair"}, 7},
	} {
		t.Run(name, func(t *testing.T) {
			const limit = 5 * time.Second
			args := append([]string{"--qmp", hostile(t, c.serve), "--timeout", limit.String()}, c.args...)
			cmd := exec.CommandContext(bounded(t), luksplug, args...)
			var stderr strings.Builder
			cmd.Stderr = &stderr
			begin := time.Now()
			_ = cmd.Run() // its exit code is below
			took, peak := time.Since(begin), cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss/1024
			t.Logf("exit code %d after %s, with %d MiB: %.200s", cmd.ProcessState.ExitCode(), took.Round(10*time.Millisecond), peak, stderr.String())
			// What is repaired within the limit is up to the host.
			if code := cmd.ProcessState.ExitCode(); code != c.code && (c.args[0] != "repair" || code == 0) {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			const most = 600 // MiB, most of it for the table of 200,000 leftovers
			if took > limit+30*time.Second || peak > most {
				t.Errorf("it took %s and %d MiB", took, peak)
			}
		})
	}
}

// answers is a QEMU with these nodes and nothing else, which removes nothing.
func answers(nodes string) func(conn net.Conn, command string, id json.RawMessage) {
	return func(conn net.Conn, command string, id json.RawMessage) {
		value := "{}"
		switch command {
		case "query-named-block-nodes":
			value = nodes
		case "qom-list", "query-block", "query-fdsets", "query-chardev":
			value = "[]"
		case "query-uuid":
			value = `{"UUID":"0a81f5b2-8403-4b23-88d6-21ccc2f80d6f"}`
		}
		_, _ = fmt.Fprintf(conn, `{"return":%s,"id":%s}`+"\n", value, id)
	}
}
