package reencrypt_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/reencrypt"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// dying is an engine whose program dies during the switch: nothing that it has done is undone.
type dying struct {
	reencrypt.Engine
	switches bool // QEMU has got the command
}

var errDied = errors.New("the program has died")

func (d dying) Switch(ctx context.Context, s hotplug.Switch) (*hotplug.Switched, error) {
	if !d.switches {
		return nil, errors.Join(s.Before(ctx), errDied)
	}
	_, err := d.Engine.Switch(ctx, hotplug.Switch{Before: s.Before})
	return nil, errors.Join(err, errDied)
}

// records are references that note where they are.
type records struct {
	path string
	die  bool
}

func (r *records) Kept() string { return "" }

func (r *records) Move(context.Context) error {
	if r.die {
		return errDied
	}
	return os.WriteFile(r.path, []byte("new"), 0o600)
}

func (r *records) MoveBack(context.Context) error { return os.WriteFile(r.path, []byte("old"), 0o600) }

// The points at which a program dies in tests.
const whileCopying, beforeMove, beforeSwitch, afterSwitch = "copying", "the old volume is marked", "both are ready", "switched"

// death is a program that dies, perhaps with the VM, and what is found then.
type death struct {
	died   string
	killed bool // the VM as well
	want   reencrypt.Outcome
}

var deaths = []death{
	{whileCopying, false, reencrypt.OutcomeCopying}, {whileCopying, true, reencrypt.OutcomeDropped},
	{beforeMove, false, reencrypt.OutcomeCopying}, {beforeMove, true, reencrypt.OutcomeDone},
	{beforeSwitch, false, reencrypt.OutcomeCopying}, {beforeSwitch, true, reencrypt.OutcomeDone},
	{afterSwitch, false, reencrypt.OutcomeDone}, {afterSwitch, true, reencrypt.OutcomeDone},
}

// TestResume: a program that dies at any point leaves what Resume finishes, with the VM and after its end: one volume is complete and can
// be opened, the references are to that one, and the keys of both are there until the other one is gone.
func TestResume(t *testing.T) {
	t.Parallel()
	for _, d := range deaths {
		t.Run(d.name(), func(t *testing.T) {
			t.Parallel()
			resume(t, d, reencrypt.LayoutLUKS, "")
		})
	}
}

// TestResumePlain: as TestResume, with a volume without encryption, whose marks are attributes of its file.
func TestResumePlain(t *testing.T) {
	t.Parallel()
	for _, c := range plainPairs {
		for _, d := range deaths {
			if !long() && (!c.quick || !d.killed || d.died == whileCopying) {
				continue
			}
			t.Run(fmt.Sprintf("%s to %s: %s", c.from, c.to, d.name()), func(t *testing.T) {
				t.Parallel()
				resume(t, d, c.from, c.to)
			})
		}
	}
}

func (d death) name() string {
	if d.killed {
		return d.died + " and the VM has ended"
	}
	return d.died
}

// resume tests a death between two layouts.
func resume(t *testing.T, c death, from, to reencrypt.Layout) {
	ctx := t.Context()
	b := newBench(t)
	refs := &records{path: filepath.Join(t.TempDir(), "record")}
	must.OK(t, refs.MoveBack(ctx))
	b.Refer = func(context.Context, reencrypt.Entry) (reencrypt.References, error) { return refs, nil }
	r := b.request(b.attachLayout(t, from))
	r.Layout = to
	e := must.Get(b.Start(ctx, must.Get(reencrypt.Prepare(ctx, r))(t)))(t)
	source, target := e.Source, e.Target
	if c.died != whileCopying {
		must.OK(t, b.Wait(ctx, reencrypt.Waiting{Poll: 10 * time.Millisecond}))
		refs.die = c.died == beforeMove
		first := b.Setting
		first.Engine = dying{b.Engine, c.died == afterSwitch}
		if _, _, err := first.Finish(ctx, e); !errors.Is(err, errDied) {
			t.Fatal(err)
		}
		refs.die = false
	}
	if c.died == afterSwitch {
		b.write(t, "write -f -P 0x33 5M 4k") // stored, as after a flush of the guest's
	}
	if c.killed {
		b.kill()
		b.Engine = nil
	}
	after, outcome, err := b.Resume(ctx, e)
	must.OK(t, err)
	if outcome != c.want {
		t.Fatalf("resumed: %s, want %s", outcome, c.want)
	}
	if outcome == reencrypt.OutcomeCopying {
		b.wantComplete(t, source, refs, "old")
		wantIncomplete(t, target)
		must.OK(t, b.Wait(ctx, reencrypt.Waiting{Poll: 10 * time.Millisecond}))
		after, _, err = b.Finish(ctx, after)
		must.OK(t, err)
		outcome = reencrypt.OutcomeDone
	}
	again, twice, err := b.Resume(ctx, after)
	if outcome == reencrypt.OutcomeDropped {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("again: %v", err)
		}
		b.wantComplete(t, source, refs, "old")
		b.wantGone(t, target)
		return
	}
	if err != nil || twice != reencrypt.OutcomeDone || again != after {
		t.Errorf("again: %s, %v, %+v", twice, err, again)
	}
	b.wantComplete(t, after.Target, refs, "new")
	if source.UUID != "" {
		if _, err := b.keys.Lookup(ctx, source.Secret); err != nil {
			t.Errorf("the old secret: %v", err)
		}
	}
	if c.killed {
		plain := b.content(t, after.Target)
		if plain[0] != 0x5a || plain[7*mib] != 0x77 || (plain[5*mib] == 0x33) != (c.died == afterSwitch) {
			t.Error("the new volume lacks data")
		}
	}
	must.OK(t, b.DiscardOld(ctx, after))
	b.wantGone(t, after.Source)
	b.wantGone(t, source)
}

// wantComplete checks that a volume has no mark, opens by its secret, and is the one that is referred to.
func (b *bench) wantComplete(t *testing.T, v reencrypt.Volume, refs *records, want string) {
	t.Helper()
	if v.UUID == "" {
		if _, marked, err := volume.PlainMarks(v.Payload); err != nil || marked != "" {
			t.Errorf("%s: marked by %s, %v", v.Payload, marked, err)
		}
	} else {
		value := must.Get(b.keys.Lookup(t.Context(), v.Secret))(t)
		defer value.Wipe()
		if i, err := volume.Inspect(t.Context(), v.Payload, v.Header, nil); err != nil || i.LUKS.Incomplete {
			t.Errorf("%s: %v", v.Payload, err)
		}
		if _, err := volume.TrySlot(t.Context(), v.Payload, v.Header, value); err != nil {
			t.Errorf("%s: %v", v.Payload, err)
		}
	}
	if got := string(must.Get(os.ReadFile(refs.path))(t)); got != want {
		t.Errorf("the record is of the %s volume, not of the %s one", got, want)
	}
}

// wantIncomplete checks that a volume has the mark, by which an attach refuses it.
func wantIncomplete(t *testing.T, v reencrypt.Volume) {
	t.Helper()
	if v.UUID == "" {
		if _, marked, err := volume.PlainMarks(v.Payload); err != nil || marked == "" {
			t.Errorf("%s is not marked: %v", v.Payload, err)
		}
		return
	}
	if i, err := volume.Inspect(t.Context(), v.Payload, v.Header, nil); err != nil || !i.LUKS.Incomplete {
		t.Errorf("%s is not marked: %v", v.Payload, err)
	}
}

// wantGone checks that nothing is left of a volume.
func (b *bench) wantGone(t *testing.T, v reencrypt.Volume) {
	t.Helper()
	if _, err := os.Stat(v.Payload); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v", v.Payload, err)
	}
	if v.UUID == "" {
		return
	}
	if _, err := b.keys.Lookup(t.Context(), v.Secret); !errors.Is(err, secrets.ErrNotFound) {
		t.Errorf("the secret of %s: %v", v.Payload, err)
	}
}

// TestResumeInPlace: a program that dies at any point between the switch and the last rename leaves what Resume finishes, with the VM and
// after its end.
func TestResumeInPlace(t *testing.T) {
	t.Parallel()
	const renamed, noted = 2, 3 // calls of moved
	for _, c := range []struct {
		name   string
		files  int // that were renamed
		died   int // after so many renames were done, the note (renamed) or the references (noted) fail
		killed bool
	}{
		{"the names are in the journal", 0, 0, false}, {"the old header is renamed", 1, 0, false}, {"the old volume is renamed", 2, 0, true},
		{"the new header is renamed", 3, 0, false}, {"the new volume is renamed", 4, 0, false}, {"the new volume is renamed: the VM has ended", 4, 0, true},
		{"the note fails", 4, renamed, false}, {"the references fail", 4, noted, false}, {"the references fail: the VM has ended", 4, noted, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			b := newBench(t)
			refs := &records{path: filepath.Join(t.TempDir(), "record")}
			must.OK(t, refs.MoveBack(ctx))
			var at string // the payload to which the references were moved last
			b.Refer = func(_ context.Context, e reencrypt.Entry) (reencrypt.References, error) {
				return &moves{refs, e, &at}, nil
			}
			r := b.request(b.attachLayout(t, reencrypt.LayoutDetachedRaw))
			r.InPlace = true
			e := must.Get(b.Start(ctx, must.Get(reencrypt.Prepare(ctx, r))(t)))(t)
			source, target := e.Source, e.Target
			must.OK(t, b.Wait(ctx, reencrypt.Waiting{Poll: 10 * time.Millisecond}))
			first := b.Setting
			switch c.died {
			case renamed:
				first.Engine = forgetful{b.Engine}
			case noted:
				first.Refer = func(_ context.Context, e reencrypt.Entry) (reencrypt.References, error) {
					refs.die = e.Target.Payload == source.Payload
					return &moves{refs, e, &at}, nil
				}
			default:
				first.Engine = dying{b.Engine, true}
			}
			_, _, err := first.Finish(ctx, e)
			if !errors.Is(err, errDied) {
				t.Fatal(err)
			}
			refs.die = false
			if c.died == 0 { // as the program would have gone on
				e, err := b.Journal.Update(e.ID, reencrypt.PhaseSwitched)
				must.OK(t, err)
				e.Names = reencrypt.Names{OldPayload: source.Payload + ".old", OldHeader: source.Header + ".old", NewPayload: source.Payload, NewHeader: source.Header}
				must.OK(t, b.Journal.Write(e))
				for _, f := range [][2]string{{source.Header, e.Names.OldHeader}, {source.Payload, e.Names.OldPayload}, {target.Header, source.Header}, {target.Payload, source.Payload}}[:c.files] {
					must.OK(t, os.Rename(f[0], f[1]))
				}
			}
			b.write(t, "write -f -P 0x33 5M 4k")
			if c.killed {
				b.kill()
				b.Engine = nil
			}
			after, outcome, err := b.Resume(ctx, e)
			must.OK(t, err)
			if outcome != reencrypt.OutcomeDone || after.Target.Payload != source.Payload || after.Target.Header != source.Header || after.Source.Payload != source.Payload+".old" || after.Names != (reencrypt.Names{}) || at != source.Payload {
				t.Fatalf("resumed: %s, %+v; the references are to %s", outcome, after, at)
			}
			b.wantComplete(t, after.Target, refs, "new")
			b.wantComplete(t, after.Source, refs, "new")
			b.wantGone(t, reencrypt.Volume{Payload: target.Payload})
			if again, _, err := b.Resume(ctx, after); err != nil || again != after {
				t.Errorf("again: %v, %+v", err, again)
			}
			if !c.killed {
				b.wantAttached(t, source.XML, source.Payload)
				b.kill()
			}
			if plain := b.content(t, after.Target); plain[0] != 0x5a || plain[7*mib] != 0x77 || plain[5*mib] != 0x33 {
				t.Error("the new volume lacks data")
			}
			must.OK(t, b.DiscardOld(ctx, after))
			b.wantGone(t, after.Source)
			b.wantComplete(t, after.Target, refs, "new")
		})
	}
}

// moves are references that note the payload to which they were moved.
type moves struct {
	*records
	entry reencrypt.Entry
	at    *string
}

func (m *moves) Move(ctx context.Context) error {
	err := m.records.Move(ctx)
	if err == nil {
		*m.at = m.entry.Target.Payload
	}
	return err
}

// forgetful is an engine whose program dies before it notes the renamed files.
type forgetful struct{ reencrypt.Engine }

func (forgetful) Renamed(context.Context, hotplug.Renaming) error { return errDied }

// TestCancel: a re-encryption that is canceled leaves the disk on the old volume, and nothing else.
func TestCancel(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b := newBench(t)
	disk := b.attach(t, volume.Request{Size: 8 * mib})
	for _, inStep := range []bool{false, true} {
		e := must.Get(b.Start(ctx, must.Get(reencrypt.Prepare(ctx, b.request(disk)))(t)))(t)
		if inStep {
			must.OK(t, b.Wait(ctx, reencrypt.Waiting{Poll: 10 * time.Millisecond}))
		}
		must.OK(t, b.Cancel(ctx, e))
		b.wantGone(t, e.Target)
		b.write(t, "read -P 0x5a 0 1M")
		if entries := must.Get(b.Journal.List())(t); len(entries) != 0 {
			t.Errorf("the journal has %+v", entries)
		}
	}
	e := must.Get(b.Start(ctx, must.Get(reencrypt.Prepare(ctx, b.request(disk)))(t)))(t)
	must.OK(t, b.Wait(ctx, reencrypt.Waiting{Poll: 10 * time.Millisecond}))
	e, _, err := b.Finish(ctx, e)
	must.OK(t, err)
	if err := b.Cancel(ctx, e); !errors.Is(err, hotplug.ErrSwitched) {
		t.Errorf("after the switch: %v", err)
	}
}

// TestStartFails: a re-encryption that cannot begin leaves nothing, and touches no file of others.
func TestStartFails(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b := newBench(t)
	disk := b.attach(t, volume.Request{Size: 8 * mib})
	p := must.Get(reencrypt.Prepare(ctx, b.request(disk)))(t)
	// Another volume gets the name between the check and the begin.
	other := must.Get(volume.Create(ctx, volume.Request{Path: p.Entry.Target.Payload, Size: mib}, b.Keys))(t)
	if _, err := b.Start(ctx, p); !errors.Is(err, volume.ErrExists) {
		t.Errorf("a name that is taken: %v", err)
	}
	value := must.Get(b.keys.Lookup(ctx, other.Secret.Reference()))(t)
	if _, err := volume.TrySlot(ctx, other.Path, "", value); err != nil {
		t.Errorf("the other volume: %v", err)
	}
	// The VM refuses.
	r := b.request(disk)
	r.Size = 9 * mib
	p = must.Get(reencrypt.Prepare(ctx, r))(t)
	if e, err := b.Start(ctx, p); !errors.Is(err, hotplug.ErrSize) {
		t.Errorf("another size: %v", err)
	} else {
		b.wantGone(t, e.Target)
	}
	if entries := must.Get(b.Journal.List())(t); len(entries) != 0 {
		t.Errorf("the journal has %+v", entries)
	}
}

// TestResumeUnfinished: a program that dies while it makes the new volume leaves a secret and a file without a name of its own. Both are
// removed, and the files of others stay.
func TestResumeUnfinished(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b := newBench(t)
	disk := b.attach(t, volume.Request{Size: 8 * mib})
	p := must.Get(reencrypt.Prepare(ctx, b.request(disk)))(t)
	must.OK(t, b.Journal.Write(p.Entry))
	must.OK(t, b.keys.Define(ctx, secrets.Document{UUID: p.Entry.Target.Secret.UUID}))
	base := filepath.Base(p.Entry.Target.Payload)
	unfinished, other := filepath.Join(b.images, "."+base+".luksplug-123"), filepath.Join(b.images, "."+base+".luksplug-mine")
	for _, path := range []string{unfinished, other} {
		must.OK(t, os.WriteFile(path, []byte("a part"), 0o600))
	}
	if _, outcome, err := b.Resume(ctx, p.Entry); err != nil || outcome != reencrypt.OutcomeDropped {
		t.Fatalf("%s, %v", outcome, err)
	}
	b.wantGone(t, p.Entry.Target)
	if _, err := os.Stat(unfinished); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the unfinished file: %v", err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("the file of another: %v", err)
	}
	b.write(t, "read -P 0x5a 0 1M")
}
