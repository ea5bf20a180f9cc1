// Package crashdisk simulates the disks of a host that loses power, for tests of code that has to survive it.
//
// The fault model is that of a disk with a volatile cache and sectors of 512 bytes. A sector that was written since the
// last Sync of its disk is stored or not, independently of every other: writes are torn at sectors, and reordered between
// two calls of Sync. A sector itself is never torn, and what was there before Sync returned is stored.
//
// A [Host] has disks, and records each write and each Sync. After the operation under test has run on it once,
// [Host.States] yields the contents that its disks may have after a crash at any moment of the operation:
//
//	host := crashdisk.New()
//	header := host.Disk("header", before)
//	change(header) // the operation under test
//	for state := range host.States(seed, 20000) {
//		open(state.Disk("header"))
//	}
//
// Changes elsewhere that are atomic and durable at once, such as a rename in a journaling file system after the directory is
// synced, or a value in a key store, are recorded with [Host.Record] in order with the writes.
package crashdisk

import (
	"fmt"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
)

// SectorSize is the unit, in bytes, of what is stored or lost.
const SectorSize = 512

// Host has disks, and records what happens to them. It is safe for concurrent use.
type Host struct {
	mu     sync.Mutex
	disks  map[string]*Disk
	events []event
}

// event is one of: a write of one sector, a Sync of a disk, a record.
type event struct {
	disk   string // "" for a record
	sector int64
	data   []byte // nil for a Sync
	record any
}

// New returns a host without disks.
func New() *Host { return &Host{disks: map[string]*Disk{}} }

// Disk is a disk with the size of its initial content. It implements [io.ReaderAt], [io.WriterAt] and Sync. What is read is
// what was written last, as in a program that does not crash.
type Disk struct {
	host    *Host
	name    string
	initial []byte
	now     []byte
}

// Disk adds a disk with a content, which is copied and stored. The names of a host's disks differ.
func (h *Host) Disk(name string, content []byte) *Disk {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.disks[name] != nil || name == "" {
		panic(fmt.Sprintf("crashdisk: the name %q is empty or taken", name)) // an error of the test
	}
	d := &Disk{host: h, name: name, initial: slices.Clone(content), now: slices.Clone(content)}
	h.disks[name] = d
	return d
}

// Record adds a change that is atomic, and durable at once.
func (h *Host) Record(change any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, event{record: change})
}

// Events returns how many sectors were written, syncs and records have happened.
func (h *Host) Events() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.events)
}

// ReadAt implements [io.ReaderAt].
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	return readAt(d.now, p, off)
}

func readAt(content, p []byte, off int64) (int, error) {
	if off < 0 || off >= int64(len(content)) {
		return 0, io.EOF
	}
	n := copy(p, content[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements [io.WriterAt]. The disk does not grow.
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	if off < 0 || off > int64(len(d.now)) || int64(len(p)) > int64(len(d.now))-off {
		return 0, fmt.Errorf("%w: %d bytes at %d of %q, which has %d", io.ErrShortWrite, len(p), off, d.name, len(d.now))
	}
	copy(d.now[off:], p)
	if len(p) == 0 {
		return 0, nil
	}
	for sector := off / SectorSize; sector <= (off+int64(len(p))-1)/SectorSize; sector++ {
		end := min((sector+1)*SectorSize, int64(len(d.now)))
		d.host.events = append(d.host.events, event{disk: d.name, sector: sector, data: slices.Clone(d.now[sector*SectorSize : end])})
	}
	return len(p), nil
}

// Sync stores all that was written.
func (d *Disk) Sync() error {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	d.host.events = append(d.host.events, event{disk: d.name})
	return nil
}

// State is what is stored after a crash.
type State struct {
	// Event is how many events happened before the crash.
	Event int
	// Records are the records that were made before the crash, in order.
	Records []any

	stored map[string]*content
}

// content is a disk's content: sectors over a base that states share.
type content struct {
	base    []byte
	sectors map[int64][]byte
}

// Disk returns the content of a disk, which is valid until the next state.
func (s State) Disk(name string) io.ReaderAt { return s.stored[name] }

// Bytes returns a copy of the content of a disk, for a program that goes on from this state.
func (s State) Bytes(name string) []byte {
	c := s.stored[name]
	b := slices.Clone(c.base)
	for sector, data := range c.sectors {
		copy(b[sector*SectorSize:], data)
	}
	return b
}

// ReadAt implements [io.ReaderAt].
func (c *content) ReadAt(p []byte, off int64) (int, error) {
	n, err := readAt(c.base, p, off)
	if len(c.sectors) == 0 || n == 0 {
		return n, err
	}
	for sector := off / SectorSize; sector <= (off+int64(n)-1)/SectorSize; sector++ {
		if data, ok := c.sectors[sector]; ok {
			start := sector*SectorSize - off // of the sector in p
			copy(p[max(start, 0):n], data[max(-start, 0):])
		}
	}
	return n, err
}

// States yields states after a crash: for each number of events, the states with none, all, one, and all but one of the
// sectors that are not certainly stored, and random choices of them, seeded, until there are about limit states in all.
// Where several writes of a sector are not stored, each version of it is possible. Identical states may be repeated. If limit
// is lower than twice the number of events, states are of moments chosen at random, and of those around each Sync and record.
func (h *Host) States(seed uint64, limit int) iter.Seq[State] {
	h.mu.Lock()
	events := slices.Clone(h.events)
	disks := maps.Clone(h.disks)
	h.mu.Unlock()
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // reproducible choices, no secret
	return func(yield func(State) bool) {
		p := newPoint(disks)
		each := max(limit/(len(events)+1), 2)
		for n := range len(events) + 1 {
			if n > 0 {
				p.happen(events[n-1])
			}
			if !border(events, n) && random.IntN(len(events)+1) >= limit/each {
				continue
			}
			for stored := range p.choices(random, each) {
				if !yield(State{Event: n, Records: slices.Clone(p.records), stored: stored}) {
					return
				}
			}
		}
	}
}

// border reports whether the moment after n events is the first or the last one, or just before or after a Sync or a record.
func border(events []event, n int) bool {
	return n == 0 || n == len(events) || events[n-1].data == nil || events[n].data == nil
}

// point is a moment of the operation.
type point struct {
	base    map[string][]byte // what is certainly stored
	pending []pending         // sectors that are not
	records []any
}

// pending are the versions of one sector that were written since the last Sync.
type pending struct {
	disk     string
	sector   int64
	versions [][]byte
}

func newPoint(disks map[string]*Disk) *point {
	p := &point{base: map[string][]byte{}}
	for name, d := range disks {
		p.base[name] = slices.Clone(d.initial)
	}
	return p
}

func (p *point) happen(e event) {
	switch {
	case e.disk == "":
		p.records = append(p.records, e.record)
	case e.data == nil:
		p.pending = slices.DeleteFunc(p.pending, func(w pending) bool {
			if w.disk == e.disk {
				copy(p.base[w.disk][w.sector*SectorSize:], w.versions[len(w.versions)-1])
			}
			return w.disk == e.disk
		})
	default:
		i := slices.IndexFunc(p.pending, func(w pending) bool { return w.disk == e.disk && w.sector == e.sector })
		if i < 0 {
			p.pending = append(p.pending, pending{disk: e.disk, sector: e.sector})
			i = len(p.pending) - 1
		}
		p.pending[i].versions = append(p.pending[i].versions, e.data)
	}
}

// choices yields up to limit choices of what is stored of the pending sectors; all of them if there are no more.
func (p *point) choices(random *rand.Rand, limit int) iter.Seq[map[string]*content] {
	return func(yield func(map[string]*content) bool) {
		n, left := len(p.pending), limit
		// pick returns for each pending sector which version is stored, -1 for none.
		try := func(pick func(i int) int) bool {
			if left == 0 {
				return false
			}
			left--
			return yield(p.choose(pick))
		}
		last := func(i int) int { return len(p.pending[i].versions) - 1 }
		if !try(func(int) int { return -1 }) || n == 0 || !try(last) {
			return
		}
		if all := p.combinations(limit); all > 0 { // few: every one
			for c := range all {
				rest := c
				picks := make([]int, n)
				for i := range n {
					versions := len(p.pending[i].versions) + 1
					picks[i], rest = rest%versions-1, rest/versions
				}
				if !try(func(i int) int { return picks[i] }) {
					return
				}
			}
			return
		}
		for range left {
			// The first and the last sectors, one alone, or all but one: the rest is at random.
			one, share := random.IntN(n), random.IntN(4)
			if !try(func(i int) int {
				switch {
				case share == 0 && i != one:
					return -1
				case share == 0, share == 1 && i != one:
					return last(i)
				case share == 1:
					return -1
				case share == 2 && i <= one: // in order
					return last(i)
				case share == 2:
					return -1
				}
				return random.IntN(len(p.pending[i].versions)+1) - 1
			}) {
				return
			}
		}
	}
}

// combinations returns the number of choices, 0 if there are more than limit.
func (p *point) combinations(limit int) int {
	all := 1
	for _, w := range p.pending {
		if all *= len(w.versions) + 1; all > limit {
			return 0
		}
	}
	return all
}

func (p *point) choose(pick func(i int) int) map[string]*content {
	stored := make(map[string]*content, len(p.base))
	for name, base := range p.base {
		stored[name] = &content{base: base, sectors: map[int64][]byte{}}
	}
	for i, w := range p.pending {
		if v := pick(i); v >= 0 {
			stored[w.disk].sectors[w.sector] = w.versions[v]
		}
	}
	return stored
}
