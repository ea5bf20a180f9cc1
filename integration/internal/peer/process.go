package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
)

// shortDir makes a directory that is removed when the test ends. Its path is short: with a long test name, a
// path below t.TempDir does not fit into a unix socket's address of 108 bytes.
func shortDir(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "luksplug-"+name+"-")
	must.OK(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// atEnd calls end when the test ends and, if the test has failed, logs the end of each log file.
func atEnd(t testing.TB, end func(), logs ...string) {
	t.Helper()
	t.Cleanup(func() {
		end()
		for _, log := range logs {
			if t.Failed() {
				t.Logf("%s: %s", log, tail(log, 4000))
			}
		}
	})
}

// Long skips a slow test unless LUKSPLUG_LONG is set, as make test-long does.
func Long(t testing.TB, why string) {
	t.Helper()
	if !IsLong() {
		t.Skipf("%s (make test-long runs it)", why)
	}
}

// IsLong reports whether slow tests run, see [Long].
func IsLong() bool { return os.Getenv("LUKSPLUG_LONG") != "" }

// process is a child that dies with its parent.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the child was reaped
	err  error         // the result of Wait; valid after done
}

// startTied starts cmd, with its output in a new file log. The kernel kills it when this process ends, also
// after a crash.
//
// PR_SET_PDEATHSIG applies to the thread that forked, not to the process, and the Go runtime may retire a
// thread at any time. So one goroutine keeps its thread from the fork until the child is reaped.
func startTied(cmd *exec.Cmd, log string) (*process, error) {
	file, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // the child has its own copy
	cmd.Stdout, cmd.Stderr = file, file
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr.Setpgid = true // ^C of the terminal reaches only the test, which then stops its peers in order
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err = <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	return p, nil
}

// pid is the child's process id.
func (p *process) pid() int { return p.cmd.Process.Pid }

// exited reports whether the child has ended.
func (p *process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// signal sends a signal to the child and those of its own children that are in its process group.
func (p *process) signal(s syscall.Signal) error { return syscall.Kill(-p.pid(), s) }

// kill ends the child and waits until it is reaped.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails only if it has already ended
	<-p.done
}

// Build builds one of this module's programs, without cgo. The error carries the compiler's messages.
func Build(ctx context.Context, program, to string) error {
	_, err := Output(ctx, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, "github.com/luksplug/luksplug/"+program)
	return err
}

// Output runs a tool to its end and returns its standard output. The error carries the command and its
// standard error.
func Output(ctx context.Context, name string, args ...string) (string, error) {
	return run(exec.CommandContext(ctx, name, args...))
}

func run(cmd *exec.Cmd) (string, error) {
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return "", fmt.Errorf("%s is not installed (make setup installs it): %w", cmd.Path, err)
		}
		return out.String(), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(diag.String()))
	}
	return out.String(), nil
}

// tail returns the last part of a file for messages. It is empty if the file cannot be read.
func tail(path string, limit int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	if len(data) > limit {
		data = data[len(data)-limit:]
	}
	return strings.TrimSpace(string(data))
}
