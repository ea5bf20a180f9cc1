package volume

import (
	"bytes"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets/luks"
)

// A destroyed mark replaces the first sector of a header before the rest of its place is wiped. A run that finds it
// finishes what an interrupted one has begun. It is text, for those who look at the image later.
const (
	markBegin = "luksplug: this LUKS volume was destroyed.\nuuid "
	markSize  = luks.SectorSize
)

// mark is what a destroyed mark says.
type mark struct {
	uuid   string
	length int64 // of the header's place, in bytes
}

// sector returns the mark as it is stored.
func (m mark) sector() []byte {
	b := make([]byte, markSize)
	copy(b, markBegin+m.uuid+"\nlength "+strconv.FormatInt(m.length, 10)+"\n")
	return b
}

// parseMark returns the mark in a sector; false if it has none.
func parseMark(sector []byte) (mark, bool) {
	text, ok := strings.CutPrefix(string(bytes.TrimRight(sector, "\x00")), markBegin)
	if !ok {
		return mark{}, false
	}
	uuid, rest, _ := strings.Cut(text, "\n")
	digits, ok := strings.CutPrefix(strings.TrimSuffix(rest, "\n"), "length ")
	length, err := strconv.ParseInt(digits, 10, 64)
	return mark{uuid, length}, ok && err == nil && length > markSize && length <= maxHeader
}

// readMark returns the mark at an offset of a file; false if there is none.
func readMark(path string, offset int64) (mark, bool) {
	p := headerPlace{path, offset, markSize}
	sector, err := p.read()
	if err != nil {
		return mark{}, false
	}
	return parseMark(sector)
}

// span is a part of a file, in bytes.
type span struct{ offset, length int64 }

// wiping is a header's place that is overwritten with random bytes. The same seed makes the same bytes, by which they are
// verified.
type wiping struct {
	mark  mark
	spans []span // of what is stored; the first one begins with the mark
	seed  [32]byte
}

// newWiping returns the wiping of a place, of which a file may have stored only parts.
func newWiping(m mark, spans []span) *wiping {
	w := &wiping{mark: m, spans: spans}
	_, _ = crand.Read(w.seed[:]) // never returns an error: it crashes the program instead
	return w
}

// chunk is how much is written and read at once, in bytes.
const chunk = 1 << 20

// each calls f with the bytes of each part of the place, in order.
func (w *wiping) each(f func(content []byte, offset int64) error) error {
	random := rand.NewChaCha8(w.seed)
	b := make([]byte, chunk)
	for i, s := range w.spans {
		for at := int64(0); at < s.length; at += chunk {
			part := b[:min(chunk, s.length-at)]
			_, _ = random.Read(part) // never returns an error
			if i == 0 && at == 0 {
				copy(part, w.mark.sector())
			}
			if err := f(part, s.offset+at); err != nil {
				return err
			}
		}
	}
	return nil
}

// write overwrites the place: the mark first, so that the header is no header any more, and the rest once that is
// stored. It is stored when write returns.
func (w *wiping) write(s luks.Storage, done func(int)) error {
	if _, err := s.WriteAt(w.mark.sector(), w.spans[0].offset); err != nil {
		return err
	}
	if err := s.Sync(); err != nil {
		return err
	}
	if err := w.each(func(content []byte, offset int64) error {
		n, err := s.WriteAt(content, offset)
		done(n)
		return err
	}); err != nil {
		return err
	}
	return s.Sync()
}

// errNotWiped reports that other bytes were read back than were written.
var errNotWiped = errors.New("the device has other bytes than were written to it")

// verify reads the place back.
func (w *wiping) verify(r io.ReaderAt, done func(int)) error {
	b, err := alignedBuffer(chunk)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(b) }() // cannot fail for what Mmap has returned
	return w.each(func(content []byte, offset int64) error {
		// A direct read needs whole blocks, of which the file may end in the middle.
		n, err := r.ReadAt(b[:min((len(content)+directBlock-1)/directBlock*directBlock, chunk)], offset)
		if n < len(content) {
			return fmt.Errorf("read back what was written at byte %d: %w", offset, err)
		}
		done(len(content))
		if !bytes.Equal(b[:len(content)], content) {
			return fmt.Errorf("%w, from byte %d on", errNotWiped, offset)
		}
		return nil
	})
}

// directBlock is the alignment of direct reads (open(2), O_DIRECT), in bytes: enough for every device.
const directBlock = 4096

// alignedBuffer returns a buffer of a whole number of pages, which begins at one. The caller releases it with
// unix.Munmap.
func alignedBuffer(n int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("allocate a buffer: %w", err)
	}
	return b, nil
}

// reopenUncached opens a file that is open for reading from the device, past the page cache. Where that is impossible, direct
// is false, and the kernel was asked to drop its copy.
func reopenUncached(f *os.File, spans []span) (r *os.File, direct bool, err error) {
	aligned := true
	for _, s := range spans {
		aligned = aligned && s.offset%directBlock == 0
	}
	path := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if aligned {
		if r, err = os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0); err == nil {
			return r, true, nil
		}
	}
	if r, err = os.Open(path); err != nil {
		return nil, false, err
	}
	_ = unix.Fadvise(int(r.Fd()), 0, 0, unix.FADV_DONTNEED) // advice: synced pages only
	return r, false, nil
}

// storedSpans returns the parts of a place that a file has stored. A hole has nothing to wipe, and writing to it could fail
// on a full disk. The first sector, for the mark, is always among them.
func storedSpans(f *os.File, place span) []span {
	var out []span
	end := place.offset + place.length
	for at := place.offset; at < end; {
		begin, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || err == nil && begin >= end {
			break
		}
		hole := end
		if err == nil {
			hole, err = unix.Seek(int(f.Fd()), begin, unix.SEEK_HOLE)
		}
		if err != nil {
			return []span{place} // not known
		}
		at = min(hole, end)
		out = append(out, span{begin, at - begin})
	}
	if len(out) == 0 || out[0].offset > place.offset {
		return append([]span{{place.offset, markSize}}, out...)
	}
	return out
}

// wipe overwrites the header's place in an open file, and reads it back. direct is true if that was from the device.
func (p headerPlace) wipe(f *os.File, m mark, report Report) (direct bool, err error) {
	w := newWiping(m, storedSpans(f, span{p.offset, p.length}))
	progress := Progress{}
	for _, s := range w.spans {
		progress.Total += 2 * s.length
	}
	done := func(n int) {
		if progress.Done += int64(n); report != nil {
			report(progress)
		}
	}
	if err := w.write(f, done); err != nil {
		return false, fmt.Errorf("overwrite the header: %w", err)
	}
	r, direct, err := reopenUncached(f, w.spans)
	if err != nil {
		return false, err
	}
	defer fsutil.CloseRead(r)
	return direct, w.verify(r, done)
}
