package crashdisk

import (
	"bytes"
	"io"
	"testing"
)

// sector returns a sector of one letter.
func sector(letter byte) []byte { return bytes.Repeat([]byte{letter}, SectorSize) }

// letters returns the letters of a disk's sectors.
func letters(s State, name string) string {
	b := s.Bytes(name)
	out := ""
	for i := 0; i < len(b); i += SectorSize {
		out += string(b[i])
	}
	return out
}

// TestStates: two sectors, written before and after a Sync of their disk, with a record between.
func TestStates(t *testing.T) {
	t.Parallel()
	h := New()
	d := h.Disk("d", append(sector('a'), sector('b')...))
	other := h.Disk("other", sector('x'))
	write := func(p []byte, off int64) {
		if _, err := d.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
	write(append(sector('A'), sector('B')...), 0)
	if _, err := other.WriteAt(sector('X'), 0); err != nil {
		t.Fatal(err)
	}
	_ = d.Sync()
	h.Record("stored")
	write(sector('1'), 0)
	write(sector('2'), 0)
	if h.Events() != 7 {
		t.Errorf("%d events", h.Events())
	}
	seen := map[string]bool{}
	for s := range h.States(1, 1000) {
		state := letters(s, "d")
		if len(s.Records) > 0 {
			state += " " + s.Records[0].(string)
		}
		seen[state] = true
		seen["other "+letters(s, "other")] = true
		// A reader sees the same bytes, also across sectors.
		across := make([]byte, 100)
		if _, err := s.Disk("d").ReadAt(across, SectorSize-50); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if want := s.Bytes("d")[SectorSize-50:][:100]; !bytes.Equal(across, want) {
			t.Fatal("ReadAt and Bytes differ")
		}
	}
	want := []string{"ab", "Ab", "aB", "AB", "AB stored", "1B stored", "2B stored", "other x", "other X"}
	for _, w := range want {
		if !seen[w] {
			t.Errorf("no state %q", w)
		}
		delete(seen, w)
	}
	if len(seen) > 0 {
		t.Errorf("impossible states %v", seen)
	}
}

// TestManyStates: more sectors than can be combined yield about as many states as asked for.
func TestManyStates(t *testing.T) {
	t.Parallel()
	h := New()
	d := h.Disk("d", make([]byte, 100*SectorSize))
	if _, err := d.WriteAt(bytes.Repeat([]byte{1}, 100*SectorSize), 0); err != nil {
		t.Fatal(err)
	}
	n, distinct := 0, map[string]bool{}
	for s := range h.States(2, 5000) {
		n++
		distinct[string(s.Bytes("d"))] = true
	}
	if n < 4000 || n > 6000 || len(distinct) < 2000 {
		t.Errorf("%d states, %d of them distinct", n, len(distinct))
	}
	if _, err := d.WriteAt([]byte("end"), 100*SectorSize-1); err == nil {
		t.Error("a disk grows")
	}
}

// TestFewStates: fewer states than moments are of some of the moments, among them those around a Sync.
func TestFewStates(t *testing.T) {
	t.Parallel()
	h := New()
	d := h.Disk("d", make([]byte, 1000*SectorSize))
	if _, err := d.WriteAt(bytes.Repeat([]byte{1}, 1000*SectorSize), 0); err != nil {
		t.Fatal(err)
	}
	_ = d.Sync()
	h.Record("end")
	n, moments := 0, map[int]bool{}
	for s := range h.States(3, 200) {
		n++
		moments[s.Event] = true
	}
	if n < 150 || n > 250 || !moments[0] || !moments[1000] || !moments[1001] || !moments[1002] {
		t.Errorf("%d states of %d moments", n, len(moments))
	}
}
