package ending_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/ending"
)

// below are contexts of package context that have ended with their parent.
func below(t *testing.T, parent context.Context) map[string]context.Context {
	t.Helper()
	child, cancel := context.WithCancel(parent)
	t.Cleanup(cancel)
	limited, cancel := context.WithTimeout(child, time.Hour)
	t.Cleanup(cancel)
	inner, cancel := ending.After(limited, time.Hour)
	t.Cleanup(cancel)
	last, cancel := context.WithCancel(context.WithValue(inner, t, 1))
	t.Cleanup(cancel)
	return map[string]context.Context{"itself": parent, "a child": child, "one with a limit": limited, "one of this package": inner, "the last": last}
}

func wantEnd(t *testing.T, parent context.Context, end func(), kind error, text string) {
	t.Helper()
	all := below(t, parent)
	for name, ctx := range all {
		if err := ctx.Err(); err != nil {
			t.Fatalf("%s has ended: %v", name, err)
		}
	}
	end()
	for name, ctx := range all {
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
			t.Fatalf("%s does not end", name)
		}
		var why *ending.Error
		if err := ctx.Err(); !errors.As(err, &why) || !errors.Is(err, kind) || err.Error() != text || why.Timeout() != errors.Is(kind, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAfter(t *testing.T) {
	t.Parallel()
	ctx, cancel := ending.After(context.Background(), 100*time.Millisecond)
	defer cancel()
	wantEnd(t, ctx, func() {}, context.DeadlineExceeded, "the time limit of 100ms has passed")
	early, cancel := ending.After(context.Background(), 0)
	defer cancel()
	<-early.Done()
	if !errors.Is(early.Err(), context.DeadlineExceeded) {
		t.Errorf("no limit at all: %v", early.Err())
	}
}

func TestWithInterrupt(t *testing.T) {
	t.Parallel()
	ctx, interrupt := ending.WithInterrupt(context.Background())
	wantEnd(t, ctx, interrupt, context.Canceled, "interrupted")
}

// TestCancelled: the functions that release a context are no interruption.
func TestCancelled(t *testing.T) {
	t.Parallel()
	ctx, cancel := ending.After(context.Background(), time.Hour)
	cancel()
	<-ctx.Done()
	if err := ctx.Err(); err != context.Canceled { //nolint:errorlint // it is exactly that one
		t.Errorf("got %v", err)
	}
}
