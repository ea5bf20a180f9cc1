package luks_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// secret returns a passphrase for the time of a test.
func secret(t *testing.T, text string) *secrets.Secret {
	t.Helper()
	s := secrets.New([]byte(text))
	t.Cleanup(s.Wipe)
	return s
}

// writable opens the header at path for changes.
func writable(t *testing.T, path string) *os.File {
	t.Helper()
	f := must.Get(os.OpenFile(path, os.O_RDWR, 0))(t)
	t.Cleanup(func() { must.OK(t, f.Close()) })
	return f
}

// cheap is a derivation for the header that costs nothing.
func cheap(t *testing.T, h *luks.Header) luks.KDF {
	t.Helper()
	return must.Get(h.Format())(t).MinimumCost()
}

// add adds a key slot for a passphrase, by the key that opened opens.
func add(t *testing.T, path, opened, passphrase string) int {
	t.Helper()
	h := open(t, path)
	key := unlock(t, h, opened)
	defer key.Wipe()
	added := must.Get(luks.AddSlot(t.Context(), writable(t, path), key, secret(t, passphrase), cheap(t, h)))(t)
	defer added.Wipe()
	if !bytes.Equal(must.Use(t, added), must.Use(t, key)) {
		t.Error("it returns another volume key")
	}
	return added.Slot()
}

// wipe wipes a key slot, by the key that opened opens.
func wipe(t *testing.T, path, opened string, slot int) error {
	t.Helper()
	key := unlock(t, open(t, path), opened)
	defer key.Wipe()
	return luks.WipeSlot(t.Context(), writable(t, path), key, slot)
}

// wantOpens tests with cryptsetup which passphrases open a header, by their key slots, -1 for none.
func wantOpens(t *testing.T, path string, want map[string]int) {
	t.Helper()
	for passphrase, slot := range want {
		key, err := open(t, path).Unlock(t.Context(), []byte(passphrase))
		if slot < 0 {
			if !errors.Is(err, luks.ErrWrongPassphrase) {
				t.Errorf("%q: %v", passphrase, err)
			}
			if out, err := cryptsetup(passphrase, "luksOpen", "--test-passphrase", "--key-file", "-", path); err == nil {
				t.Errorf("cryptsetup opens it with %q: %s", passphrase, out)
			}
			continue
		}
		if err != nil || key.Slot() != slot {
			t.Errorf("%q: slot %v, %v: want slot %d", passphrase, key, err, slot)
		}
		key.Wipe()
		must.Run(t, passphrase, "cryptsetup", "luksOpen", "--test-passphrase", "--key-slot", fmt.Sprint(slot), "--key-file", "-", path)
	}
	if out := run(t, "cryptsetup", "repair", "--batch-mode", path); strings.TrimSpace(out) != "" {
		t.Errorf("cryptsetup repair prints %q", out)
	}
}

func TestSlots(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup")
	argon2 := []string{"--type", "luks2", "--sector-size", "512", "--pbkdf", "argon2id", "--pbkdf-memory", "64", "--pbkdf-parallel", "1", "--pbkdf-force-iterations", "4"}
	for name, make := range map[string]func(t *testing.T) string{
		"cryptsetup LUKS1": func(t *testing.T) string { return luksFormat(t, 4<<20) },
		"cryptsetup LUKS1 sha512": func(t *testing.T) string {
			return luksFormat(t, 4<<20, "--type", "luks1", "--hash", "sha512", "--key-size", "256")
		},
		"cryptsetup LUKS2": func(t *testing.T) string { return luksFormat(t, 17<<20, argon2...) },
		"LUKS1": func(t *testing.T) string {
			return formatted(t, luks.Format{}, luks.Format{}.MinimumCost(), 0)
		},
		"LUKS1 cbc": func(t *testing.T) string {
			f := luks.Format{Encryption: "aes-cbc-essiv:sha256", KeyBytes: 16}
			return formatted(t, f, f.MinimumCost(), 0)
		},
		"LUKS2": func(t *testing.T) string {
			f := luks.Format{Version: 2, Encryption: "aes-cbc-plain64", Hash: "sha1"}
			return formatted(t, f, f.MinimumCost(), 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := make(t)
			if n := must.Get(open(t, path).SpareSlot())(t); n != 1 {
				t.Errorf("spare slot %d", n)
			}
			if n := add(t, path, "test passphrase", "second"); n != 1 {
				t.Errorf("slot %d", n)
			}
			wantOpens(t, path, map[string]int{"test passphrase": 0, "second": 1, "third": -1})
			before := must.Get(os.ReadFile(path))(t)
			must.OK(t, wipe(t, path, "second", 0))
			wantOpens(t, path, map[string]int{"test passphrase": -1, "second": 1})
			wantNoMaterial(t, before, must.Get(os.ReadFile(path))(t))
			if n := add(t, path, "second", "third"); n != 0 {
				t.Errorf("slot %d", n)
			}
			wantOpens(t, path, map[string]int{"test passphrase": -1, "second": 1, "third": 0})
			if numbers := must.Get(luks.FinishWipes(writable(t, path)))(t); len(numbers) > 0 {
				t.Errorf("finished %d", numbers)
			}
		})
	}
}

// wantNoMaterial: nothing of the key material of slot 0 is left.
func wantNoMaterial(t *testing.T, before, after []byte) {
	t.Helper()
	h := must.Get(luks.ReadHeader(strings.NewReader(string(before))))(t)
	at, length := int64(0), int64(0)
	if h.LUKS1 != nil {
		at, length = int64(h.LUKS1.Slots[0].MaterialSectors)*luks.SectorSize, h.LUKS1.MaterialSize()
	} else {
		at, length = h.LUKS2.KeySlots[0].Offset, h.LUKS2.KeySlots[0].Size
	}
	for ; length >= 16; at, length = at+16, length-16 {
		if string(before[at:at+16]) == string(after[at:at+16]) {
			t.Fatalf("the bytes at %d are as before", at)
		}
	}
}

func cryptsetup(passphrase string, args ...string) (string, error) {
	cmd := exec.Command("cryptsetup", args...)
	cmd.Stdin = strings.NewReader(passphrase)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestEverySlotOfLUKS1: slot 6 crosses the first sector. QEMU opens each.
func TestEverySlotOfLUKS1(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup", "qemu-img")
	f := luks.Format{PayloadOffset: 2 << 20, KeyBytes: 32}
	path := formatted(t, f, f.MinimumCost(), 64<<10)
	passphrase := func(slot int) string {
		if slot == 0 {
			return "test passphrase"
		}
		return fmt.Sprintf("passphrase %d", slot)
	}
	want := map[string]int{passphrase(0): 0}
	for slot := 1; slot < luks.Slots; slot++ {
		if n := add(t, path, passphrase(0), passphrase(slot)); n != slot {
			t.Fatalf("slot %d", n)
		}
		want[passphrase(slot)] = slot
	}
	wantOpens(t, path, want)
	key := unlock(t, open(t, path), passphrase(0))
	defer key.Wipe()
	if err := added(t.Context(), writable(t, path), key, f.MinimumCost()); !errors.Is(err, luks.ErrNoSpareSlot) {
		t.Errorf("a ninth key slot: %v", err)
	}
	if _, err := open(t, path).SpareSlot(); !errors.Is(err, luks.ErrNoSpareSlot) {
		t.Errorf("a spare slot: %v", err)
	}
	for slot := range luks.Slots {
		must.OK(t, wipe(t, path, passphrase((slot+1)%luks.Slots), slot))
		if n := add(t, path, passphrase((slot+1)%luks.Slots), passphrase(slot)); n != slot {
			t.Fatalf("slot %d", n)
		}
		if data := embedded(t, []byte(passphrase(slot)), path).read(t); len(data) != 64<<10 {
			t.Errorf("QEMU reads %d bytes", len(data))
		}
	}
	wantOpens(t, path, want)
	last := luks.Slots - 1
	for slot := range last {
		must.OK(t, wipe(t, path, passphrase(last), slot))
	}
	if err := wipe(t, path, passphrase(last), last); !errors.Is(err, luks.ErrLastSlot) {
		t.Errorf("the last slot: %v", err)
	}
	wantOpens(t, path, map[string]int{passphrase(last): last, passphrase(0): -1})
}

// metadataOf returns the JSON metadata of a LUKS2 header, as cryptsetup reads it.
func metadataOf(t *testing.T, path string) map[string]any {
	t.Helper()
	var m map[string]any
	must.OK(t, json.Unmarshal([]byte(run(t, "cryptsetup", "luksDump", "--dump-json-metadata", path)), &m))
	return m
}

// TestMetadataIsKept: an added and wiped key slot leaves the LUKS2 metadata as they were: tokens, priorities, other slots.
func TestMetadataIsKept(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup")
	path := luksFormat(t, 17<<20, "--type", "luks2", "--sector-size", "512", "--pbkdf", "pbkdf2", "--label", "a label", "--subsystem", "a <subsystem>")
	addKey(t, path, "other", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
	run(t, "cryptsetup", "config", path, "--key-slot", "1", "--priority", "prefer")
	must.Run(t, `{"type":"foreign","keyslots":["0","1"],"a number":12345678901234567890,"text":"<&>\u2028","nested":{"b":[1,null,true],"a":{}}}`,
		"cryptsetup", "token", "import", path)
	before := metadataOf(t, path)
	first := must.Get(os.ReadFile(path))(t)
	if n := add(t, path, "test passphrase", "third"); n != 2 {
		t.Errorf("slot %d", n)
	}
	with := metadataOf(t, path)
	if n := len(with["keyslots"].(map[string]any)); n != 3 {
		t.Errorf("%d key slots", n)
	}
	must.OK(t, wipe(t, path, "test passphrase", 2))
	if after := metadataOf(t, path); !reflect.DeepEqual(before, after) {
		t.Errorf("before: %v\nafter: %v", before, after)
	}
	h := open(t, path)
	if h.LUKS2.Label != "a label" || h.LUKS2.Subsystem != "a <subsystem>" || h.LUKS2.OtherCopy != nil || h.LUKS2.SequenceID <= must.Get(luks.ReadHeader(strings.NewReader(string(first))))(t).LUKS2.SequenceID {
		t.Errorf("%+v", h.LUKS2)
	}
	// The token names a wiped slot no more, as cryptsetup demands.
	must.OK(t, wipe(t, path, "other", 0))
	if token := metadataOf(t, path)["tokens"].(map[string]any)["0"].(map[string]any); !reflect.DeepEqual(token["keyslots"], []any{"1"}) {
		t.Errorf("token %v", token)
	}
	wantOpens(t, path, map[string]int{"other": 1, "test passphrase": -1})
}

// TestSlotsOfADamagedHeader: a damaged copy of LUKS2 metadata is repaired before a change.
func TestSlotsOfADamagedHeader(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup")
	f := luks.Format{Version: 2, KeyBytes: 32}
	for name, damage := range map[string]int64{"first": 4096 + 10, "second": 0x4000 + 4096 + 10} {
		path := formatted(t, f, f.MinimumCost(), 0)
		must.Get(writable(t, path).WriteAt([]byte("damage"), damage))(t)
		must.Get(luks.FinishWipes(writable(t, path)))(t)
		if h := open(t, path); h.LUKS2.OtherCopy != nil || h.LUKS2.SequenceID != 1 {
			t.Errorf("%s copy: %+v", name, h.LUKS2)
		}
		must.Get(writable(t, path).WriteAt([]byte("damage"), damage))(t)
		add(t, path, "test passphrase", "second")
		wantOpens(t, path, map[string]int{"test passphrase": 0, "second": 1})
	}
}

func TestSlotRefusals(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup")
	for _, f := range []luks.Format{{KeyBytes: 32}, {Version: 2, KeyBytes: 32}} {
		path := formatted(t, f, f.MinimumCost(), 0)
		before := string(must.Get(os.ReadFile(path))(t))
		w, key := writable(t, path), unlock(t, open(t, path), "test passphrase")
		other := must.Get(f.NewKey())(t)
		ended, end := context.WithCancel(t.Context())
		end()
		slow := f.MinimumCost()
		slow.Iterations = 1 << 30
		for what, c := range map[string]struct {
			err, want error
		}{
			"the last slot":     {luks.WipeSlot(t.Context(), w, key, 0), luks.ErrLastSlot},
			"a free slot":       {luks.WipeSlot(t.Context(), w, key, 1), luks.ErrSlotNotInUse},
			"a slot beyond":     {luks.WipeSlot(t.Context(), w, key, 99), luks.ErrSlotNotInUse},
			"another key":       {luks.WipeSlot(t.Context(), w, other, 0), luks.ErrOtherKey},
			"add another key":   {added(t.Context(), w, other, f.MinimumCost()), luks.ErrOtherKey},
			"an ended context":  {added(ended, w, key, slow), context.Canceled},
			"an unknown KDF":    {added(t.Context(), w, key, luks.KDF{Type: "scrypt"}), luks.ErrUnsupported},
			"too much memory":   {added(t.Context(), w, key, luks.KDF{Type: "argon2id", Time: 4, Memory: 2 << 20, Lanes: 1}), luks.ErrUnsupported},
			"no LUKS":           {added(t.Context(), writable(t, must.File(t, make([]byte, 4096))), key, f.MinimumCost()), luks.ErrNotLUKS},
			"a read-only place": {added(t.Context(), must.Get(os.Open(path))(t), key, f.MinimumCost()), os.ErrPermission},
		} {
			if what == "a read-only place" {
				if c.err == nil {
					t.Errorf("%s: no error", what)
				}
				continue
			}
			if !errors.Is(c.err, c.want) {
				t.Errorf("LUKS%d, %s: %v", f.Version, what, c.err)
			}
		}
		if after := string(must.Get(os.ReadFile(path))(t)); after != before {
			t.Errorf("LUKS%d was changed", f.Version)
		}
		key.Wipe()
		other.Wipe()
		cut := path + ".cut"
		must.OK(t, os.WriteFile(cut, []byte(before), 0o600), os.Truncate(cut, 200<<10))
		if _, err := open(t, cut).SpareSlot(); f.Version == 2 && !errors.Is(err, luks.ErrNoSpareSlot) {
			t.Errorf("a header that is cut off: %v", err)
		}
	}
	// A LUKS2 header with room for a few key slots.
	small := luks.Format{Version: 2, PayloadOffset: 4040 * luks.SectorSize}
	path := formatted(t, small, small.MinimumCost(), 0)
	key := unlock(t, open(t, path), "test passphrase")
	defer key.Wipe()
	var err error
	n := 1
	for ; err == nil; n++ {
		err = added(t.Context(), writable(t, path), key, small.MinimumCost())
	}
	if !errors.Is(err, luks.ErrNoSpareSlot) || n-1 != len(open(t, path).ActiveSlots()) || n-1 != (4040*luks.SectorSize-0x8000)/258048 {
		t.Errorf("no room: %d, %v", n, err)
	}
	// A requirement that is not known, and a re-encryption.
	for _, change := range []func(dict){
		set("config", "requirements", dict{"mandatory": []any{"unheard-of"}}),
		set("keyslots", "2", dict{"type": "reencrypt", "key_size": 1}),
	} {
		content := assemble(changed(change))
		path := must.File(t, content)
		if _, err := luks.FinishWipes(writable(t, path)); !errors.Is(err, luks.ErrUnsupported) {
			t.Errorf("a requirement: %v", err)
		}
		if err := luks.WipeSlot(t.Context(), writable(t, path), key, 0); !errors.Is(err, luks.ErrUnsupported) {
			t.Errorf("a requirement: %v", err)
		}
		if _, err := open(t, path).SpareSlot(); !errors.Is(err, luks.ErrUnsupported) {
			t.Errorf("a requirement: %v", err)
		}
		if !bytes.Equal(must.Get(os.ReadFile(path))(t), content) {
			t.Error("it was changed")
		}
	}
}

func added(ctx context.Context, s luks.Storage, key *luks.VolumeKey, cost luks.KDF) error {
	passphrase := secrets.New([]byte("x"))
	defer passphrase.Wipe()
	k, err := luks.AddSlot(ctx, s, key, passphrase, cost)
	k.Wipe()
	return err
}
