package peer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Restart ends libvirtd and starts it again, as an update of its package does. Its
// domains run on.
func (l *Libvirt) Restart(ctx context.Context) error { return l.restart(ctx, "TERM") }

// Crash is Restart for a libvirtd that has no time to end.
func (l *Libvirt) Crash(ctx context.Context) error { return l.restart(ctx, "KILL") }

func (l *Libvirt) restart(ctx context.Context, signal string) error {
	mark := filepath.Join(l.Dir, "restart")
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return err
	}
	if out, err := l.Inside(ctx, "sh", "-c", "kill -"+signal+" $(cat /run/libvirt/libvirtd.pid)").CombinedOutput(); err != nil {
		return fmt.Errorf("end libvirtd: %w: %s", err, out)
	}
	for { // the old one answers until it has ended
		if _, err := os.Lstat(mark); errors.Is(err, fs.ErrNotExist) {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("libvirtd does not end: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err := l.waitReady(ctx); err != nil {
		return fmt.Errorf("libvirtd after its restart: %w: %s", err, tail(l.Log, 2000))
	}
	return nil
}
