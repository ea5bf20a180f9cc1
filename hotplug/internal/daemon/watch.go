package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/luksplug/luksplug/internal/hostproc"
)

// Watch waits until the VM's QEMU or the folder's daemon ends, and then stops the
// daemon and removes its folder as [Stop] does. It returns nil after that, and
// when there was nothing to do; if QEMU has ended already it does not wait. When
// ctx ends first, Watch returns ctx's error and has done nothing.
//
// It takes no processor time and does not use the monitor. If another daemon is
// started in the same folder later, that one is left alone. A daemon whose QEMU
// ends keeps what the guest had written: it is stopped, not killed.
//
// A program that does not stay should run Watch in a process of its own, before
// it leaves.
func Watch(ctx context.Context, dir string, qemu Process) error {
	info, err := Inspect(dir)
	if errors.Is(err, ErrNotRunning) {
		return clearStale(ctx, dir)
	}
	if err != nil {
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
