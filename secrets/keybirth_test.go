package secrets

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestKeyBirth(t *testing.T) {
	t.Parallel()
	const first, second = "7b00deeb-1c2f-4f5e-8d0b-3c8f6f1e2a4d", "0a81f5b2-8403-4b23-88d6-21ccc2f80d6f"
	born := time.Date(2026, 11, 30, 1, 2, 39, 500, time.FixedZone("", 3600))
	for _, text := range []string{"", "vm1-vdb", "a text\nof two lines <&>\n", "data key of LUKS " + first, "data key of LUKS : 2026-11-30T00:02:39Z"} {
		d := Document{UUID: uuid.New(), Description: text}
		one := d.WithKeyBirth(first, born)
		both := one.WithKeyBirth(second, born.Add(time.Hour))
		for id, want := range map[string]time.Time{first: born, second: born.Add(time.Hour)} {
			if got, ok := both.KeyBirth(id); !ok || !got.Equal(want.Truncate(time.Second)) || got.Location() != time.UTC {
				t.Errorf("%q: %s, %v", both.Description, got, ok)
			}
		}
		parsed, err := ParseDocument(both.XML())
		if err != nil || parsed != both {
			t.Errorf("%q as XML: %+v, %v", both.Description, parsed, err)
		}
		if got := both.KeyVolumes(); !slices.Equal(got, []string{first, second}) {
			t.Errorf("%q: volumes %q", both.Description, got)
		}
		if got := both.WithoutKeyBirth(second); got != one {
			t.Errorf("%q without the second is %q", both.Description, got.Description)
		}
		if again := both.WithKeyBirth(second, born).WithKeyBirth(second, born.Add(time.Hour)); again != both {
			t.Errorf("%q recorded again is %q", both.Description, again.Description)
		}
		if _, ok := d.KeyBirth(first); ok {
			t.Errorf("%q records a birth", text)
		}
	}
	for _, line := range []string{"yesterday", "", "2026-11-30"} {
		d := Document{Description: "data key of LUKS " + first + ": " + line}
		if got, ok := d.KeyBirth(first); ok {
			t.Errorf("%q is read as %s", d.Description, got)
		}
	}
}
