package schemacache

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/qmp"
)

// asideLimit bounds a QEMU that is started aside. It takes 0.1 s; a longer wait is worse than the 50 ms for
// which the VM would stall.
const asideLimit = 10 * time.Second

// answer is the report of a QEMU that was started aside. As a [qmp.SchemaSource] it has no schemas, and keeps
// the one that it receives.
type answer struct {
	id     qmp.SchemaID // Version and Target only
	raw    []byte       // the "return" value of query-qmp-schema
	schema *qmp.Schema
}

func (a *answer) Schema(context.Context, qmp.SchemaID) *qmp.Schema { return nil }

func (a *answer) Keep(_ context.Context, id qmp.SchemaID, raw []byte) {
	a.id, a.raw = qmp.SchemaID{Version: id.Version, Target: id.Target}, raw
}

// aside starts the program without a machine, queries its schema, and kills it, within 10 s. The error wraps
// ErrNotTrusted if the file is not one that may be run with the caller's rights; then nothing was started.
func (p *program) aside(ctx context.Context) (found answer, err error) {
	if err := p.trust(); err != nil {
		return found, err
	}
	ctx, cancel := ending.After(ctx, asideLimit)
	defer cancel()
	conn, far, err := hostproc.SocketPair()
	if err != nil {
		return found, err
	}
	stop, err := start(p.command(far))
	_ = far.Close() // QEMU has its own copy, or there is no QEMU
	if err != nil {
		_ = conn.Close() // as above
		return found, fmt.Errorf("start %s: %w", p.path, err)
	}
	defer stop()
	if found, err = query(ctx, conn); err != nil {
		err = fmt.Errorf("query the schema of %s: %w", p.path, err)
	}
	return found, err
}

// command returns the command line. QEMU loads nothing, reads no configuration and opens no window; -S is for
// a future emulator whose "none" has a processor.
func (p *program) command(monitor *os.File) *exec.Cmd {
	return &exec.Cmd{
		// By descriptor, so that the file that was checked is the one that runs. The path is of the new process,
		// which could not open that of this one: it is not dumpable (PR_SET_DUMPABLE).
		Path: "/proc/self/fd/4",
		Args: []string{p.path, "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-S",
			"-chardev", "socket,id=schema,fd=3", "-mon", "chardev=schema,mode=control"},
		ExtraFiles: []*os.File{monitor, p.file}, // descriptors 3 and 4
		Dir:        "/",
		Env:        []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		SysProcAttr: &syscall.SysProcAttr{
			Setpgid:   true,            // so that a terminal's ^C does not reach it, and the kill reaches its children
			Pdeathsig: syscall.SIGKILL, // if this process is killed
		},
	}
}

// start starts cmd; stop kills its process group and reaps it.
func start(cmd *exec.Cmd) (stop func(), err error) {
	started, stopping, done := make(chan error, 1), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		// Pdeathsig counts the death of the thread that started the process, and
		// Go's runtime may end a thread that no goroutine is locked to.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		<-stopping
		// Before Wait, so that the number is still that of this process's child. Both only fail if QEMU has
		// ended, as intended.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	}()
	stop = func() {
		close(stopping)
		<-done
	}
	return stop, <-started
}

// query speaks QMP over conn, and closes it.
func query(ctx context.Context, conn net.Conn) (found answer, err error) {
	client, err := qmp.NewConn(ctx, conn, qmp.WithSchemaSource(&found))
	if err != nil {
		return found, err
	}
	defer func() { _ = client.Close() }() // its QEMU is about to be killed
	found.schema, err = client.Schema(ctx)
	return found, err
}
