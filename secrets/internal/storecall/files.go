package storecall

import (
	"context"
	"fmt"
	"time"
)

// lateness is the time that a function has to return by itself after its context has ended.
const lateness = 300 * time.Millisecond

// Files returns the result of f, which accesses the files of path and ends with ctx, except
// where a file system does not answer: the calls of a hard mount of NFS wait for its server
// without a limit. Files then returns an error that wraps ctx.Err(), and f continues in the
// background; if it succeeds later and late is not nil, late is called with its value.
func Files[T any](ctx context.Context, path string, f func() (T, error), late func(T)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result)
	abandoned := make(chan struct{})
	go func() {
		var r result
		r.value, r.err = f()
		select {
		case done <- r:
		case <-abandoned:
			if r.err == nil && late != nil {
				late(r.value)
			}
		}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
	}
	grace := time.NewTimer(lateness)
	defer grace.Stop()
	select {
	case r := <-done:
		return r.value, r.err
	case <-grace.C:
		close(abandoned)
		var none T
		return none, fmt.Errorf("the file system of %s does not answer: %w", path, ctx.Err())
	}
}

// Change is [Files] for a function that returns only an error.
func Change(ctx context.Context, path string, f func() error) error {
	_, err := Files(ctx, path, func() (struct{}, error) { return struct{}{}, f() }, nil)
	return err
}
