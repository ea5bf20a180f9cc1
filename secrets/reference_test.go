package secrets

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"
)

const someUUID = "0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f"

func TestParseUUID(t *testing.T) {
	t.Parallel()
	want := uuid.MustParse(someUUID)
	for _, s := range []string{someUUID, strings.ToUpper(someUUID), strings.ReplaceAll(someUUID, "-", ""), "0A81f5b2-8403-7b23-c8d6-21ccc2f80d6F"} {
		if u, err := ParseUUID(s); err != nil || u != want {
			t.Errorf("%q: %v, %v", s, u, err)
		}
	}
	for _, s := range []string{
		"", "x", "{" + someUUID + "}", "urn:uuid:" + someUUID, someUUID + " ", " " + someUUID, someUUID[1:], someUUID + "0",
		strings.Replace(someUUID, "a", "g", 1), strings.Replace(someUUID, "-", "0", 1), strings.Replace(someUUID, "-", "", 1),
		"0a81f5b28-403-7b23-c8d6-21ccc2f80d6f", strings.Repeat("-", 36), strings.Repeat("0", 32), uuid.Nil.String(),
	} {
		if u, err := ParseUUID(s); !errors.Is(err, ErrInvalidReference) || u != uuid.Nil {
			t.Errorf("%q: %v, %v", s, u, err)
		}
	}
}

func FuzzParseUUID(f *testing.F) {
	f.Add(someUUID)
	f.Add(strings.ReplaceAll(someUUID, "-", ""))
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseUUID(s)
		if err != nil {
			return
		}
		lower := strings.ToLower(s)
		if lower != u.String() && lower != strings.ReplaceAll(u.String(), "-", "") {
			t.Errorf("%q was read as %s", s, u)
		}
	})
}

func TestReference(t *testing.T) {
	t.Parallel()
	u := uuid.MustParse(someUUID)
	for _, test := range []struct {
		ref   Reference
		valid bool
		text  string
	}{
		{Reference{Type: Passphrase, UUID: u}, true, "uuid " + someUUID},
		{Reference{Type: Passphrase, Usage: "/x"}, true, `usage "/x"`},
		{Reference{Type: Ceph, Usage: "a\nb"}, true, `usage "a\nb"`},
		{Reference{Type: ISCSI, UUID: u}, true, "uuid " + someUUID},
		{Reference{Type: TLS, UUID: u}, true, "uuid " + someUUID},
		{Reference{Type: Passphrase}, false, "uuid " + uuid.Nil.String()},
		{Reference{Type: Passphrase, UUID: u, Usage: "/x"}, false, `usage "/x"`},
		{Reference{UUID: u}, false, "uuid " + someUUID},
		{Reference{Type: "volume", UUID: u}, false, "uuid " + someUUID},
		{Reference{Type: Passphrase, Usage: "a\x00"}, false, `usage "a\x00"`},
	} {
		err := test.ref.Validate()
		if (err == nil) != test.valid || err != nil && !errors.Is(err, ErrInvalidReference) {
			t.Errorf("%#v: %v", test.ref, err)
		}
		if test.ref.String() != test.text {
			t.Errorf("%#v: %s", test.ref, test.ref)
		}
	}
	if Passphrase.UsageType() != "volume" || Ceph.UsageType() != "ceph" {
		t.Error("usage types")
	}
}
