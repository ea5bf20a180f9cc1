package luks_test

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/luks"
)

// incompleteFormats are those of the headers that are marked.
var incompleteFormats = map[string]luks.Format{
	"LUKS1":          {PayloadOffset: 2 << 20},
	"LUKS1 detached": {},
	"LUKS2":          {Version: 2, PayloadOffset: 16 << 20},
	"LUKS2 detached": {Version: 2},
}

// wantRefused ends the test unless no program takes the file at path for a LUKS volume.
func wantRefused(t *testing.T, path string) {
	t.Helper()
	_, err := luks.ReadHeader(must.Get(os.Open(path))(t))
	if !errors.Is(err, luks.ErrIncomplete) {
		t.Errorf("ReadHeader: %v", err)
	}
	for _, args := range [][]string{{"isLuks", path}, {"luksDump", path}, {"luksOpen", "--test-passphrase", "--key-file", "-", path}, {"repair", "--batch-mode", path}} {
		if out, err := cryptsetup(passphrase, args...); err == nil {
			t.Errorf("cryptsetup %v: %s", args, out)
		}
	}
	header := must.Get(os.ReadFile(path))(t)
	if verdict, out := askQEMU(t, header); verdict != refuses || !strings.Contains(out, "not in LUKS format") {
		t.Errorf("QEMU %s it: %s", verdict, out)
	}
	if out := run(t, "wipefs", "--no-act", path); strings.Contains(out, "LUKS") {
		t.Errorf("libblkid finds %s", out)
	}
}

// TestIncomplete: nothing but luksplug reads a marked header, also if it tries to repair it, and without the mark it is
// exactly the header that was marked.
func TestIncomplete(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup", "qemu-io", "wipefs")
	for name, f := range incompleteFormats {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := formatted(t, f, f.MinimumCost(), 64<<10)
			want := must.Get(os.ReadFile(path))(t)
			marked := must.Get(luks.Incomplete(want))(t)
			if bytes.Equal(marked, want) || !luks.IsIncomplete(marked) || luks.IsIncomplete(want) || luks.HasMagic(marked) {
				t.Error("the header is not marked")
			}
			if again := must.Get(luks.Incomplete(marked))(t); !bytes.Equal(again, marked) {
				t.Error("a second mark is another one")
			}
			must.Write(t, path, marked)
			wantRefused(t, path)
			if !bytes.Equal(must.Get(os.ReadFile(path))(t), marked) {
				t.Fatal("a program has changed the marked header")
			}

			s := writable(t, path)
			h := must.Get(luks.ReadIncomplete(s))(t)
			if !h.Incomplete || h.PayloadOffset() != f.PayloadOffset || h.LUKS2 != nil && h.LUKS2.OtherCopy != nil {
				t.Errorf("%+v", h)
			}
			viaEphemeral(t, unlock(t, h, passphrase))
			if _, err := luks.AddSlot(t.Context(), s, unlock(t, h, passphrase), secret(t, "another"), cheap(t, h)); !errors.Is(err, luks.ErrIncomplete) {
				t.Errorf("AddSlot: %v", err)
			}
			if _, err := luks.FinishWipes(s); !errors.Is(err, luks.ErrIncomplete) {
				t.Errorf("FinishWipes: %v", err)
			}
			if _, err := luks.ReadBackup(s); !errors.Is(err, luks.ErrIncomplete) {
				t.Errorf("ReadBackup: %v", err)
			}
			backup := must.Get(luks.ReadBackup(bytes.NewReader(want)))(t)
			if _, err := backup.Compare(s); !errors.Is(err, luks.ErrIncomplete) {
				t.Errorf("Compare: %v", err)
			}

			for range 2 {
				must.OK(t, luks.Complete(s))
				if !bytes.Equal(must.Get(os.ReadFile(path))(t), want) {
					t.Fatal("it is not the header that was marked")
				}
			}
			if h := must.Get(luks.ReadIncomplete(s))(t); h.Incomplete {
				t.Error("it still has the mark")
			}
			sameKey(t, path)
			if out, err := cryptsetup(passphrase, "luksDump", path); err != nil || !strings.Contains(out, open(t, path).UUID) {
				t.Errorf("luksDump: %v: %s", err, out)
			}
			if out, err := cryptsetup(passphrase, "repair", "--batch-mode", path); err != nil || !bytes.Equal(must.Get(os.ReadFile(path))(t), want) {
				t.Errorf("cryptsetup repairs it: %v: %s", err, out)
			}
			if f.Version != 2 && f.PayloadOffset > 0 && len(original(t, path).read(t)) != 64<<10 {
				t.Error("QEMU does not open it")
			}

			for range 2 {
				must.OK(t, luks.MarkIncomplete(s))
				if !bytes.Equal(must.Get(os.ReadFile(path))(t), marked) {
					t.Fatal("it is not marked as it was")
				}
			}
			wantRefused(t, path)
		})
	}
}

// TestIncompleteCopies: the first copy of a LUKS2 header decides whether the volume is incomplete. cryptsetup repairs one copy
// by the other: after a crash of either call that can only make the volume complete, as it is then.
func TestIncompleteCopies(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup")
	f := luks.Format{Version: 2, PayloadOffset: 16 << 20}
	want := must.Get(os.ReadFile(formatted(t, f, f.MinimumCost(), 64<<10)))(t)
	marked := must.Get(luks.Incomplete(want))(t)
	const second = 16 << 10
	between := slices.Concat(marked[:second], want[second:])
	if _, err := luks.ReadHeader(bytes.NewReader(between)); !errors.Is(err, luks.ErrIncomplete) {
		t.Errorf("the first copy is marked: %v", err)
	}
	if h := must.Get(luks.ReadIncomplete(bytes.NewReader(between)))(t); !h.Incomplete || h.LUKS2.OtherCopy != nil {
		t.Errorf("%+v", h)
	}
	other := slices.Concat(want[:second], marked[second:])
	if h := must.Get(luks.ReadHeader(bytes.NewReader(other)))(t); h.Incomplete || h.LUKS2.OtherCopy == nil {
		t.Errorf("the second copy is marked: %+v", h)
	}
	if h := must.Get(luks.ReadIncomplete(bytes.NewReader(other)))(t); h.Incomplete || h.LUKS2.OtherCopy != nil {
		t.Errorf("%+v", h)
	}
	for _, crashed := range [][]byte{between, other} {
		path := must.File(t, crashed)
		if out, err := cryptsetup(passphrase, "luksOpen", "--test-passphrase", "--key-file", "-", path); err != nil {
			t.Errorf("cryptsetup does not open it: %s", out)
		}
		if h := open(t, path); h.Incomplete || h.LUKS2.OtherCopy != nil {
			t.Errorf("after cryptsetup has repaired it: %+v", h)
		}
		sameKey(t, path)
	}
	for _, content := range [][]byte{between, other, want, marked} {
		path := must.File(t, content)
		must.OK(t, luks.Complete(writable(t, path)))
		if !bytes.Equal(must.Get(os.ReadFile(path))(t), want) {
			t.Error("not completed")
		}
		must.OK(t, luks.MarkIncomplete(writable(t, path)))
		if !bytes.Equal(must.Get(os.ReadFile(path))(t), marked) {
			t.Error("not marked")
		}
	}
}

// TestIncompleteErrors: what is no header is neither marked nor completed.
func TestIncompleteErrors(t *testing.T) {
	t.Parallel()
	damaged := synthetic()
	copy(damaged, "PLUK\xba\xbe")
	damaged[8] = 0xff
	for name, test := range map[string]struct {
		content []byte
		want    error
	}{
		"zeros":           {make([]byte, 1<<20), luks.ErrNotLUKS},
		"nothing":         {nil, luks.ErrNotLUKS},
		"cut off":         {[]byte("PLUK\xba\xbe"), luks.ErrDamaged},
		"damaged":         {damaged, luks.ErrDamaged},
		"a re-encryption": {append([]byte("LUKS\xde\xad"), make([]byte, 1024)...), luks.ErrReencryption},
	} {
		path := must.File(t, test.content)
		s := writable(t, path)
		_, err := luks.ReadIncomplete(s)
		_, markErr := luks.Incomplete(test.content)
		for what, err := range map[string]error{"ReadIncomplete": err, "Incomplete": markErr, "MarkIncomplete": luks.MarkIncomplete(s), "Complete": luks.Complete(s)} {
			if !errors.Is(err, test.want) {
				t.Errorf("%s: %s: %v, want %v", name, what, err, test.want)
			}
		}
		if !bytes.Equal(must.Get(os.ReadFile(path))(t), test.content) {
			t.Errorf("%s: changed", name)
		}
	}
}
