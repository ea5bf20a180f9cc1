package daemon

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
)

// holdOpen connects a client to the export vdb and returns what ends it.
func holdOpen(t *testing.T, d *Daemon) func() {
	t.Helper()
	cmd := exec.Command("qemu-io", "-f", "raw", url(d))
	in, err := cmd.StdinPipe()
	must.OK(t, err)
	out, err := cmd.StdoutPipe()
	must.OK(t, err)
	must.OK(t, cmd.Start())
	end := func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	t.Cleanup(end)
	if _, err := in.Write([]byte("read 0 4k\n")); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.Contains(lines.Text(), "read 4096/4096") {
			return end
		}
	}
	t.Fatal("qemu-io has not read")
	return nil
}

// watch runs Watch and returns a channel for its result.
func watch(ctx context.Context, dir string, qemu Process) <-chan error {
	result := make(chan error, 1)
	go func() { result <- Watch(ctx, dir, qemu) }()
	return result
}

func TestWatchStopsTheDaemonAfterQEMU(t *testing.T) {
	t.Parallel()
	d, _ := exported(t, Options{})
	qemu := sleeper(t)
	p := processOf(t, qemu.Process.Pid)
	result := watch(testContext(t), d.Info().Dir, p)
	tool(t, "qemu-io", "-f", "raw", "-c", "write 0 64k", url(d))
	select {
	case err := <-result:
		t.Fatalf("Watch ended early: %v", err)
	default:
	}
	must.OK(t, qemu.Process.Kill())
	must.OK(t, <-result)
	checkGone(t, d.Info())
}

func TestWatchClearsUpAfterTheDaemon(t *testing.T) {
	t.Parallel()
	d := mustStart(t, Options{})
	result := watch(testContext(t), d.Info().Dir, Process{PID: sleeper(t).Process.Pid})
	kill9(t, d.Info().Process)
	must.OK(t, <-result)
	checkGone(t, d.Info())
	if err := Watch(testContext(t), d.Info().Dir, Process{PID: os.Getpid()}); err != nil {
		t.Errorf("a Watch of nothing: %v", err)
	}
}

func TestWatchOfAnEarlierQEMU(t *testing.T) {
	t.Parallel()
	d := mustStart(t, Options{})
	self := processOf(t, os.Getpid())
	self.Start-- // an earlier process with our number
	must.OK(t, Watch(testContext(t), d.Info().Dir, self))
	checkGone(t, d.Info())
}

func TestWatchEndsWithItsContext(t *testing.T) {
	t.Parallel()
	d := mustStart(t, Options{})
	ctx, cancel := context.WithCancel(testContext(t))
	result := watch(ctx, d.Info().Dir, Process{PID: os.Getpid()})
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	if _, err := Inspect(d.Info().Dir); err != nil {
		t.Errorf("the daemon is to go on: %v", err)
	}
}

// A directory that is removed and created again while it is watched belongs to another daemon.
func TestWatchLeavesALaterDaemonAlone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(shortDir(t), "d")
	first := mustStart(t, Options{Dir: dir})
	qemu := sleeper(t)
	result := watch(testContext(t), dir, Process{PID: qemu.Process.Pid})
	must.OK(t, first.Stop(testContext(t)))
	second := mustStart(t, Options{Dir: dir})
	must.OK(t, <-result)
	if info, err := Inspect(dir); err != nil || info != second.Info() {
		t.Errorf("got %+v, %v, want the second daemon", info, err)
	}
}
