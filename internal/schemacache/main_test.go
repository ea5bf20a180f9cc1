package schemacache

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/qmp"
)

// fakeVersion, in the environment, makes this test binary an emulator of that
// version, or one that says nothing.
const fakeVersion = "SCHEMACACHE_FAKE_VERSION"

func TestMain(m *testing.M) {
	if version := os.Getenv(fakeVersion); version != "" {
		serveFake(version)
		os.Exit(0)
	}
	// As luksplug does, to keep others of the same user out of its memory.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// serveFake speaks QMP on descriptor 3, the way a real emulator would. What it
// cannot write, the test notices.
func serveFake(version string) {
	conn := os.NewFile(3, "monitor")
	in := bufio.NewScanner(conn)
	if version != "silent" {
		_, _ = fmt.Fprintf(conn, `{"QMP":{"version":{"qemu":{"major":%s,"minor":0,"micro":0},"package":"fake"}}}`+"\n", version)
	}
	for in.Scan() {
		var cmd struct {
			Execute string
			ID      json.RawMessage
		}
		if err := json.Unmarshal(in.Bytes(), &cmd); err != nil {
			return
		}
		value := map[string]string{"query-target": `{"arch":"x86_64"}`, "query-qmp-schema": `[]`}[cmd.Execute]
		if value == "" {
			value = "{}"
		}
		_, _ = fmt.Fprintf(conn, `{"return":%s,"id":%s}`+"\n", value, cmd.ID)
	}
}

const patience = 30 * time.Second

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// qemuPath is the real emulator.
func qemuPath(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("qemu-system-x86_64 is not installed: install QEMU to run this test")
	}
	return path
}

// vm is a running QEMU that stands for one with a guest.
type vm struct {
	unix, tcp string // its monitors
	pid       int
}

// startVM starts the program. Its first monitor is QEMU's own socket, so that
// the kernel names QEMU as the peer.
func startVM(t testing.TB, program string) vm {
	t.Helper()
	dir, err := os.MkdirTemp("", "vm") // a unix socket's path has 107 bytes
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	defer func() { must(t, listener.Close()) }()
	file, err := listener.File()
	must(t, err)
	defer func() { must(t, file.Close()) }()
	v := vm{unix: filepath.Join(dir, "qmp.sock"), tcp: listener.Addr().String()}
	cmd := exec.Command(program, "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none",
		"-qmp", "unix:"+v.unix+",server=on,wait=off",
		"-chardev", "socket,id=tcp,fd=3,server=on,wait=off", "-mon", "chardev=tcp,mode=control")
	cmd.ExtraFiles, cmd.Stderr = []*os.File{file}, os.Stderr
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended already
		_ = cmd.Wait()         // as above
	})
	v.pid = cmd.Process.Pid
	c, err := qmp.Dial(testContext(t), v.tcp) // once it greets, its other sockets exist
	must(t, err)
	must(t, c.Close())
	return v
}

// schemaOf connects to a monitor, asks for the schema, and says whether the QEMU
// itself was asked for it.
func schemaOf(t testing.TB, address string, source qmp.SchemaSource) (schema *qmp.Schema, asked bool) {
	t.Helper()
	c, err := qmp.Dial(testContext(t), address, qmp.WithSchemaSource(source), qmp.WithTrace(func(e qmp.TraceEntry) {
		if e.Direction == qmp.Sent && strings.Contains(string(e.JSON), "query-qmp-schema") {
			asked = true
		}
	}))
	must(t, err)
	defer func() { must(t, c.Close()) }()
	schema, err = c.Schema(testContext(t))
	must(t, err)
	if !schema.Supports("blockdev-add", "luks") {
		t.Error("the schema is none of QEMU's")
	}
	return schema, asked
}

// reports gathers what a cache reports.
type reports struct {
	mu   sync.Mutex
	errs []error
}

func (r *reports) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err)
}

func (r *reports) all() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.errs
}

// none fails the test if anything was reported.
func (r *reports) none(t testing.TB) {
	t.Helper()
	for _, err := range r.all() {
		t.Errorf("reported: %v", err)
	}
}

// programDir is a folder whose files may be run by the rules of this package.
func programDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	var fs unix.Statfs_t
	must(t, unix.Statfs(dir, &fs))
	if fs.Flags&unix.ST_NOSUID != 0 {
		t.Skip("the folder for temporary files is mounted nosuid: set TMPDIR to one that is not")
	}
	return dir
}

// countingEmulator is QEMU, and a file that gets a line each time it is started.
func countingEmulator(t testing.TB) (path string, starts func() int) {
	t.Helper()
	dir := programDir(t)
	log := filepath.Join(dir, "starts")
	path = writeProgram(t, filepath.Join(dir, "qemu-counting"), fmt.Sprintf("echo $$ >> '%s'; exec '%s' \"$@\"", log, qemuPath(t)))
	return path, func() int {
		text, err := os.ReadFile(log)
		if err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
		return strings.Count(string(text), "\n")
	}
}

// fakeEmulator is an emulator of another version, see serveFake.
func fakeEmulator(t testing.TB, version, before string) string {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	return writeProgram(t, filepath.Join(programDir(t), "qemu-fake"),
		fmt.Sprintf("%s\n%s='%s' exec '%s'", before, fakeVersion, version, self))
}

// writeProgram makes a program of shell commands. A process that another test
// forks meanwhile inherits the file open for writing for a moment, and the kernel
// refuses to run it then; so a lock keeps forks away.
func writeProgram(t testing.TB, path, commands string) string {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	must(t, os.WriteFile(path, []byte("#!/bin/sh\n"+commands+"\n"), 0o700))
	return path
}

// copyProgram copies QEMU.
func copyProgram(t testing.TB, path string) {
	t.Helper()
	in, err := os.Open(qemuPath(t))
	must(t, err)
	defer func() { must(t, in.Close()) }()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	must(t, err)
	_, err = io.Copy(out, in)
	must(t, err)
	must(t, out.Close())
}
