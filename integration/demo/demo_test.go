package main

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// directory makes the directory in which the demo works. Its path is short, for the unix sockets in it.
func directory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "demo-")
	must.OK(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	t.Setenv("TMPDIR", dir)
	return dir
}

// wantClean fails the test if the demo has left a process or a file.
func wantClean(t *testing.T, dir string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	must.OK(t, err)
	for _, f := range files {
		if strings.HasPrefix(f.Name(), "luksplug-") {
			t.Errorf("%s is left", f.Name())
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must.OK(t, err)
	for _, p := range processes {
		line, _ := os.ReadFile(p) // the process may have ended
		if strings.Contains(string(line), dir) {
			t.Errorf("a process is left: %q", line)
		}
	}
}

func TestDemo(t *testing.T) {
	dir := directory(t)
	var out, diag strings.Builder
	if code := show(t.Context(), &out, &diag, options{}); code != 0 || diag.Len() > 0 {
		t.Fatalf("status %d, standard error %q after:\n%s", code, diag.String(), out.String())
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Error("colours without a terminal")
	}
	for _, want := range []string{"|The guest wrote |", "vdb attached", "vdb detached", "All checks passed", "make demo KEEP=1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the text lacks %q", want)
		}
	}
	wantClean(t, dir)
}

// trigger calls f when text is written.
type trigger struct {
	strings.Builder
	text string
	f    func()
}

func (w *trigger) Write(b []byte) (int, error) {
	if strings.Contains(string(b), w.text) {
		w.f()
	}
	return w.Builder.Write(b)
}

// TestKept: the VM runs on for commands of the user's, until ^C.
func TestKept(t *testing.T) {
	peer.Long(t, "runs the demonstration again; TestDemo runs it every time")
	dir := directory(t)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	input, typed := io.Pipe()
	type command struct{ line, answer string }
	commands := []command{{"echo $((6*7))", "     42\n"}, {"false", "     exit status 1\n"}}
	var diag strings.Builder
	out := &trigger{text: "commands for the guest", f: func() {
		runs, err := filepath.Glob(filepath.Join(dir, "luksplug-demo-*"))
		if err != nil || len(runs) != 1 {
			t.Errorf("directories %q, error %v", runs, err)
			return
		}
		go func() {
			defer interrupt()
			for _, c := range commands {
				_, _ = io.WriteString(typed, c.line+"\n") // the answer is missing then
			}
			_ = typed.Close() // no input any more: the VM runs on
			for _, args := range [][]string{{"--passphrase-file", "passphrase", "attach", "vdb.xml"}, {"detach", "vdb"}} {
				cmd := exec.CommandContext(ctx, "./luksplug", append([]string{"--qmp", "vm/qmp.sock"}, args...)...)
				cmd.Dir = runs[0]
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%q: %v: %s", args, err, out)
				}
			}
		}()
	}}
	if code := show(ctx, out, &diag, options{keep: true, input: input}); code != 0 || diag.Len() > 0 {
		t.Fatalf("status %d, standard error %q after:\n%s", code, diag.String(), out.String())
	}
	for _, c := range commands {
		if !strings.Contains(out.String(), c.answer) {
			t.Errorf("%s: no %q in\n%s", c.line, c.answer, out.String())
		}
	}
	wantClean(t, dir)
}

// TestInterrupted: ^C while QEMU runs.
func TestInterrupted(t *testing.T) {
	peer.Long(t, "runs the demonstration again; TestDemo runs it every time")
	dir := directory(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &trigger{text: "4. Attach", f: cancel}
	var diag strings.Builder
	if code := show(ctx, out, &diag, options{colour: true}); code != exitInterrupted {
		t.Fatalf("status %d, standard error %q after:\n%s", code, diag.String(), out.String())
	}
	if diag.String() != "demo: interrupted; QEMU was stopped and the demo's directory removed\n" {
		t.Errorf("standard error %q", diag.String())
	}
	if !strings.Contains(out.String(), bold+"4. Attach") {
		t.Error("no colours for a terminal")
	}
	wantClean(t, dir)
}

// TestFailure: a check fails, as the payload holds plain text.
func TestFailure(t *testing.T) {
	peer.Long(t, "runs the demonstration again; TestDemo runs it every time")
	dir := directory(t)
	var diag strings.Builder
	out := &trigger{text: "6. Read", f: func() {
		payloads, err := filepath.Glob(filepath.Join(dir, "luksplug-demo-*", "payload.img"))
		if err != nil || len(payloads) != 1 {
			t.Errorf("payloads %q, error %v", payloads, err)
			return
		}
		if err := os.WriteFile(payloads[0], plaintext(), 0o600); err != nil {
			t.Error(err)
		}
	}}
	if code := show(t.Context(), out, &diag, options{}); code != 1 {
		t.Fatalf("status %d after:\n%s", code, out.String())
	}
	if diag.String() != "demo: failed: the payload holds no ciphertext at offset 0\n" {
		t.Errorf("standard error %q", diag.String())
	}
	wantClean(t, dir)
}
