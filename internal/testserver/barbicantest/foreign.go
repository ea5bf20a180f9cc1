package barbicantest

import (
	"encoding/base64"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/luksplug/luksplug/secrets"
)

// TestForeign tests that secrets of other programs are found by Barbican's uuid and
// by name, and are not modified.
func TestForeign(t *testing.T, g *Gateway) {
	store := g.Store(t, time.Minute)
	value := "\x00\xff key of 18 bytes"
	key := g.Make(t, "a volume of Cinder's", "application/octet-stream", base64.StdEncoding.EncodeToString([]byte(value)))
	text := g.Make(t, "volume:/var/100%_+\\ä", "text/plain", "passphrase")
	decoy := g.Make(t, "volume:/var/100xxxxä", "text/plain", "another") // LIKE matches this name too
	ceph := g.Make(t, "ceph:client.vm1", "text/plain", "c2VjcmV0")
	empty := g.Make(t, "volume:/empty", "", "")
	byUUID := func(d secrets.Document) secrets.Reference {
		return secrets.Reference{Type: secrets.Passphrase, UUID: d.UUID}
	}
	documents := []secrets.Document{
		{UUID: key, Description: "a volume of Cinder's"},
		{UUID: text, UsageType: secrets.UsageVolume, Usage: "/var/100%_+\\ä"},
		{UUID: decoy, UsageType: secrets.UsageVolume, Usage: "/var/100xxxxä"},
		{UUID: ceph, UsageType: secrets.UsageCeph, Usage: "client.vm1"},
		{UUID: empty, UsageType: secrets.UsageVolume, Usage: "/empty"},
	}
	listed, err := store.List(t.Context())
	if err != nil || len(listed) != len(documents) {
		t.Fatalf("listed %+v, %v", listed, err)
	}
	for _, d := range documents {
		if !slices.Contains(listed, d) {
			t.Errorf("not listed: %+v, but %+v", d, listed)
		}
	}
	for ref, want := range map[secrets.Reference]any{
		byUUID(documents[0]): value,
		byUUID(documents[1]): "passphrase",
		{Type: secrets.Passphrase, Usage: documents[1].Usage}:     "passphrase",
		{Type: secrets.Ceph, Usage: "client.vm1"}:                 "c2VjcmV0",
		byUUID(documents[3]):                                      secrets.ErrWrongType,
		byUUID(documents[4]):                                      secrets.ErrNoValue,
		{Type: secrets.Passphrase, Usage: "a volume of Cinder's"}: secrets.ErrNotFound,
	} {
		found, err := store.Lookup(t.Context(), ref)
		if fault, ok := want.(error); ok {
			if !errors.Is(err, fault) {
				t.Errorf("%s: %v, want %v", ref, err, fault)
			}
			continue
		}
		if err != nil || !found.Equal(secrets.New([]byte(want.(string)))) {
			t.Errorf("%s: another value, error %v", ref, err)
		}
	}
	fresh := secrets.New([]byte("fresh"))
	defer fresh.Wipe()
	for what, err := range map[string]error{
		"set":    store.Set(t.Context(), byUUID(documents[0]), fresh),
		"remove": store.Remove(t.Context(), byUUID(documents[0])),
	} {
		if !errors.Is(err, secrets.ErrDenied) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, d := range []secrets.Document{{UUID: key}, documents[1]} {
		if err := store.Define(t.Context(), d); !errors.Is(err, secrets.ErrConflict) {
			t.Errorf("define %+v: %v", d, err)
		}
	}
	if err := store.Set(t.Context(), byUUID(documents[4]), fresh); err != nil {
		t.Errorf("a first payload: %v", err)
	}
	if n := g.Count(t); n != len(documents) {
		t.Errorf("%d secrets are left", n)
	}
}
