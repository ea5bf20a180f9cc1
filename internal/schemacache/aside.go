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

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/qmp"
)

// asideLimit bounds a QEMU that is started aside. It takes 0.1 s; more than
// this is worse than the 50 ms for which the VM would stall.
const asideLimit = 10 * time.Second

// Answer is what a QEMU that was started aside reports about itself.
type Answer struct {
	Version string // as qmp.SchemaID has it
	Target  string // as qmp.SchemaID has it
	Raw     []byte // the "return" value of query-qmp-schema
	Schema  *qmp.Schema
}

// Aside starts the emulator at path without a machine, asks it for its schema,
// and kills it, within 10 s. The error wraps ErrNotTrusted if the file is not
// one that may be run with the caller's rights; then nothing was started.
func Aside(ctx context.Context, path string) (Answer, error) {
	p, err := openProgram(path)
	if err != nil {
		return Answer{}, err
	}
	defer p.close()
	return p.aside(ctx)
}

func (p *program) aside(ctx context.Context) (Answer, error) {
	if err := p.trust(); err != nil {
		return Answer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, asideLimit)
	defer cancel()
	conn, far, err := socketPair()
	if err != nil {
		return Answer{}, err
	}
	stop, err := start(p.command(far))
	_ = far.Close() // QEMU has its own copy, or there is no QEMU
	if err != nil {
		_ = conn.Close() // as above
		return Answer{}, fmt.Errorf("start %s: %w", p.path, err)
	}
	defer stop()
	answer, err := ask(ctx, conn)
	if err != nil {
		return Answer{}, fmt.Errorf("ask %s for its schema: %w", p.path, err)
	}
	return answer, nil
}

// command makes the command line. QEMU loads nothing, reads no configuration and
// opens no window; -S is for an emulator that gives "none" a processor some day.
func (p *program) command(monitor *os.File) *exec.Cmd {
	return &exec.Cmd{
		// By descriptor, so that the file that was checked is the one that runs. It
		// is the new process's own: ours, which keeps others out of its memory
		// (PR_SET_DUMPABLE), would keep it out, too.
		Path: "/proc/self/fd/4",
		Args: []string{p.path, "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-S",
			"-chardev", "socket,id=schema,fd=3", "-mon", "chardev=schema,mode=control"},
		ExtraFiles: []*os.File{monitor, p.file}, // descriptors 3 and 4
		Dir:        "/",
		Env:        []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		SysProcAttr: &syscall.SysProcAttr{
			Setpgid:   true,            // a terminal's ^C is for us, and the kill for its children, too
			Pdeathsig: syscall.SIGKILL, // should we be killed
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
		// Before Wait, so that the number is still that of our process. Both fail
		// only by what was meant to happen: the end of QEMU.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	}()
	stop = func() {
		close(stopping)
		<-done
	}
	return stop, <-started
}

// ask speaks QMP over conn, and closes it.
func ask(ctx context.Context, conn net.Conn) (Answer, error) {
	var heard recorder
	client, err := qmp.NewConn(ctx, conn, qmp.WithSchemaSource(&heard))
	if err != nil {
		return Answer{}, err
	}
	defer func() { _ = client.Close() }() // its QEMU is about to be killed
	schema, err := client.Schema(ctx)
	if err != nil {
		return Answer{}, err
	}
	return Answer{Version: heard.id.Version, Target: heard.id.Target, Raw: heard.raw, Schema: schema}, nil
}

// recorder is a qmp.SchemaSource that knows nothing and keeps one answer.
type recorder struct {
	id  qmp.SchemaID
	raw []byte
}

func (r *recorder) Schema(context.Context, qmp.SchemaID) *qmp.Schema { return nil }

func (r *recorder) Keep(_ context.Context, id qmp.SchemaID, raw []byte) { r.id, r.raw = id, raw }

// socketPair returns a connection and the file of its other end.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socketpair: %w", err)
	}
	near, far := os.NewFile(uintptr(fds[0]), "near"), os.NewFile(uintptr(fds[1]), "far")
	conn, err := net.FileConn(near)
	_ = near.Close() // conn is a copy
	if err != nil {
		_ = far.Close() // as above
		return nil, nil, fmt.Errorf("use a socketpair: %w", err)
	}
	return conn, far, nil
}
