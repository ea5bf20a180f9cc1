package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/luksplug/luksplug/internal/crashdisk"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// states returns how many states after a crash a test examines, short of them in make test.
func states(short int) int {
	if os.Getenv("LUKSPLUG_LONG") != "" {
		return 26000 // more than 20,000 come of it
	}
	return short
}

// crashVolume is a volume with small header, key slots 0 and 6 or 1, and some sectors of payload.
type crashVolume struct {
	image      []byte
	header     *luks.Header
	passphrase *secrets.Secret
	// changed is the header after the passphrase of a slot was changed, and one was removed.
	changed []byte

	key    []byte
	opened map[uint64]bool // by what is read for it
	seed   maphash.Seed
	read   [160 << 10]byte
}

const crashPassphrase = "the passphrase"

// crashVolumes returns a volume of each version of LUKS, as cryptsetup makes them.
func crashVolumes(t *testing.T) map[string]*crashVolume {
	t.Helper()
	out := map[string]*crashVolume{}
	for name, options := range map[string][]string{
		"LUKS1": {"--type=luks1", "--align-payload=1", "--key-size=256"},
		"LUKS2": {"--type=luks2", "--luks2-metadata-size=16k", "--luks2-keyslots-size=512k", "--offset=2056", "--key-size=256", "--pbkdf=pbkdf2", "--sector-size=512"},
	} {
		path := must.LUKS(t, crashPassphrase, 2<<20, options...)
		first, second := must.File(t, crashPassphrase), must.File(t, "another passphrase")
		slot := map[string]string{"LUKS1": "6", "LUKS2": "1"}[name] // 6 is in both sectors of a LUKS1 header
		cheap := []string{"--batch-mode", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000"}
		must.Run(t, "", "cryptsetup", append(cheap, "luksAddKey", "--key-file", first, "--key-slot", slot, path, second)...)
		v := &crashVolume{image: must.Get(os.ReadFile(path))(t), passphrase: secrets.New([]byte(crashPassphrase)), opened: map[uint64]bool{}, seed: maphash.MakeSeed()}
		t.Cleanup(v.passphrase.Wipe)
		v.header = must.Get(luks.ReadHeader(bytes.NewReader(v.image)))(t)
		v.image = v.image[:v.length()+8*crashdisk.SectorSize]
		copy(v.image[v.length():], bytes.Repeat([]byte("payload "), 8*crashdisk.SectorSize/8))
		must.Run(t, "", "cryptsetup", append(cheap, "luksChangeKey", "--key-file", second, "--key-slot", slot, path, must.File(t, "a third one"))...)
		must.Run(t, "", "cryptsetup", "--batch-mode", "luksKillSlot", path, "0", "--key-file", must.File(t, "a third one"))
		v.changed = must.Get(os.ReadFile(path))(t)[:v.length()]
		v.key = must.Use(t, must.Get(v.header.Unlock(t.Context(), []byte(crashPassphrase)))(t))
		out[name] = v
	}
	return out
}

// length returns that of the header's place.
func (v *crashVolume) length() int64 { return v.header.PayloadOffset() }

// content returns the header.
func (v *crashVolume) content() []byte { return slices.Clone(v.image[:v.length()]) }

// in returns the volume's image with something else in the header's place.
func (v *crashVolume) in(place []byte) []byte {
	return slices.Concat(place, v.image[v.length():])
}

// opens reports whether the passphrase opens the header at the beginning of r, with the right volume key.
func (v *crashVolume) opens(ctx context.Context, r io.ReaderAt) bool {
	b := v.read[:] // the metadata and the key material of slot 0
	n, err := r.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return false
	}
	sum := maphash.Bytes(v.seed, b[:n])
	if known, ok := v.opened[sum]; ok {
		return known
	}
	h, err := luks.ReadHeader(r)
	if err == nil {
		err = v.passphrase.Use(func(value []byte) error {
			key, err := h.Unlock(ctx, value)
			if err != nil {
				return err
			}
			defer key.Wipe()
			return key.Use(func(k []byte) error {
				if !bytes.Equal(k, v.key) || h.PayloadOffset() != v.length() {
					return errors.New("another volume key or offset")
				}
				return nil
			})
		})
	}
	v.opened[sum] = err == nil
	return err == nil
}

// crashFile is a new file on a disk of a host that loses power. Its name is recorded when it is published.
type crashFile struct {
	disk *crashdisk.Disk
	host *crashdisk.Host
	path string
	size int64
}

// beginOn returns what begins files of size bytes on a host.
func beginOn(host *crashdisk.Host, sizes map[string]int64) beginning {
	return func(path string, _ attributes, _ fs.FileInfo) (newFile, error) {
		size, ok := sizes[path]
		if !ok {
			return nil, fmt.Errorf("%s: %w", path, fs.ErrPermission)
		}
		return &crashFile{host.Disk(path, make([]byte, size)), host, path, size}, nil
	}
}

func (f *crashFile) write(do func(growing) error) error { return do(f) }

func (f *crashFile) ReadAt(b []byte, off int64) (int, error)  { return f.disk.ReadAt(b, off) }
func (f *crashFile) WriteAt(b []byte, off int64) (int, error) { return f.disk.WriteAt(b, off) }
func (f *crashFile) Sync() error                              { return f.disk.Sync() }

func (f *crashFile) Truncate(size int64) error {
	if size != f.size {
		return fmt.Errorf("%s has %d bytes, not %d", f.path, f.size, size)
	}
	return nil
}

func (f *crashFile) read(do func(io.ReaderAt) error) error { return do(f.disk) }

func (f *crashFile) qcow2(context.Context, Request, []byte) error { return errors.ErrUnsupported }

func (f *crashFile) preallocate(context.Context, Preallocation, Report) error { return nil }

func (f *crashFile) noCOW() error { return nil }

func (f *crashFile) publish() error {
	f.host.Record(f.path)
	return nil
}

func (f *crashFile) remove() []string { return nil }

// memory is a storage without faults.
type memory []byte

func (m memory) ReadAt(b []byte, off int64) (int, error)  { return bytes.NewReader(m).ReadAt(b, off) }
func (m memory) WriteAt(b []byte, off int64) (int, error) { return copy(m[off:], b), nil }
func (m memory) Sync() error                              { return nil }

// readState fills b with the first bytes of a disk after a crash, and returns it.
func readState(t *testing.T, s crashdisk.State, disk string, b []byte) []byte {
	t.Helper()
	must.Get(s.Disk(disk).ReadAt(b, 0))(t)
	return b
}

// TestCrashDetach: at each moment of a move out of the image the header in the image opens the volume, or the file does; and
// the same call finishes.
func TestCrashDetach(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup")
	for name, v := range crashVolumes(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host := crashdisk.New()
			image := host.Disk("image", v.image)
			const file = "/headers/volume"
			move := detachment{header: v.header, content: v.content(), copy: true, wipe: true, to: file, begin: beginOn(host, map[string]int64{file: v.length()})}
			must.OK(t, move.run(image))
			n, lost, stuck := 0, 0, 0
			header, b := v.content(), make([]byte, v.length())
			for s := range host.States(1, states(1500)) {
				n++
				published := len(s.Records) > 0
				if !v.opens(t.Context(), s.Disk("image")) && (!published || !v.opens(t.Context(), s.Disk(file))) {
					lost++
				}
				if !published {
					continue // the next run begins again
				}
				if v.header.Leftover(header, readState(t, s, "image", b)) == luks.LeftOther {
					stuck++
				} else if n%50 == 0 {
					again := memory(s.Bytes("image"))
					must.OK(t, detachment{header: v.header, content: v.content(), wipe: true}.run(again))
					if !bytes.Equal(again, v.in(make([]byte, v.length()))) {
						stuck++
					}
				}
			}
			if lost > 0 || stuck > 0 {
				t.Errorf("of %d states, the volume is lost in %d, and the move cannot be finished in %d", n, lost, stuck)
			}
			t.Logf("%d states, %d lost", n, lost)
		})
	}
}

// TestCrashAttach: at each moment of a move into the image the header in the file opens the volume, or that in the image; and
// the same call finishes.
func TestCrashAttach(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup")
	for name, v := range crashVolumes(t) {
		overwritten := v.content()
		clear(overwritten[:4096])
		for what, old := range map[string][]byte{"zeros": make([]byte, v.length()), "another passphrase": v.changed, "damaged": overwritten} {
			t.Run(name+" over "+what, func(t *testing.T) {
				t.Parallel()
				v := v.alone()
				host := crashdisk.New()
				image, file := host.Disk("image", v.in(old)), host.Disk("file", v.content())
				must.OK(t, replacement{v.header, v.content(), old}.write(image), discard(file, v.header, v.length(), func() error {
					host.Record("unlinked")
					return nil
				}))
				n, lost, stuck := 0, 0, 0
				header, b := v.content(), make([]byte, v.length())
				for s := range host.States(2, states(500)) {
					n++
					inside, detached := v.opens(t.Context(), s.Disk("image")), len(s.Records) == 0 && v.opens(t.Context(), s.Disk("file"))
					if !inside && !detached {
						lost++
					}
					if detached {
						if _, err := (Attaching{}).replaces(t.Context(), header, readState(t, s, "image", b)); err != nil {
							stuck++
						}
					} else if v.header.Leftover(header, readState(t, s, "file", b)) == luks.LeftOther {
						stuck++
					}
				}
				if lost > 0 || stuck > 0 {
					t.Errorf("of %d states, the volume is lost in %d, and the move cannot be finished in %d", n, lost, stuck)
				}
				t.Logf("%d states, %d lost", n, lost)
			})
		}
	}
}

// alone returns the volume for a test that runs beside others.
func (v *crashVolume) alone() *crashVolume {
	out := *v
	out.opened = map[uint64]bool{}
	return &out
}

// TestCrashRestore: at each moment of a restore the volume opens with the header that is written, or the same restore
// succeeds once more.
func TestCrashRestore(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup", "wipefs")
	for name, v := range crashVolumes(t) {
		overwritten, digest := v.content(), v.content()
		clear(overwritten[:4096])
		clear(digest[100:8192])
		for what, old := range map[string][]byte{"nothing": make([]byte, v.length()), "another passphrase": v.changed, "the beginning damaged": overwritten, "more damaged": digest} {
			t.Run(name+" over "+what, func(t *testing.T) {
				t.Parallel()
				v := v.alone()
				host := crashdisk.New()
				image := host.Disk("image", v.in(old))
				must.OK(t, replacement{v.header, v.content(), old}.write(image))
				backup := must.Get(luks.ReadBackup(bytes.NewReader(v.content())))(t)
				before := must.Get(backup.Compare(bytes.NewReader(old)))(t).Match
				n, closed, lost, restored := 0, 0, 0, 0
				for s := range host.States(3, states(400)) {
					n++
					if v.opens(t.Context(), s.Disk("image")) {
						continue
					}
					closed++
					match := must.Get(backup.Compare(s.Disk("image")))(t).Match
					if match == luks.MatchOther || match == luks.MatchUnknown && before != luks.MatchUnknown {
						lost++
					} else if closed%(states(400)/4) == 1 { // once more with real files
						v.restore(t, s.Bytes("image"))
						restored++
					}
				}
				if lost > 0 || n < 100 {
					t.Errorf("of %d states, the volume neither opens nor can be restored in %d", n, lost)
				}
				t.Logf("%d states, closed until the next restore in %d, restored %d of them, %d lost", n, closed, restored, lost)
			})
		}
	}
}

// restore restores the header of an image as a crash has left it.
func (v *crashVolume) restore(t *testing.T, image []byte) {
	t.Helper()
	dir := t.TempDir()
	path, backup := filepath.Join(dir, "image"), filepath.Join(dir, "backup")
	must.Write(t, path, image)
	must.Write(t, backup, v.content())
	must.Get(RestoreHeader(t.Context(), Restoring{Path: path, Backup: backup, Passphrase: v.passphrase}))(t)
	if !bytes.Equal(must.Get(os.ReadFile(path))(t), v.image) {
		t.Error("another header is restored")
	}
}

// keeper is a key store on a host that loses power: a value is recorded when it is stored.
type keeper struct {
	secrets.Keeper
	host  *crashdisk.Host
	value []byte
}

func (k *keeper) Set(_ context.Context, _ secrets.Reference, value *secrets.Secret) error {
	return value.Use(func(b []byte) error {
		k.value = bytes.Clone(b)
		k.host.Record("secret")
		return nil
	})
}

// TestCrashCreate: at each moment of making a volume no file has its name, or the passphrase in the key store opens it.
func TestCrashCreate(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]Request{
		"LUKS1":          {Path: "/volumes/image"},
		"LUKS1 detached": {Path: "/volumes/image", Header: "/volumes/header"},
		"LUKS2":          {Path: "/volumes/image", LUKS: luks.Format{Version: 2}},
		"LUKS2 detached": {Path: "/volumes/image", Header: "/volumes/header", LUKS: luks.Format{Version: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r.Size, r.LUKS.KeyBytes = 8*crashdisk.SectorSize, 32
			r := must.Get(r.complete())(t)
			host := crashdisk.New()
			sizes, file := map[string]int64{r.Path: r.LUKS.PayloadOffset + r.Size}, r.Path
			if r.Header != "" {
				file, sizes[r.Header] = r.Header, must.Get(r.LUKS.HeaderSize())(t)
			}
			store := &keeper{host: host}
			c := &creation{Request: r, begin: beginOn(host, sizes)}
			made := must.Get(c.run(t.Context(), func(context.Context, secrets.Document) (secrets.Keeper, error) { return store, nil }))(t)
			passphrase := secrets.New(store.value)
			defer passphrase.Wipe()
			v := &crashVolume{header: made.LUKS, passphrase: passphrase, opened: map[uint64]bool{}, seed: maphash.MakeSeed()}
			v.key = must.Use(t, must.Get(made.LUKS.Unlock(t.Context(), must.Use(t, passphrase)))(t))
			n, named, lost := 0, 0, 0
			for s := range host.States(4, states(400)) {
				n++
				has := func(record string) bool { return slices.Contains(s.Records, any(record)) }
				if !has(r.Path) && (r.Header == "" || !has(r.Header)) {
					continue
				}
				if named++; !has("secret") || !has(file) || !v.opens(t.Context(), s.Disk(file)) {
					lost++
				}
			}
			if lost > 0 || named == 0 {
				t.Errorf("of %d states, %d have a named file, and the volume is lost in %d", n, named, lost)
			}
			t.Logf("%d states, %d with a name, %d lost", n, named, lost)
		})
	}
}

// TestCrashComplete: at each moment of the removal of a mark the volume is incomplete, or it opens and has all data that were
// written before; the same call finishes.
func TestCrashComplete(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup")
	for name, v := range crashVolumes(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			marked := must.Get(luks.Incomplete(v.content()))(t)
			payload := v.image[v.length():]
			host := crashdisk.New()
			image := host.Disk("image", slices.Concat(marked, make([]byte, len(payload))))
			must.Get(image.WriteAt(payload, v.length()))(t) // by QEMU, and not stored
			must.OK(t, completed(image))
			host.Record("returned")
			v.wantMark(t, host, 5, func(s crashdisk.State, incomplete bool) {
				t.Helper()
				if !incomplete && !bytes.Equal(s.Bytes("image"), v.in(v.content())) {
					t.Fatalf("after %d events the volume is complete, and lacks data or a mark is left", s.Event)
				}
				again := memory(s.Bytes("image"))
				if must.OK(t, completed(again)); !v.opens(t.Context(), again) {
					t.Fatalf("after %d events the call cannot be finished", s.Event)
				}
			}, false)
		})
	}
}

// TestCrashMark: at each moment at which a mark is put on a volume it opens, or is incomplete; the same call finishes.
func TestCrashMark(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup")
	for name, v := range crashVolumes(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			marked := must.Get(luks.Incomplete(v.content()))(t)
			host := crashdisk.New()
			image := host.Disk("image", v.image)
			must.OK(t, luks.MarkIncomplete(image))
			host.Record("returned")
			v.wantMark(t, host, 6, func(s crashdisk.State, _ bool) {
				t.Helper()
				again := memory(s.Bytes("image"))
				if must.OK(t, luks.MarkIncomplete(again)); !bytes.Equal(again, v.in(marked)) {
					t.Fatalf("after %d events the call cannot be finished", s.Event)
				}
			}, true)
		})
	}
}

// wantMark checks the states after a crash while a mark changes: the volume is incomplete, and neither ReadHeader nor QEMU's and
// cryptsetup's first look finds a header, or it opens. Both occur, and after the call has returned only the one that it makes.
func (v *crashVolume) wantMark(t *testing.T, host *crashdisk.Host, seed uint64, state func(s crashdisk.State, incomplete bool), marks bool) {
	t.Helper()
	n, closed, complete := 0, 0, 0
	start := make([]byte, 6)
	for s := range host.States(seed, states(1500)) {
		n++
		_, err := luks.ReadHeader(s.Disk("image"))
		incomplete, opens := errors.Is(err, luks.ErrIncomplete), v.opens(t.Context(), s.Disk("image"))
		readState(t, s, "image", start)
		if incomplete == opens || incomplete == luks.HasMagic(start) {
			t.Fatalf("after %d events: incomplete %v, opens %v, begins with %q: %v", s.Event, incomplete, opens, start, err)
		}
		if incomplete {
			closed++
			h := must.Get(luks.ReadIncomplete(s.Disk("image")))(t)
			if key := must.Get(h.Unlock(t.Context(), []byte(crashPassphrase)))(t); !bytes.Equal(must.Use(t, key), v.key) {
				t.Fatalf("after %d events the incomplete volume has another key", s.Event)
			} else {
				key.Wipe()
			}
		} else {
			complete++
		}
		if len(s.Records) > 0 && incomplete != marks {
			t.Fatalf("after the call has returned, incomplete is %v", incomplete)
		}
		state(s, incomplete)
	}
	if closed == 0 || complete == 0 {
		t.Errorf("of %d states %d are incomplete, and %d open", n, closed, complete)
	}
	t.Logf("%d states of %d events: %d incomplete, %d open", n, host.Events(), closed, complete)
}
