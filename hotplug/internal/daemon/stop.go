package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/qmp"
)

// patience is how long a daemon may take to end, in three stages.
type patience struct {
	quit time.Duration // after the command quit
	term time.Duration // after SIGTERM
	kill time.Duration // after SIGKILL, which a process in a system call may not see at once
}

// usual returns long times for a daemon, which flushes its images before it ends,
// possibly to a slow disk. A helper has nothing to flush.
func (k Kind) usual() patience {
	if k == KindHelper {
		return patience{term: 2 * time.Second, kill: 10 * time.Second}
	}
	return patience{quit: 20 * time.Second, term: 20 * time.Second, kill: 10 * time.Second}
}

// Stop ends the daemon, removes its directory and closes the connection. The daemon is told
// to quit, which flushes and closes its images; after 20 s it gets SIGTERM, and after 20 s
// more SIGKILL. Then the error wraps [ErrKilled], but nothing is left either.
//
// Stop may be called again, and after the daemon has ended by itself. If ctx ends before
// the daemon, Stop returns ctx's error. The daemon still ends, and a further Stop
// removes its directory.
func (d *Daemon) Stop(ctx context.Context) error { return d.stop(ctx, KindStorage.usual()) }

func (d *Daemon) stop(ctx context.Context, p patience) error {
	defer func() { _ = d.client.Close() }() // the daemon has ended or will
	quit := func(ctx context.Context) error {
		ctx, cancel := ending.After(ctx, p.quit)
		defer cancel()
		_, err := d.client.Execute(ctx, qmp.Command{Execute: "quit"})
		return err
	}
	if err := stopAndClear(ctx, d.info, quit, p); err != nil || d.child == nil {
		return err
	}
	<-d.child.done // reaped
	return nil
}

// Stop ends the daemon of a directory like [Daemon.Stop], but by SIGTERM, which needs no
// monitor and has the same effect. It removes the remains of a dead daemon. A missing
// directory is no error.
func Stop(ctx context.Context, dir string) error {
	info, running, err := inspectOrClear(ctx, dir)
	if !running {
		return err
	}
	return stopAndClear(ctx, info, nil, info.Kind.usual())
}

// Abort ends the daemon of a directory at once, and removes the directory. It is for a
// daemon that has written nothing, and may be waiting for a server that does not answer. A
// missing directory is no error.
func Abort(ctx context.Context, dir string) error {
	info, running, err := inspectOrClear(ctx, dir)
	if !running {
		return err
	}
	err = stopAndClear(ctx, info, nil, patience{term: 200 * time.Millisecond, kill: KindStorage.usual().kill})
	if errors.Is(err, ErrKilled) {
		return clearStale(ctx, dir)
	}
	return err
}

// inspectOrClear returns the running daemon of a directory. If there is none, it removes
// the remains of a dead one.
func inspectOrClear(ctx context.Context, dir string) (info Info, running bool, err error) {
	info, err = Inspect(dir)
	if errors.Is(err, ErrNotRunning) {
		return info, false, clearStale(ctx, dir)
	}
	return info, err == nil, err
}

// stopAndClear ends a daemon and removes its directory, unless another daemon uses it by
// then. quit, if given, tells the daemon to end.
func stopAndClear(ctx context.Context, info Info, quit func(context.Context) error, p patience) error {
	h, err := info.Process.Open()
	if err == nil {
		err = end(ctx, h, quit, p)
		h.Close()
	}
	if err != nil && !errors.Is(err, hostproc.ErrEnded) && !errors.Is(err, ErrKilled) {
		return fmt.Errorf("stop the %s in %s: %w", info.Kind.name(), info.Dir, err)
	}
	if errors.Is(err, hostproc.ErrEnded) || info.Kind == KindHelper {
		err = nil
	}
	return errors.Join(err, clearStale(ctx, info.Dir))
}

// clearStale removes a directory that has no running daemon.
func clearStale(ctx context.Context, dir string) error {
	d, err := openDirectory(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.close()
	err = d.lock(ctx) // wait for an unfinished Start
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, h, err := d.running()
	if errors.Is(err, ErrNotRunning) {
		return d.remove()
	}
	if err == nil {
		h.Close()
	}
	return err
}

// end ends the process and waits until it has ended.
func end(ctx context.Context, h *hostproc.Handle, quit func(context.Context) error, p patience) error {
	if quit != nil && quit(ctx) == nil {
		if ended, err := waitFor(ctx, h, p.quit); ended || err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if ended, err := terminate(ctx, h, p.term); ended || err != nil {
		return err
	}
	if err := h.Signal(unix.SIGKILL); err != nil {
		return err
	}
	ended, err := waitFor(ctx, h, p.kill)
	if err != nil {
		return err
	}
	if !ended {
		return fmt.Errorf("process %d does not end even by SIGKILL, it may wait for a disk: %w", h.Process().PID, context.DeadlineExceeded)
	}
	return fmt.Errorf("%w (process %d): it did not end on request", ErrKilled, h.Process().PID)
}

// termAgain is how often SIGTERM is repeated. If the signal comes just before the storage
// daemon begins to wait for events, it acts on it only at the next signal or event.
const termAgain = 250 * time.Millisecond

// terminate sends SIGTERM until the process has ended, at most for d.
func terminate(ctx context.Context, h *hostproc.Handle, d time.Duration) (ended bool, err error) {
	for deadline := time.Now().Add(d); ; {
		if err := h.Signal(unix.SIGTERM); err != nil {
			return false, err
		}
		left := time.Until(deadline)
		if ended, err := waitFor(ctx, h, min(termAgain, left)); ended || err != nil {
			return ended, err
		}
		if left <= termAgain {
			return false, nil
		}
	}
}

// waitFor waits for the process, at most for d. The error is ctx's own.
func waitFor(ctx context.Context, h *hostproc.Handle, d time.Duration) (ended bool, err error) {
	bounded, cancel := ending.After(ctx, d)
	defer cancel()
	err = h.Wait(bounded)
	if err == nil {
		return true, nil
	}
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return false, nil
	}
	return false, err
}
