package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/qmp"
)

// emulator is a QEMU of some version, with a VM that never runs.
type emulator struct {
	name, program string
	qemu          *peer.QEMU
	vm            *hotplug.VM
}

// eachEmulator runs a test with the oldest QEMU that is tested, the installed one, and the newest.
func eachEmulator(t *testing.T, o peer.Options, test func(t *testing.T, e emulator)) {
	t.Helper()
	for name, program := range map[string]func(testing.TB) string{
		"oldest":    func(t testing.TB) string { return peer.MatrixQEMU(t, "bookworm") },
		"installed": installedQEMU,
		"newest":    peer.NewestQEMU,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			own := o
			own.Binary, own.Paused = program(t), true
			e := emulator{name: name, program: own.Binary, qemu: peer.Start(t, own)}
			// Next to QEMU's sockets: the paths of t.TempDir are too long for a socket.
			options := hotplug.Options{LockDir: t.TempDir(), RunDir: filepath.Join(e.qemu.Dir, "run")}
			must.OK(t, os.Mkdir(options.RunDir, 0o700))
			dial := func(ctx context.Context) (*qmp.Client, error) { return qmp.Dial(ctx, e.qemu.Socket) }
			e.vm = must.Get(hotplug.Connect(bounded(t), dial, options))(t)
			t.Cleanup(func() { _ = e.vm.Close() }) // the VM is killed anyway
			test(t, e)
		})
	}
}

func installedQEMU(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skipf("no QEMU is installed (make setup installs it): %v", err)
	}
	return path
}

// before reports whether the emulator is older than a version such as "9.0".
func (e emulator) before(t *testing.T, version string) bool {
	t.Helper()
	major, minor, _ := strings.Cut(version, ".")
	m, err1 := strconv.Atoi(major)
	n, err2 := strconv.Atoi(minor)
	if err1 != nil || err2 != nil {
		t.Fatalf("%q is no version", version)
	}
	have := e.vm.Client().Version().QEMU
	return have.Major < m || have.Major == m && have.Minor < n
}

// daemon returns the path of the emulator's storage daemon.
func (e emulator) daemon() string {
	return filepath.Join(filepath.Dir(e.program), "qemu-storage-daemon")
}

// daemonSchema returns the schema of a storage daemon's commands.
func daemonSchema(t *testing.T, program string) *qmp.Schema {
	t.Helper()
	ctx, cancel := context.WithCancel(bounded(t))
	cmd := exec.CommandContext(ctx, program, "--chardev", "stdio,id=qmp", "--monitor", "qmp")
	commands, err1 := cmd.StdinPipe() // stays open: at its end the daemon would exit before it has written everything
	replies, err2 := cmd.StdoutPipe()
	defer cancel()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	defer func() {
		cancel()
		_ = cmd.Wait() // killed
	}()
	if _, err := io.WriteString(commands, `{"execute":"qmp_capabilities"}{"execute":"query-qmp-schema"}`); err != nil {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	for lines := json.NewDecoder(replies); ; {
		var reply struct{ Return json.RawMessage }
		if err := lines.Decode(&reply); err != nil {
			t.Fatalf("%v: %v", cmd.Args, err)
		}
		if !bytes.HasPrefix(reply.Return, []byte("[")) {
			continue // the greeting, and replies without a value
		}
		schema, err := qmp.ParseSchema(reply.Return)
		if err != nil {
			t.Fatalf("%v: %v", cmd.Args, err)
		}
		return schema
	}
}
