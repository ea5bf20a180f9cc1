package image_test

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/must"
)

// huge is an image of zeros, with a mark, that counts what is read.
type huge struct {
	mark string
	at   int64
	read int
}

const hugeSize = 1 << 42

func (huge) Size() int64  { return hugeSize }
func (huge) Close() error { return nil }

func (h *huge) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	h.read += len(p)
	if i := h.at - off; i >= 0 && i+int64(len(h.mark)) <= int64(len(p)) {
		copy(p[i:], h.mark)
	}
	if off+int64(len(p)) > hugeSize {
		return int(hugeSize - off), io.EOF
	}
	return len(p), nil
}

// TestSignaturesOfHugeImage: only the beginning and the end of an image are read, also for
// the signatures that wipefs does not find.
func TestSignaturesOfHugeImage(t *testing.T) {
	t.Parallel()
	must.Have(t, "wipefs")
	for name, h := range map[string]*huge{
		"none": {}, "BitLocker": {mark: "\xeb\x58\x90-FVE-FS-"}, "GELI": {mark: "GEOM::ELI" + strings.Repeat("\x00", 7), at: hugeSize - 512},
		"half-filled":      {mark: "PLUK\xba\xbe\x00\x02"},
		"at the beginning": {mark: "\x01CD001\x01", at: 32 << 10}, "at the end": {mark: "\xfcN+\xa9\x00\x00\x00\x00\x5a\x00\x00\x00", at: hugeSize - 64<<10},
	} {
		found, err := new(image.Searches).Signatures(t.Context(), h)
		if err != nil || (len(found) == 1) != (h.mark != "") || h.read > 4<<20 {
			t.Errorf("%s: got %v (%v) after %d bytes", name, found, err, h.read)
		}
	}
}

// TestSameBytesAreSearchedOnce: an image is searched again after a change, and not otherwise.
func TestSameBytesAreSearchedOnce(t *testing.T) {
	t.Parallel()
	must.Have(t, "wipefs")
	var s image.Searches
	for i, h := range []*huge{{}, {}, {mark: "\x01CD001\x01", at: 32 << 10}, {mark: "\x01CD001\x01", at: 32 << 10}, {}} {
		found, err := s.Signatures(t.Context(), h)
		if err != nil || (len(found) == 1) != (h.mark != "") {
			t.Errorf("%d: got %v (%v)", i, found, err)
		}
	}
	if n := s.Runs(); n != 2 {
		t.Errorf("wipefs ran %d times, want 2", n)
	}
}

// TestSearchAhead: a search that was begun is not run again, and one of other bytes is.
func TestSearchAhead(t *testing.T) {
	t.Parallel()
	must.Have(t, "wipefs")
	var s image.Searches
	marked := huge{mark: "\x01CD001\x01", at: 32 << 10}
	s.Begin(t.Context(), func() (image.Reader, error) { return &huge{mark: marked.mark, at: marked.at}, nil })
	s.Begin(t.Context(), func() (image.Reader, error) { return nil, io.ErrUnexpectedEOF })
	for i, h := range []*huge{&marked, {}} {
		found, err := s.Signatures(t.Context(), h)
		if err != nil || (len(found) == 1) != (h.mark != "") {
			t.Errorf("%d: got %v (%v)", i, found, err)
		}
		if n := s.Runs(); n != i+1 {
			t.Errorf("%d: %d runs", i, n)
		}
	}
	ended, end := context.WithCancel(t.Context())
	end()
	var stopped image.Searches
	stopped.Begin(ended, func() (image.Reader, error) { return &marked, nil })
	stopped.Wait()
	if n := stopped.Runs(); n != 0 {
		t.Errorf("%d runs after the end of the context", n)
	}
}
