package libvirtconn

import (
	"context"
	"fmt"
)

// Within calls f, which takes no context, like all functions of go-libvirt. If ctx
// ends first, Within returns while f continues.
func Within[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		value, err := f()
		done <- answer{value, err}
	}()
	select {
	case <-ctx.Done():
		var none T
		return none, fmt.Errorf("libvirt does not answer: %w", ctx.Err())
	case a := <-done:
		return a.value, a.err
	}
}
