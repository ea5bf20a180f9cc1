package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/luksplug/luksplug/internal/hostproc"
)

// Watch waits until the VM's QEMU or the directory's daemon ends, and then stops the daemon
// and removes its directory like [Stop]. It returns nil after that, and if there is no
// daemon; it does not wait if QEMU has ended already. If ctx ends first, Watch returns ctx's
// error and has changed nothing. It does not affect a later daemon in the same directory.
//
// It takes no processor time and does not use the monitor. A short-lived program should run
// Watch in a process of its own.
func Watch(ctx context.Context, dir string, qemu Process) error {
	info, running, err := inspectOrClear(ctx, dir)
	if !running {
		return err
	}
	if err := waitForEither(ctx, info.Process, qemu); err != nil {
		return fmt.Errorf("watch the storage daemon in %s: %w", dir, err)
	}
	return stopAndClear(ctx, info, nil, info.Kind.usual())
}

// waitForEither waits until one of two processes has ended.
func waitForEither(ctx context.Context, one, other Process) error {
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan error, 2)
	var waits sync.WaitGroup
	defer waits.Wait() // so that no goroutine outlives us
	defer cancel()
	for _, p := range []Process{one, other} {
		waits.Go(func() {
			h, err := p.Open()
			if err == nil {
				defer h.Close()
				err = h.Wait(ctx)
			}
			results <- err
		})
	}
	err := <-results
	if errors.Is(err, hostproc.ErrEnded) {
		return nil
	}
	return err
}
