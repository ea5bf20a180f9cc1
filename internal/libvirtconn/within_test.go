package libvirtconn_test

import (
	"context"
	"errors"
	"testing"

	"github.com/luksplug/luksplug/internal/libvirtconn"
)

func TestWithin(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	if n, err := libvirtconn.Within(t.Context(), func() (int, error) { return 7, refused }); n != 7 || !errors.Is(err, refused) {
		t.Errorf("got %d %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	silent := make(chan struct{})
	defer close(silent)
	_, err := libvirtconn.Within(ctx, func() (int, error) {
		cancel()
		<-silent
		return 0, nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a libvirt that does not answer: %v", err)
	}
}
