package schemacache

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/qmptest"
	"github.com/luksplug/luksplug/qmp"
)

// fakeVersion, in the environment, makes this test binary an emulator of that version, or a silent one.
const fakeVersion = "SCHEMACACHE_FAKE_VERSION"

func TestMain(m *testing.M) {
	if version := os.Getenv(fakeVersion); version != "" {
		serveFake(version)
		os.Exit(0)
	}
	// As luksplug does, to protect its memory from other processes of the same user.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// serveFake speaks QMP on descriptor 3, as a real emulator does. The test notices failed writes.
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

// vm is a running QEMU in the role of one with a guest.
type vm struct {
	unix, tcp string // its monitors
	pid       int
}

// startVM starts the program. Its first monitor is QEMU's own socket, so that
// the kernel names QEMU as the peer.
func startVM(t testing.TB, program string) vm {
	t.Helper()
	path := filepath.Join(qmptest.SocketDir(t), "qmp.sock")
	q := qmptest.StartProgram(t, program, "-machine", "none", "-qmp", "unix:"+path+",server=on,wait=off")
	c, err := qmp.Dial(qmptest.Context(t), q.TCP) // once it greets, its other sockets exist
	must.OK(t, err)
	must.OK(t, c.Close())
	return vm{unix: path, tcp: q.TCP, pid: q.Cmd.Process.Pid}
}

// aside queries the program at path.
func aside(ctx context.Context, path string) (answer, error) {
	p, err := openProgram(path)
	if err != nil {
		return answer{}, err
	}
	defer p.close()
	return p.aside(ctx)
}

// schemaOf connects to a monitor, queries the schema, and reports whether the QEMU itself was queried for it.
func schemaOf(t testing.TB, address string, source qmp.SchemaSource) (schema *qmp.Schema, asked bool) {
	t.Helper()
	c, err := qmp.Dial(qmptest.Context(t), address, qmp.WithSchemaSource(source), qmp.WithTrace(func(e qmp.TraceEntry) {
		if e.Direction == qmp.Sent && strings.Contains(string(e.JSON), "query-qmp-schema") {
			asked = true
		}
	}))
	must.OK(t, err)
	defer func() { must.OK(t, c.Close()) }()
	schema, err = c.Schema(qmptest.Context(t))
	must.OK(t, err)
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

// programDir is a directory whose files may be run by the rules of this package.
func programDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	var fs unix.Statfs_t
	must.OK(t, unix.Statfs(dir, &fs))
	if fs.Flags&unix.ST_NOSUID != 0 {
		t.Skip("the directory for temporary files is mounted nosuid: set TMPDIR to one that is not")
	}
	return dir
}

// countingEmulator is QEMU, and a file that gets a line each time it is started.
func countingEmulator(t testing.TB) (path string, starts func() int) {
	t.Helper()
	dir := programDir(t)
	log := filepath.Join(dir, "starts")
	path = qmptest.WriteProgram(t, filepath.Join(dir, "qemu-counting"), fmt.Sprintf("echo $$ >> '%s'; exec '%s' \"$@\"", log, qmptest.QEMUPath(t)))
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
	must.OK(t, err)
	return qmptest.WriteProgram(t, filepath.Join(programDir(t), "qemu-fake"),
		fmt.Sprintf("%s\n%s='%s' exec '%s'", before, fakeVersion, version, self))
}
