package storecall_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// TestFiles: what hangs is abandoned, and what ends with its context returns its own error.
func TestFiles(t *testing.T) {
	t.Parallel()
	own := errors.New("its own")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if n, err := storecall.Files(ctx, "/x", func() (int, error) { return 1, own }, nil); n != 1 || !errors.Is(err, own) {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := storecall.Files(ctx, "/x", func() (int, error) { <-ctx.Done(); return 0, own }, nil); !errors.Is(err, own) {
		t.Errorf("it ends with its context: %v", err)
	}
	hang, late := make(chan struct{}), make(chan int, 1)
	n, err := storecall.Files(ctx, "/x", func() (int, error) { <-hang; return 5, nil }, func(n int) { late <- n })
	if n != 0 || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "the file system of /x does not answer") {
		t.Errorf("it hangs: %d, %v", n, err)
	}
	close(hang)
	if got := <-late; got != 5 {
		t.Errorf("late: %d", got)
	}
}
