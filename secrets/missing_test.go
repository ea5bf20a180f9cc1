package secrets

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
)

// TestFindNames: the error for a missing secret names what is similar.
func TestFindNames(t *testing.T) {
	t.Parallel()
	const id = "0a81f5b2-8403-4b23-88d6-21ccc2f80d6f"
	documents := []Document{
		{UUID: must.Get(ParseUUID(id))(t), UsageType: UsageVolume, Usage: "/var/lib/vm1.img"},
		{UUID: must.Get(ParseUUID("1" + id[1:]))(t), UsageType: UsageCeph, Usage: "client.admin"},
	}
	for _, c := range []struct {
		ref  Reference
		want string
	}{
		{Reference{Type: Passphrase, Usage: "/var/lib/vm2.img"}, `did you mean the usage "/var/lib/vm1.img"?`},
		{Reference{Type: Passphrase, Usage: "client.admin"}, `the usage "client.admin" is that of a secret of type ceph, and a reference of type passphrase needs one of type volume`},
		{Reference{Type: Passphrase, Usage: "/elsewhere"}, ""},
		{Reference{Type: Passphrase, UUID: must.Get(ParseUUID(id[:35] + "e"))(t)}, "did you mean the uuid " + id},
	} {
		_, err := Find(documents, c.ref)
		if want := strings.TrimSuffix(ErrNotFound.Error()+": "+c.want, ": "); !errors.Is(err, ErrNotFound) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %q", c.ref, err, want)
		}
	}
	if _, err := Find(nil, documents[0].Reference()); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "empty") {
		t.Errorf("no document: %v", err)
	}
}

// TestChainNames: an error for several stores says what each has instead.
func TestChainNames(t *testing.T) {
	t.Parallel()
	ref := Reference{Type: Passphrase, Usage: "/x"}
	missing := func(name, detail string) fixed {
		return fixed{name: name, asked: new([]string), err: fmt.Errorf("so: %w", &NotFoundError{Detail: detail})}
	}
	a, b := missing("test:a", "there is no file a"), missing("test:b", "there is no file b")
	for want, stores := range map[string][]Store{
		`secret with usage "/x": key store test:a: so: no such secret: there is no file a`:                                         {a},
		`secret with usage "/x": key store test:a, test:b: no such secret: test:a: there is no file a; test:b: there is no file b`: {a, b},
		`secret with usage "/x": key store (none configured): no such secret`:                                                      nil,
	} {
		if _, err := Chain(stores...).Lookup(t.Context(), ref); err == nil || err.Error() != want || !errors.Is(err, ErrNotFound) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
