package dir_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
)

// TestFilesByHand lists, sets and removes values that a provisioning tool wrote.
func TestFilesByHand(t *testing.T) {
	t.Parallel()
	path := directory(t)
	store := dir.New(path)
	byUUID, byUsage := storetest.ByUUID(), storetest.ByUsage("/var/x y")
	must.Write(t, filepath.Join(path, dir.FileName(byUUID)), "1")
	must.Write(t, filepath.Join(path, dir.FileName(byUsage)), "2")
	for _, foreign := range []string{"README", "notes-x", "volume-a b", "volume-", "0A81F5B2-8403-7B23-C8D6-21CCC2F80D6F", "x.xml", ".hidden"} {
		must.Write(t, filepath.Join(path, foreign), "")
	}
	want := []secrets.Document{{UUID: byUUID.UUID}, {UsageType: secrets.UsageVolume, Usage: "/var/x y"}}
	got, err := store.List(t.Context())
	if err != nil || len(got) != 2 || !slices.Contains(got, want[0]) || !slices.Contains(got, want[1]) {
		t.Errorf("%+v, %v", got, err)
	}
	taken := secrets.Document{UUID: uuid.New(), UsageType: secrets.UsageVolume, Usage: "/var/x y"}
	if err := store.Define(t.Context(), taken); !errors.Is(err, secrets.ErrConflict) || !strings.Contains(err.Error(), "volume-%2Fvar%2Fx%20y") {
		t.Errorf("a usage that a file is named after: %v", err)
	}
	for _, ref := range []secrets.Reference{byUUID, byUsage} {
		value := secrets.New([]byte("new"))
		must.OK(t, store.Set(t.Context(), ref, value))
		if content, err := os.ReadFile(filepath.Join(path, dir.FileName(ref))); err != nil || string(content) != "new" {
			t.Errorf("%q, %v", content, err)
		}
		must.OK(t, store.Remove(t.Context(), ref))
	}
	if got, err := store.List(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestDefineWhatIsThere defines the document of an existing value.
func TestDefineWhatIsThere(t *testing.T) {
	t.Parallel()
	path := directory(t)
	store := dir.New(path)
	d := secrets.Document{UUID: uuid.New(), UsageType: secrets.UsageTLS, Usage: "vm1"}
	must.Write(t, filepath.Join(path, d.UUID.String()), "value")
	must.OK(t, store.Define(t.Context(), d))
	if _, err := store.Lookup(t.Context(), secrets.Reference{Type: secrets.TLS, Usage: "vm1"}); err != nil {
		t.Error(err)
	}
	if got := store.ValueFile(t.Context(), secrets.Reference{Type: secrets.TLS, Usage: "vm1"}); got != filepath.Join(path, d.UUID.String()) {
		t.Errorf("the value file is %s", got)
	}
	if got := dir.New("/nonexistent").ValueFile(t.Context(), storetest.ByUsage("/x")); got != "/nonexistent/volume-%2Fx" {
		t.Errorf("the value file in a missing directory is %s", got)
	}
	if got, err := store.List(t.Context()); err != nil || !slices.Equal(got, []secrets.Document{d}) {
		t.Errorf("%+v, %v", got, err)
	}
}

// A document in the file of another uuid is refused: it would send a passphrase to
// the wrong disk.
func TestForeignDocument(t *testing.T) {
	t.Parallel()
	path := directory(t)
	ref := storetest.ByUUID()
	must.Write(t, filepath.Join(path, ref.UUID.String()+".xml"), []byte("<secret><uuid>"+uuid.NewString()+"</uuid></secret>"))
	storetest.Fails(t, dir.New(path), ref, secrets.ErrDamaged, "")
	// Its usage is unknown, so every look-up by usage fails.
	storetest.Fails(t, dir.New(path), storetest.ByUsage("/x"), secrets.ErrDamaged, "")
	d := secrets.Document{UUID: uuid.New(), UsageType: secrets.UsageVolume, Usage: "/x"}
	if err := dir.New(path).Define(t.Context(), d); !errors.Is(err, secrets.ErrDamaged) {
		t.Error(err)
	}
}
