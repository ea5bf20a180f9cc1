package luks_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/luks"
)

// opened parses and unlocks a fresh header, and returns the header and volume key.
func opened(t *testing.T, e *luks.EphemeralHeader) (*luks.Header, []byte) {
	t.Helper()
	var h *luks.Header
	var out []byte
	err := e.Use(func(header []byte) error {
		var err error
		if h, err = luks.ReadHeader(bytes.NewReader(header)); err != nil {
			return err
		}
		return e.Passphrase().Use(func(passphrase []byte) error {
			key, err := h.Unlock(context.Background(), passphrase)
			if err != nil {
				return err
			}
			defer key.Wipe()
			return key.Use(func(k []byte) error { out = bytes.Clone(k); return nil })
		})
	})
	must.OK(t, err)
	return h, out
}

// TestFresh checks that every header has a different key, and opens only with its own passphrase.
func TestFresh(t *testing.T) {
	t.Parallel()
	var keys [2][]byte
	var uuids [2]string
	for i := range keys {
		e := must.Get(luks.Fresh())(t)
		var h *luks.Header
		h, keys[i] = opened(t, e)
		uuids[i] = h.UUID
		if h.PayloadOffset() != luks.FreshSize || len(keys[i]) != 64 || h.QEMUOpens() != nil || len(h.ActiveSlots()) != 1 {
			t.Errorf("%v, payload at %d, a key of %d bytes; QEMU: %v", h, h.PayloadOffset(), len(keys[i]), h.QEMUOpens())
		}
		err := e.Use(func(header []byte) error {
			if bytes.Contains(header, keys[i]) {
				t.Error("the header contains the volume key in clear")
			}
			_, err := h.Unlock(context.Background(), []byte("another passphrase"))
			return err
		})
		if !errors.Is(err, luks.ErrWrongPassphrase) {
			t.Errorf("another passphrase: %v", err)
		}
		e.Wipe()
		if e.Len() != 0 || e.Passphrase().Len() != 0 {
			t.Error("the header is not empty after Wipe")
		}
	}
	if bytes.Equal(keys[0], keys[1]) || uuids[0] == uuids[1] {
		t.Errorf("two headers are for the same volume: %v", uuids)
	}
}

func ExampleFresh() {
	e, err := luks.Fresh()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer e.Wipe()
	fmt.Println(e, e.Len() < luks.FreshSize)
	// Output: [redacted] true
}
