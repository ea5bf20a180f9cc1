package volume

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/luksplug/luksplug/internal/crashdisk"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// headerOf returns a new header of a version, in a place with room behind it.
func headerOf(t *testing.T, version int) []byte {
	t.Helper()
	f := luks.Format{Version: version, KeyBytes: 32}
	f.PayloadOffset = f.DefaultPayloadOffset()
	key := must.Get(f.NewKey())(t)
	defer key.Wipe()
	passphrase := secrets.New([]byte("passphrase"))
	defer passphrase.Wipe()
	header := must.Get(f.Header(t.Context(), key, passphrase, f.MinimumCost()))(t)
	return append(header, make([]byte, f.PayloadOffset-int64(len(header)))...)
}

// TestWipeSurvivesCrashes: after a crash at any moment the place has either the old header, as it was, or the mark by which the
// next run recognises it; and after the last Sync nothing of the old header.
func TestWipeSurvivesCrashes(t *testing.T) {
	t.Parallel()
	for _, version := range []int{1, 2} {
		before := headerOf(t, version)[:96<<10] // the first key slot; more sectors make more states
		host := crashdisk.New()
		disk := host.Disk("header", before)
		w := newWiping(mark{"3a2b1d9c-0a1b-4c2d-8e3f-405162738495", int64(len(before))}, []span{{0, int64(len(before))}})
		must.OK(t, w.write(disk, func(int) {}), w.verify(disk, func(int) {}))
		old, marked := 0, 0
		for state := range host.States(1, 500) {
			sector := state.Bytes("header")[:markSize]
			if m, is := parseMark(sector); is && m == w.mark {
				marked++
				continue
			}
			if old++; !bytes.Equal(state.Bytes("header"), before) {
				t.Fatalf("LUKS%d: a state has no mark, and not the old header", version)
			}
		}
		if old == 0 || marked == 0 {
			t.Errorf("%d states with the old header, %d with the mark", old, marked)
		}
		after := make([]byte, len(before))
		must.Get(disk.ReadAt(after, 0))(t)
		for at := 0; at < len(before); at += 16 {
			if part := before[at : at+16]; len(bytes.Trim(part, "\x00")) > 8 && bytes.Contains(after, part) {
				t.Fatalf("LUKS%d: 16 bytes of the old header at %d are still there", version, at)
			}
		}
	}
}

// lying is a device that loses one write.
type lying struct {
	*os.File
	at int64
}

func (l lying) WriteAt(p []byte, at int64) (int, error) {
	if at == l.at {
		return len(p), nil
	}
	return l.File.WriteAt(p, at)
}

// TestWipeIsVerified: what a device did not store is noticed.
func TestWipeIsVerified(t *testing.T) {
	t.Parallel()
	path := must.File(t, headerOf(t, 2))
	f := must.Get(os.OpenFile(path, os.O_RDWR, 0))(t)
	defer func() { must.OK(t, f.Close()) }()
	w := newWiping(mark{"u", 4 << 20}, []span{{0, 4 << 20}})
	must.OK(t, w.write(lying{f, 2 * chunk}, func(int) {}))
	r, _, err := reopenUncached(f, w.spans)
	must.OK(t, err)
	defer func() { must.OK(t, r.Close()) }()
	if err := w.verify(r, func(int) {}); !errors.Is(err, errNotWiped) {
		t.Errorf("%v", err)
	}
	if err := w.verify(bytes.NewReader(nil), func(int) {}); !errors.Is(err, io.EOF) {
		t.Errorf("a device that ends: %v", err)
	}
}

func TestParseMark(t *testing.T) {
	t.Parallel()
	want := mark{"3a2b1d9c-0a1b-4c2d-8e3f-405162738495", 2 << 20}
	if got, is := parseMark(want.sector()); !is || got != want {
		t.Errorf("%+v %v", got, is)
	}
	for _, m := range []mark{{"u", 0}, {"u", maxHeader + 1}, {"u", -1}} {
		if _, is := parseMark(m.sector()); is {
			t.Errorf("%+v is a mark", m)
		}
	}
	for _, sector := range []string{"", markBegin, markBegin + "u\nlength x\n", "LUKS\xba\xbe"} {
		if _, is := parseMark([]byte(sector)); is {
			t.Errorf("%q is a mark", sector)
		}
	}
}
