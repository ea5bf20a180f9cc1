package image

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/luks"
)

// TestAttributes: an image with the mark is not read, whatever its format; only ProbeIncomplete reports it.
func TestAttributes(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "image")
	must.OK(t, os.WriteFile(path, make([]byte, 4096), 0o600))
	if err := AttributeIncomplete.Possible(path); errors.Is(err, ErrNoAttributes) {
		t.Skip(err)
	}
	readers := map[string]func() error{
		"Inspect": func() error { _, err := Inspect(path); return err },
		"Probe":   func() error { _, err := Probe(path); return err },
		"OpenGuest": func() error {
			g, err := OpenGuest(path, Raw, "")
			if err == nil {
				err = g.Close()
			}
			return err
		},
	}
	want := func(marked bool) {
		t.Helper()
		for name, read := range readers {
			if err := read(); errors.Is(err, luks.ErrIncomplete) != marked || !marked && err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if i, err := ProbeIncomplete(path); err != nil || i.Marked != marked {
			t.Errorf("ProbeIncomplete: %+v, %v", i, err)
		}
	}
	want(false)
	must.OK(t, AttributeIncomplete.Remove(path))
	for _, value := range []string{"id", ""} {
		must.OK(t, AttributeIncomplete.Set(path, value))
		want(true)
		if got, err := AttributeIncomplete.Get(path); got != value || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	must.OK(t, AttributeIncomplete.Remove(path))
	want(false)
	if err := AttributeIncomplete.Set("/dev/null", "id"); !errors.Is(err, ErrNotImage) {
		t.Errorf("a device: %v", err)
	}
	if err := AttributeIncomplete.Possible("/dev/pts/image"); !errors.Is(err, ErrNoAttributes) {
		t.Errorf("a file system without attributes: %v", err)
	}
}
