package peer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Restart ends libvirtd and starts it again, as an update of its package does. Its domains continue to run.
func (l *Libvirt) Restart(ctx context.Context) error { return l.restart(ctx, "TERM") }

// Crash is Restart with a libvirtd that is killed.
func (l *Libvirt) Crash(ctx context.Context) error { return l.restart(ctx, "KILL") }

func (l *Libvirt) restart(ctx context.Context, signal string) error {
	mark := filepath.Join(l.Dir, "restart")
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return err
	}
	if out, err := l.Inside(ctx, "sh", "-c", "kill -"+signal+" $(cat /run/libvirt/libvirtd.pid)").CombinedOutput(); err != nil {
		return fmt.Errorf("end libvirtd: %w: %s", err, out)
	}
	// The old libvirtd answers until it has ended.
	err := waitFor(ctx, l.process, "the end of libvirtd", func() bool { _, err := os.Lstat(mark); return errors.Is(err, fs.ErrNotExist) })
	if err == nil {
		err = l.waitReady(ctx)
	}
	if err != nil {
		return fmt.Errorf("libvirtd after its restart: %w: %s", err, tail(l.Log, 2000))
	}
	return nil
}
