package volume_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
	"github.com/luksplug/luksplug/secrets/luks"
)

// created makes a volume and returns it with its secret.
func created(t *testing.T, r volume.Request, store *dir.Store, keys volume.Keys) (*volume.Volume, volume.Location, *volume.Stored) {
	t.Helper()
	v := must.Get(volume.Create(t.Context(), r, keys))(t)
	return v, volume.Location{Path: v.Path, Header: v.Header}, &volume.Stored{Store: store, Document: v.Secret}
}

// rawVolume makes a small raw volume in a directory of its own.
func rawVolume(t *testing.T, version int) (volume.Location, *volume.Stored) {
	t.Helper()
	store, keys := keysIn(t)
	_, l, s := created(t, volume.Request{Path: filepath.Join(t.TempDir(), "volume"), Size: size, LUKS: luks.Format{Version: version, KeyBytes: 32}}, store, keys)
	return l, s
}

// valueOf returns the value of a secret, which is wiped when the test ends.
func valueOf(t *testing.T, s *volume.Stored) *secrets.Secret {
	t.Helper()
	value := must.Get(s.Store.Lookup(t.Context(), s.Document.Reference()))(t)
	t.Cleanup(value.Wipe)
	return value
}

func phrase(t *testing.T, text string) *secrets.Secret {
	t.Helper()
	s := secrets.New([]byte(text))
	t.Cleanup(s.Wipe)
	return s
}

// slotOf returns the key slot that a passphrase opens, -1 if none.
func slotOf(t *testing.T, l volume.Location, passphrase *secrets.Secret) int {
	t.Helper()
	backup := filepath.Join(t.TempDir(), "header")
	_, err := volume.BackupHeader(t.Context(), volume.HeaderBackup{Path: l.Path, Header: l.Header, To: backup})
	must.OK(t, err)
	f := must.Get(os.Open(backup))(t)
	defer func() { must.OK(t, f.Close()) }()
	key, err := must.Get(luks.ReadHeader(f))(t).Unlock(t.Context(), must.Use(t, passphrase))
	if errors.Is(err, luks.ErrWrongPassphrase) {
		return -1
	}
	must.OK(t, err)
	defer key.Wipe()
	return key.Slot()
}

// onlySecret: nothing of a change is left in the store.
func onlySecret(t *testing.T, s *volume.Stored) {
	t.Helper()
	if all := must.Get(s.Store.List(t.Context()))(t); len(all) != 1 || all[0] != s.Document {
		t.Errorf("the store has %v", all)
	}
}

// TestChangePassphrase: a volume of every layout has a new passphrase, QEMU and cryptsetup open it, and its data are there.
func TestChangePassphrase(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-io", "cryptsetup")
	all := layouts(t)
	for _, name := range []string{"raw", "raw detached LUKS2", "qcow2", "raw aes-128 detached"} {
		r := all[name]
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			slow(t, r)
			store, keys := keysIn(t)
			v, l, s := created(t, r, store, keys)
			old := valueOf(t, s)
			object, options := node(t, v, value(t, store, v))
			if r.LUKS.Version != 2 {
				must.Run(t, "", "qemu-io", "--object", object, "-c", "write -P 7 0 64k", options)
			}
			before := must.Get(os.ReadFile(l.Path))(t)
			planned := must.Get(volume.ChangePassphrase(t.Context(), volume.Change{Volumes: []volume.Location{l}, Stored: s, DryRun: true}))(t)
			if after := must.Get(os.ReadFile(l.Path))(t); !slices.Equal(before, after) || len(planned.Volumes) != 1 || planned.Volumes[0].Slot != 1 || !planned.Volumes[0].Added || planned.Replaced {
				t.Errorf("the dry run: %+v", planned)
			}
			onlySecret(t, s)
			out := must.Get(volume.ChangePassphrase(t.Context(), volume.Change{Volumes: []volume.Location{l}, Stored: s}))(t)
			if c := out.Volumes[0]; c.Slot != 1 || !c.Added || !slices.Equal(c.Wiped, []int{0}) || !out.Replaced || out.Resumed {
				t.Errorf("%+v", out)
			}
			onlySecret(t, s)
			fresh := valueOf(t, s)
			if slotOf(t, l, old) != -1 || slotOf(t, l, fresh) != 1 {
				t.Error("the old passphrase opens it, or the new one does not")
			}
			if r.LUKS.Version != 2 {
				object, options = node(t, v, value(t, store, v))
				must.Run(t, "", "qemu-io", "--object", object, "-c", "read -P 7 0 64k", options)
			} else {
				file := l.Path
				if l.Header != "" {
					file = l.Header
				}
				must.Run(t, string(must.Use(t, fresh)), "cryptsetup", "luksOpen", "--test-passphrase", "--key-file", "-", file)
			}
		})
	}
}

// TestChangeOfAGivenPassphrase works without a store, in phases, and again.
func TestChangeOfAGivenPassphrase(t *testing.T) {
	t.Parallel()
	for _, version := range []int{1, 2} {
		l, s := rawVolume(t, version)
		old, fresh := valueOf(t, s), phrase(t, "chosen by a person")
		c := volume.Change{Volumes: []volume.Location{l}, Old: old, New: fresh, Unlock: 20 * time.Millisecond, Phase: volume.PhaseCommit}
		if _, err := volume.ChangePassphrase(t.Context(), c); !errors.Is(err, volume.ErrNotStaged) || slotOf(t, l, old) != 0 {
			t.Errorf("a commit before: %v", err)
		}
		for again := range 2 {
			c.Phase = volume.PhaseStage
			out := must.Get(volume.ChangePassphrase(t.Context(), c))(t)
			if v := out.Volumes[0]; v.Slot != 1 || v.Added != (again == 0) || len(v.Wiped) > 0 || slotOf(t, l, old) != 0 || slotOf(t, l, fresh) != 1 {
				t.Errorf("staged: %+v", out)
			}
		}
		for again := range 2 {
			c.Phase = volume.PhaseCommit
			out := must.Get(volume.ChangePassphrase(t.Context(), c))(t)
			if v := out.Volumes[0]; v.Slot != 1 || v.Added || len(v.Wiped) != 1-again || slotOf(t, l, old) != -1 || slotOf(t, l, fresh) != 1 {
				t.Errorf("committed: %+v", out)
			}
		}
		c.Phase, c.Old, c.New = volume.PhaseAll, fresh, old
		must.Get(volume.ChangePassphrase(t.Context(), c))(t)
		if slotOf(t, l, old) != 0 || slotOf(t, l, fresh) != -1 {
			t.Error("not changed back")
		}
	}
}

// TestChangeOfASharedSecret changes all volumes of a secret or none, and finishes what was begun.
func TestChangeOfASharedSecret(t *testing.T) {
	t.Parallel()
	store, keys := keysIn(t)
	pool := t.TempDir()
	var all []volume.Location
	_, first, s := created(t, volume.Request{Path: filepath.Join(pool, "0"), Size: size, Secret: secrets.Document{Description: "shared"}}, store, keys)
	old := valueOf(t, s)
	all = append(all, first)
	for _, name := range []string{"1", "2"} {
		r := volume.Request{Path: filepath.Join(pool, name), Size: size, Passphrase: old, Secret: s.Document, Unlock: time.Millisecond}
		if name == "2" {
			r.Header = filepath.Join(pool, "2.header")
		}
		v := must.Get(volume.Create(t.Context(), r, nil))(t)
		all = append(all, volume.Location{Path: v.Path, Header: v.Header})
	}
	must.Write(t, filepath.Join(pool, "other"), "no volume")
	foreign, _ := rawVolume(t, 1)
	must.OK(t, os.Rename(foreign.Path, filepath.Join(pool, "foreign")))
	found := must.Get(volume.FindVolumes(t.Context(), pool, *s))(t)
	header := filepath.Join(pool, "2.header")
	if want := []volume.Location{all[0], all[1], {Path: header, Header: header}}; !slices.Equal(found, want) {
		t.Errorf("found %v", found)
	}

	uses := []hotplug.Use{{VM: "vm1", Target: "vdb", Payload: all[1].Path}}
	_, err := volume.ChangePassphrase(t.Context(), volume.Change{Volumes: all[:1], Stored: s, Uses: uses})
	if !errors.Is(err, volume.ErrShared) || !strings.Contains(err.Error(), "disk vdb of VM vm1") {
		t.Errorf("a volume that was left out: %v", err)
	}
	// One that cannot be changed: nothing is.
	_, err = volume.ChangePassphrase(t.Context(), volume.Change{Volumes: append(slices.Clone(all), volume.Location{Path: filepath.Join(pool, "foreign")}), Stored: s})
	if !errors.Is(err, volume.ErrWrongPassphrase) || !strings.Contains(err.Error(), "foreign") || slotOf(t, all[0], phrase(t, "x")) != -1 {
		t.Errorf("another volume: %v", err)
	}
	onlySecret(t, s)
	for _, l := range all {
		if slotOf(t, l, old) != 0 || len(must.Get(volume.Inspect(t.Context(), l.Path, l.Header, nil))(t).Slots) != 1 {
			t.Errorf("%v was changed", l)
		}
	}
	staged := must.Get(volume.ChangePassphrase(t.Context(), volume.Change{Volumes: all[:2], Stored: s, Phase: volume.PhaseStage}))(t)
	if staged.Replaced || slotOf(t, all[0], old) != 0 || slotOf(t, all[1], old) != 0 {
		t.Errorf("staged: %+v", staged)
	}
	if _, err := volume.ChangePassphrase(t.Context(), volume.Change{Volumes: all, Stored: s, New: phrase(t, "another")}); !errors.Is(err, volume.ErrUnfinished) {
		t.Errorf("another new passphrase: %v", err)
	}
	out := must.Get(volume.ChangePassphrase(t.Context(), volume.Change{Volumes: all, Stored: s, Uses: uses}))(t)
	if !out.Resumed || !out.Replaced || out.Volumes[0].Added || !out.Volumes[2].Added {
		t.Errorf("%+v", out)
	}
	fresh := valueOf(t, s)
	for _, l := range all {
		if slotOf(t, l, old) != -1 || slotOf(t, l, fresh) != 1 {
			t.Errorf("%v was not changed", l)
		}
	}
	onlySecret(t, s)
}

// TestChangeRefused: nothing is changed.
func TestChangeRefused(t *testing.T) {
	t.Parallel()
	l, s := rawVolume(t, 1)
	old := valueOf(t, s)
	full, fullSecret := rawVolume(t, 1)
	known := valueOf(t, fullSecret)
	for n := range luks.Slots - 1 {
		out := must.Get(volume.AddPassphrase(t.Context(), volume.Addition{Location: full, Known: known, New: phrase(t, strings.Repeat("x", n+1)), Unlock: time.Millisecond}, nil))(t)
		if out.Slot != n+1 || out.Already || out.Stored != nil {
			t.Errorf("%+v", out)
		}
	}
	ceph := *s
	ceph.Document.UsageType = secrets.UsageCeph
	link := filepath.Join(t.TempDir(), "link")
	must.OK(t, os.Symlink(l.Path, link))
	no := must.File(t, "no volume")
	for what, c := range map[string]struct {
		volume.Change
		want error
	}{
		"no volume":         {volume.Change{Stored: s}, volume.ErrRequest},
		"no passphrase":     {volume.Change{Volumes: []volume.Location{l}, Old: old}, volume.ErrRequest},
		"twice":             {volume.Change{Volumes: []volume.Location{l, {Path: link}}, Stored: s}, volume.ErrRequest},
		"an empty one":      {volume.Change{Volumes: []volume.Location{l}, Stored: s, New: phrase(t, "")}, volume.ErrRequest},
		"a phase":           {volume.Change{Volumes: []volume.Location{l}, Stored: s, Phase: "later"}, volume.ErrRequest},
		"a server's secret": {volume.Change{Volumes: []volume.Location{l}, Stored: &ceph}, volume.ErrRequest},
		"a wrong one":       {volume.Change{Volumes: []volume.Location{l}, Old: phrase(t, "wrong"), New: phrase(t, "x")}, volume.ErrWrongPassphrase},
		"no LUKS":           {volume.Change{Volumes: []volume.Location{{Path: no}}, Stored: s}, volume.ErrNoVolume},
		"no file":           {volume.Change{Volumes: []volume.Location{{Path: no + "ne"}}, Stored: s}, os.ErrNotExist},
		"no spare slot":     {volume.Change{Volumes: []volume.Location{full}, Stored: fullSecret}, volume.ErrNoSpareSlot},
		"an ended context":  {volume.Change{Volumes: []volume.Location{l}, Stored: s}, context.Canceled},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		if c.want == context.Canceled { //nolint:errorlint // the identity is meant
			cancel()
		}
		if _, err := volume.ChangePassphrase(ctx, c.Change); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
		cancel()
	}
	onlySecret(t, s)
	onlySecret(t, fullSecret)
	if slotOf(t, l, old) != 0 || slotOf(t, full, known) != 0 {
		t.Error("it was changed")
	}
}

// TestAddAndRemovePassphrase: with secrets, given passphrases, and by slots.
func TestAddAndRemovePassphrase(t *testing.T) {
	t.Parallel()
	for _, version := range []int{1, 2} {
		l, s := rawVolume(t, version)
		known := valueOf(t, s)
		store, keys := keysIn(t)
		a := volume.Addition{Location: l, Known: known, Secret: secrets.Document{Description: "escrow"}, DryRun: true}
		if out := must.Get(volume.AddPassphrase(t.Context(), a, keys))(t); out.Slot != 1 || out.Stored != nil {
			t.Errorf("a dry run: %+v", out)
		}
		a.DryRun = false
		out := must.Get(volume.AddPassphrase(t.Context(), a, keys))(t)
		escrow := valueOf(t, out.Stored)
		if out.Slot != 1 || out.Stored.Document.Description != "escrow" || slotOf(t, l, escrow) != 1 {
			t.Errorf("%+v", out)
		}
		a.New = escrow
		if out := must.Get(volume.AddPassphrase(t.Context(), a, nil))(t); out.Slot != 1 || !out.Already {
			t.Errorf("again: %+v", out)
		}
		a.Known, a.New = phrase(t, "wrong"), nil
		if _, err := volume.AddPassphrase(t.Context(), a, keys); !errors.Is(err, volume.ErrWrongPassphrase) {
			t.Errorf("a wrong passphrase: %v", err)
		}
		if n := len(must.Get(store.List(t.Context()))(t)); n != 1 {
			t.Errorf("%d secrets", n)
		}
		removals(t, l, known, s, out.Stored)
		if n := len(must.Get(store.List(t.Context()))(t)); n != 0 {
			t.Errorf("%d secrets", n)
		}
	}
}

// removals removes the secret in key slot 1 of a volume.
func removals(t *testing.T, l volume.Location, known *secrets.Secret, own, other *volume.Stored) {
	t.Helper()
	zero, one, five := 0, 1, 5
	for what, c := range map[string]struct {
		volume.Removal
		want error
	}{
		"nothing":             {volume.Removal{Known: known}, volume.ErrRequest},
		"two":                 {volume.Removal{Known: known, Slot: &one, Stored: other}, volume.ErrRequest},
		"the known one":       {volume.Removal{Known: known, Stored: own}, volume.ErrLastPassphrase},
		"the known one's":     {volume.Removal{Known: known, Slot: &zero}, volume.ErrLastPassphrase},
		"a free slot":         {volume.Removal{Known: known, Slot: &five}, volume.ErrSlotNotInUse},
		"a wrong known one":   {volume.Removal{Known: phrase(t, "wrong"), Stored: other}, volume.ErrWrongPassphrase},
		"one that opens none": {volume.Removal{Known: known, Passphrase: phrase(t, "wrong")}, volume.ErrWrongPassphrase},
		"one in use":          {volume.Removal{Known: known, Stored: other, Uses: []hotplug.Use{{VM: "vm1", Target: "vdb", Payload: l.Path}}}, volume.ErrShared},
	} {
		c.Location = l
		if _, err := volume.RemovePassphrase(t.Context(), c.Removal); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	r := volume.Removal{Location: l, Known: known, Stored: other, DryRun: true}
	if out := must.Get(volume.RemovePassphrase(t.Context(), r))(t); !slices.Equal(out.Slots, []int{1}) || out.Kept != 0 || out.Secret {
		t.Errorf("a dry run: %+v", out)
	}
	escrow := valueOf(t, other)
	if slotOf(t, l, escrow) != 1 {
		t.Error("it was removed")
	}
	r.DryRun = false
	if out := must.Get(volume.RemovePassphrase(t.Context(), r))(t); !slices.Equal(out.Slots, []int{1}) || out.Kept != 0 || !out.Secret {
		t.Errorf("%+v", out)
	}
	if slotOf(t, l, escrow) != -1 || slotOf(t, l, known) != 0 {
		t.Error("not removed")
	}
	// A secret that opens nothing may be that of another volume.
	if err := other.Store.Define(t.Context(), other.Document); err != nil {
		t.Error(err)
	}
	must.OK(t, other.Store.Set(t.Context(), other.Document.Reference(), escrow))
	if _, err := volume.RemovePassphrase(t.Context(), r); !errors.Is(err, volume.ErrWrongPassphrase) {
		t.Errorf("again: %v", err)
	}
	must.OK(t, other.Store.Remove(t.Context(), other.Document.Reference()))
}

// TestCompanionsAreFound: a change that another process has begun is found by the secret alone.
func TestCompanionsAreFound(t *testing.T) {
	t.Parallel()
	l, s := rawVolume(t, 1)
	must.Get(volume.ChangePassphrase(t.Context(), volume.Change{Volumes: []volume.Location{l}, Stored: s, Phase: volume.PhaseStage}))(t)
	want := uuid.NewSHA1(s.Document.UUID, []byte("luksplug new passphrase"))
	for _, d := range must.Get(s.Store.List(t.Context()))(t) {
		if d.UUID != s.Document.UUID && (d.UUID != want || d.Usage != "" || !strings.Contains(d.Description, s.Document.UUID.String())) {
			t.Errorf("%+v", d)
		}
	}
}

// TestChangeToAnAddedPassphrase: a passphrase that opens the volume already becomes the secret's, and a change that has lost
// one of its own secrets is still finished.
func TestChangeToAnAddedPassphrase(t *testing.T) {
	t.Parallel()
	l, s := rawVolume(t, 1)
	old, added := valueOf(t, s), phrase(t, "added before")
	must.Get(volume.AddPassphrase(t.Context(), volume.Addition{Location: l, Known: old, New: added, Unlock: time.Millisecond}, nil))(t)
	// As after a crash between the replacement of the value and the wipe, without the new passphrase beside the secret.
	previous := secrets.Document{UUID: uuid.NewSHA1(s.Document.UUID, []byte("luksplug old passphrase"))}
	must.OK(t, s.Store.Define(t.Context(), previous), s.Store.Set(t.Context(), previous.Reference(), old), s.Store.Set(t.Context(), s.Document.Reference(), added))
	if _, err := volume.ChangePassphrase(t.Context(), volume.Change{Volumes: []volume.Location{l}, Stored: s, New: phrase(t, "x")}); !errors.Is(err, volume.ErrUnfinished) {
		t.Errorf("another new passphrase: %v", err)
	}
	out := must.Get(volume.ChangePassphrase(t.Context(), volume.Change{Volumes: []volume.Location{l}, Stored: s}))(t)
	if v := out.Volumes[0]; !out.Resumed || out.Replaced || v.Slot != 1 || v.Added || !slices.Equal(v.Wiped, []int{0}) || !valueOf(t, s).Equal(added) {
		t.Errorf("%+v", out)
	}
	onlySecret(t, s)
	must.Get(volume.AddPassphrase(t.Context(), volume.Addition{Location: l, Known: added, New: old, Unlock: time.Millisecond}, nil))(t)
	out = must.Get(volume.ChangePassphrase(t.Context(), volume.Change{Volumes: []volume.Location{l}, Stored: s, New: old}))(t)
	if v := out.Volumes[0]; !out.Replaced || v.Slot != 0 || v.Added || !slices.Equal(v.Wiped, []int{1}) || !valueOf(t, s).Equal(old) {
		t.Errorf("%+v", out)
	}
	onlySecret(t, s)
	// Once more: there is nothing to do.
	out = must.Get(volume.ChangePassphrase(t.Context(), volume.Change{Volumes: []volume.Location{l}, Stored: s, New: old}))(t)
	if v := out.Volumes[0]; out.Replaced || v.Added || len(v.Wiped) > 0 || slotOf(t, l, old) != 0 {
		t.Errorf("%+v", out)
	}
}

// TestHeaderIsLocked: a program with cryptsetup's lock is waited for, and one that keeps it refused.
func TestHeaderIsLocked(t *testing.T) {
	t.Parallel()
	must.Have(t, "flock")
	l, s := rawVolume(t, 2)
	cmd := exec.Command("flock", l.Path, "sh", "-c", "echo locked; cat")
	in, out := must.Get(cmd.StdinPipe())(t), must.Get(cmd.StdoutPipe())(t)
	must.OK(t, cmd.Start())
	must.Get(out.Read(make([]byte, 16)))(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	c := volume.Change{Volumes: []volume.Location{l}, Stored: s}
	if _, err := volume.ChangePassphrase(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("locked: %v", err)
	}
	done := make(chan error)
	go func() {
		_, err := volume.ChangePassphrase(t.Context(), c)
		done <- err
	}()
	must.OK(t, in.Close(), cmd.Wait(), <-done)
	onlySecret(t, s)
}
