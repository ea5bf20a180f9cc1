package integration

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// luksplug is the path of the program under test.
var luksplug string

func TestMain(m *testing.M) {
	if os.Getenv(brokenHook) != "" { // a private libvirtd runs this program as its hook
		os.Exit(runBrokenHook(os.Args[1:]))
	}
	if text := os.Getenv(copyInside); text != "" {
		os.Exit(runCopyInside(text))
	}
	flag.Parse()
	inParallel(4)
	remove := makeRecordKey()
	code := build(m)
	remove()
	os.Exit(code)
}

// inParallel lets more tests run in parallel than there are processors, as tests wait for guests, unless the
// user sets the number.
func inParallel(n int) {
	const name = "test.parallel"
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	if !given && runtime.GOMAXPROCS(0) < n {
		_ = flag.Set(name, strconv.Itoa(n)) // cannot fail: it is a number
	}
}

// makeRecordKey makes root's key for records on this machine, if it has none: private libvirtds see this machine's
// /etc as it was when they were started, and must have the same key as the program outside. remove removes a key that
// was made.
func makeRecordKey() (remove func()) {
	const path = "/etc/luksplug/record.key"
	if _, err := os.Lstat(path); os.Geteuid() != 0 || err == nil {
		return func() {}
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // it never fails
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, key, 0o600)); err != nil {
		fmt.Fprintln(os.Stderr, err) // tests of records fail
	}
	return func() { _ = os.Remove(path) } // it may be gone
}

// build builds the program once and runs the tests.
func build(m *testing.M) int {
	dir, err := os.MkdirTemp("", "luksplug-tool-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	luksplug = filepath.Join(dir, "luksplug")
	cmd := exec.Command("go", "build", "-trimpath", "-o", luksplug, "github.com/luksplug/luksplug/cmd/luksplug")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the program under test: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// result is the result of a run of the program.
type result struct {
	code           int
	stdout, stderr string // an error in JSON is in stderr as text
	printed        string // standard error as it is
}

// tool runs the program on the monitor at address. A program that cannot be run or is killed ends the test.
func tool(ctx context.Context, t *testing.T, address string, args ...string) result {
	t.Helper()
	return run(ctx, t, program(ctx, address, args...))
}

// program returns a command that runs the program on the monitor at address.
func program(ctx context.Context, address string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, luksplug, append(named(address), args...)...)
}

// named returns the arguments that name the VM whose monitor is at address, which may be a proxy.
func named(address string) []string {
	args := []string{"--qmp", address}
	if pid := peer.Behind(address); pid != 0 {
		args = append(args, "--qemu-pid", strconv.Itoa(pid))
	}
	return args
}

func run(ctx context.Context, t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	return finished(ctx, t, cmd, cmd.Run(), &stdout, &stderr)
}

// finished returns the result of a command that has ended with err. One that did not run, or was killed, ends the test.
func finished(ctx context.Context, t *testing.T, cmd *exec.Cmd, err error, stdout, stderr *bytes.Buffer) result {
	t.Helper()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() < 0) {
		t.Fatalf("%v: %v (%v)\n%s", cmd.Args, err, ctx.Err(), stderr.String())
	}
	return result{cmd.ProcessState.ExitCode(), stdout.String(), inText(t, stderr.String()), stderr.String()}
}

// inText returns standard error with the error as it would be without --output json, so that one expectation is right
// for both. TestJSONOfErrors is about the JSON.
func inText(t *testing.T, stderr string) string {
	t.Helper()
	begin := strings.LastIndex(strings.TrimSuffix(stderr, "\n"), "\n") + 1
	if !strings.HasPrefix(stderr[begin:], `{"error":`) {
		return stderr
	}
	var failure struct {
		Error string
		Hints []string
	}
	must.OK(t, json.Unmarshal([]byte(stderr[begin:]), &failure))
	text := "luksplug: " + failure.Error
	if len(failure.Hints) > 0 {
		text += " (" + strings.Join(failure.Hints, "; ") + ")"
	}
	return stderr[:begin] + text + "\n"
}

// want ends the test unless the program ended with code.
func (r result) want(t *testing.T, code int) result {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit code %d, want %d\nstdout: %s\nstderr: %s", r.code, code, r.stdout, r.stderr)
	}
	return r
}

// wantStdout checks that the program printed all of these texts.
func (r result) wantStdout(t *testing.T, texts ...string) result {
	t.Helper()
	wantTexts(t, "standard output", r.stdout, texts)
	return r
}

// wantStderr is wantStdout for standard error.
func (r result) wantStderr(t *testing.T, texts ...string) result {
	t.Helper()
	wantTexts(t, "standard error", r.stderr, texts)
	return r
}

func wantTexts(t *testing.T, where, got string, texts []string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(got, text) {
			t.Errorf("%s does not have %q:\n%s", where, text, got)
		}
	}
}

// decode decodes the output of --output json.
func (r result) decode(t *testing.T, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.stdout), into); err != nil {
		t.Fatalf("standard output is not JSON: %v\n%s", err, r.stdout)
	}
}

// disksIn returns the disks that list has printed.
func disksIn[T any](t *testing.T, r result) []T {
	t.Helper()
	var list struct{ Disks []T }
	r.want(t, 0).decode(t, &list)
	return list.Disks
}

// bounded returns a test's context. It allows minutes: guests are emulated and tests share the processors.
func bounded(t *testing.T) context.Context {
	t.Helper()
	limit := 5 * time.Minute
	if peer.IsLong() {
		limit = 30 * time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

// shortDir makes a directory below parent, "" for the usual one, whose path is short enough for a socket.
func shortDir(t *testing.T, parent string) string {
	t.Helper()
	dir := must.Get(os.MkdirTemp(parent, "luksplug-test-"))(t)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// writeFile puts content into a file of the test's own directory.
func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	must.OK(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// script writes a shell script with that name into a directory of its own, and returns its path.
func script(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	must.OK(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755))
	return path
}

// machine is a VM of a test: a QEMU that it has started, or a libvirt domain.
type machine interface {
	State(context.Context) (peer.State, error)
	Guest() *peer.Guest
}

// stateOf queries the VM's state, over another monitor than the program's.
func stateOf(ctx context.Context, t *testing.T, vm machine) peer.State {
	t.Helper()
	return must.Get(vm.State(ctx))(t)
}

// wantSame ends the test unless the VM is as it was before.
func wantSame(ctx context.Context, t *testing.T, vm machine, before peer.State) {
	t.Helper()
	if diff := before.Diff(stateOf(ctx, t, vm)); len(diff) > 0 {
		t.Fatalf("the VM is not as it was before: %q", diff)
	}
}

// wantSameObjects checks that an attach left no object in QEMU.
func wantSameObjects(ctx context.Context, t *testing.T, vm machine, before peer.State) {
	t.Helper()
	if after := stateOf(ctx, t, vm); !slices.Equal(before.Objects, after.Objects) {
		t.Errorf("objects before the attach %v, after it %v", before.Objects, after.Objects)
	}
}

// booted starts a VM whose guest accepts commands.
func booted(ctx context.Context, t *testing.T, o peer.Options) *peer.QEMU {
	t.Helper()
	o.Guest = true
	q := peer.Start(t, o)
	must.OK(t, q.Guest().WaitBoot(ctx))
	return q
}

// guestDisk waits for a disk in the guest and returns its device.
func guestDisk(ctx context.Context, t *testing.T, vm machine, serial string) string {
	t.Helper()
	return must.Get(vm.Guest().WaitDisk(ctx, serial))(t)
}
