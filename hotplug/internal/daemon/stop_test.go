package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/must"
)

func TestCrashedDaemon(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		stop func(*Daemon) error
	}{
		{"method", func(d *Daemon) error { return d.Stop(testContext(t)) }},
		{"function", func(d *Daemon) error { return Stop(testContext(t), d.Info().Dir) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := mustStart(t, Options{})
			kill9(t, d.Info().Process)
			if _, err := Open(testContext(t), d.Info().Dir); !errors.Is(err, ErrNotRunning) {
				t.Errorf("Open: %v, want ErrNotRunning", err)
			}
			must.OK(t, c.stop(d))
			checkGone(t, d.Info())
		})
	}
}

func TestStartAfterACrash(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(shortDir(t), "d")
	first := mustStart(t, Options{Dir: dir})
	kill9(t, first.Info().Process)
	second := mustStart(t, Options{Dir: dir})
	// The first handle's Stop must not end the second's daemon.
	must.OK(t, first.Stop(testContext(t)))
	if info, err := Inspect(dir); err != nil || info != second.Info() {
		t.Errorf("got %+v, %v, want the second daemon", info, err)
	}
}

// SIGTERM is as good as quit: what a client wrote and did not flush is there.
func TestStopWithoutMonitorFlushes(t *testing.T) {
	t.Parallel()
	d, image := exported(t, Options{}) // and its connection occupies the monitor
	tool(t, "qemu-io", "-f", "raw", "-t", "writeback", "-c", "write -P 0x5a 2M 64k", url(d))
	must.OK(t, Stop(testContext(t), d.Info().Dir))
	checkGone(t, d.Info())
	expectInImage(t, image, "0x5a", "2M")
}

// A client that is still connected does not hold a daemon up.
func TestStopWithAClient(t *testing.T) {
	t.Parallel()
	d, _ := exported(t, Options{})
	client := holdOpen(t, d)
	must.OK(t, d.Stop(testContext(t)))
	checkGone(t, d.Info())
	client()
}

func TestStopKillsWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
	d := mustStart(t, Options{})
	h := open(t, d.Info().Process)
	must.OK(t, h.Signal(unix.SIGSTOP)) // so that it acts on neither quit nor SIGTERM
	short := patience{quit: 50 * time.Millisecond, term: 50 * time.Millisecond, kill: time.Minute}
	if err := d.stop(testContext(t), short); !errors.Is(err, ErrKilled) {
		t.Errorf("got %v, want ErrKilled", err)
	}
	checkGone(t, d.Info())
}

func TestStopEndsWithItsContext(t *testing.T) {
	t.Parallel()
	d := mustStart(t, Options{})
	h := open(t, d.Info().Process)
	must.OK(t, h.Signal(unix.SIGSTOP))
	ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	if err := d.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the context's error", err)
	}
	if _, err := Inspect(d.Info().Dir); err != nil {
		t.Errorf("the daemon is to be found still: %v", err)
	}
	must.OK(t, h.Signal(unix.SIGCONT))
	must.OK(t, d.Stop(testContext(t)))
	checkGone(t, d.Info())
}

func TestStopOfNothing(t *testing.T) {
	t.Parallel()
	if err := Stop(testContext(t), filepath.Join(shortDir(t), "none")); err != nil {
		t.Error(err)
	}
}

// A directory with files of others stays.
func TestStopKeepsForeignFiles(t *testing.T) {
	t.Parallel()
	d, err := Start(testContext(t), Options{Dir: filepath.Join(shortDir(t), "d")})
	must.OK(t, err)
	foreign := filepath.Join(d.Info().Dir, "notes")
	must.OK(t, os.WriteFile(foreign, nil, 0o600))
	if err := d.Stop(testContext(t)); !errors.Is(err, ErrDirectory) {
		t.Errorf("got %v, want ErrDirectory", err)
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Error(err)
	}
	if _, err := hostproc.ProcessOf(d.Info().Process.PID); !errors.Is(err, hostproc.ErrEnded) {
		t.Errorf("the process: %v", err)
	}
}

// Root does not signal a process that the directory's owner could not signal.
func TestStateThatNamesAnotherUsersProcess(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can create a directory of another user")
	}
	victim := sleeper(t)
	p := processOf(t, victim.Process.Pid)
	dir := filepath.Join(shortDir(t), "d")
	must.OK(t, makeState(dir, fmt.Sprintf(`{"pid":%d,"start":%d}`, p.PID, p.Start)))
	if _, err := Inspect(dir); err != nil { // ours is fine
		t.Fatal(err)
	}
	must.OK(t, os.Chown(dir, 65534, 65534))
	if err := Stop(testContext(t), dir); !errors.Is(err, ErrDirectory) {
		t.Errorf("got %v, want ErrDirectory", err)
	}
	if now, err := hostproc.ProcessOf(p.PID); err != nil || now != p {
		t.Errorf("the process: %v, %v", now, err)
	}
}
