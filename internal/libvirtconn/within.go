package libvirtconn

import (
	"context"
	"fmt"
)

// Within calls f, which knows no context, as none of go-libvirt does. A libvirt
// that does not answer is left to itself when ctx ends.
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
