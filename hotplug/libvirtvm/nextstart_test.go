package libvirtvm

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
	"github.com/luksplug/luksplug/internal/must"
)

// TestCheckStart: the check gets the definition that is going to be written, signed and with the disk, and
// its error leaves both descriptions as they are. A record that cannot be signed here is not checked.
func TestCheckStart(t *testing.T) {
	t.Parallel()
	failed := errors.New("no hook")
	for name, write := range map[string]func(context.Context, *recorder) error{
		"running": func(ctx context.Context, r *recorder) error { _, err := r.before(ctx, prepared); return err },
		"off":     func(ctx context.Context, r *recorder) error { return r.define(ctx) },
	} {
		m := newMemory(t)
		var got []NextStart
		options := AttachOptions{Persistent: true, CheckStart: func(_ context.Context, s NextStart) error {
			got = append(got, s)
			return failed
		}}
		err := write(t.Context(), recorderOf(t, m, parsed(t, "sda", "scsi", ""), options))
		var refused *hotplug.PreflightError
		if !errors.As(err, &refused) || !errors.Is(err, ErrNextStart) || !errors.Is(err, failed) || !strings.Contains(err.Error(), "no hook") {
			t.Errorf("%s: %v", name, err)
		}
		if m.recorded(t, Live, "sda") != nil || m.recorded(t, Persistent, "sda") != nil {
			t.Errorf("%s: it is recorded", name)
		}
		if len(got) != 1 || got[0].Target != "sda" || got[0].Domain == "" {
			t.Fatalf("%s: got %+v", name, got)
		}
		next := must.Get(record.FromDomain(must.Get(domainxml.Parse(got[0].XML))(t)))(t)
		if err := m.sign.Verify(next); err != nil || next.Disk("sda") == nil {
			t.Errorf("%s: %v, %s", name, err, got[0].XML)
		}

		m.sign.Key = nil
		if err := write(t.Context(), recorderOf(t, m, parsed(t, "sda", "scsi", ""), options)); err != nil || len(got) != 1 {
			t.Errorf("%s: without a key: %v", name, err)
		}
	}
}
