package secrets_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
)

// documented is a store with one secret and its document. It counts look-ups of the value.
type documented struct {
	document secrets.Document
	lookups  *int
}

func (documented) String() string { return "test:" }

func (s documented) Describe(_ context.Context, ref secrets.Reference) (secrets.Document, error) {
	if answers, err := s.document.Answers(ref); !answers || err != nil {
		return secrets.Document{}, &secrets.StoreError{Store: s.String(), Ref: ref, Err: errors.Join(secrets.ErrNotFound, err)}
	}
	return s.document, nil
}

func (s documented) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	if _, err := s.Describe(ctx, ref); err != nil {
		return nil, err
	}
	*s.lookups++
	return secrets.New([]byte("value")), nil
}

// TestDestinations is the table of docs/security.md: which secret may go where.
func TestDestinations(t *testing.T) {
	t.Parallel()
	hypervisor := secrets.Destination{Name: "the VM's QEMU", Node: secrets.ThisNode, Reader: secrets.Hypervisor, Medium: secrets.Memory}
	changed := func(change func(*secrets.Destination)) secrets.Destination {
		d := hypervisor
		change(&d)
		return d
	}
	for name, c := range map[string]struct {
		to                           secrets.Destination
		private, ephemeral, together error
	}{
		"this node":        {hypervisor, nil, nil, nil},
		"another node":     {changed(func(d *secrets.Destination) { d.Node = secrets.OtherNode }), secrets.ErrOtherNode, nil, secrets.ErrOtherNode},
		"an unknown node":  {changed(func(d *secrets.Destination) { d.Node = secrets.UnknownNode }), secrets.ErrUnknownNode, nil, secrets.ErrUnknownNode},
		"the caller":       {changed(func(d *secrets.Destination) { d.Reader = secrets.Caller }), secrets.ErrPrivate, nil, secrets.ErrPrivate},
		"a file on a disk": {changed(func(d *secrets.Destination) { d.Medium = secrets.Lasting }), nil, secrets.ErrPersistent, secrets.ErrPersistent},
		"nothing known":    {secrets.Destination{}, secrets.ErrUnknownNode, secrets.ErrPersistent, secrets.ErrUnknownNode},
	} {
		for want, d := range map[*error]secrets.Document{
			new(error):   {},
			&c.private:   {Private: true},
			&c.ephemeral: {Ephemeral: true},
			&c.together:  {Private: true, Ephemeral: true},
		} {
			d.UUID = uuid.New()
			wantDestination(t, name, c.to, d, *want)
		}
	}
	if !errors.Is(secrets.ErrOtherNode, secrets.ErrPrivate) || !errors.Is(secrets.ErrUnknownNode, secrets.ErrDenied) {
		t.Error("a refused node is not a refusal of a private secret")
	}
}

// wantDestination looks the secret up through every kind of store that contains another one. A
// value that may not go to the destination is not read.
func wantDestination(t *testing.T, name string, to secrets.Destination, d secrets.Document, want error) {
	t.Helper()
	lookups := 0
	store := documented{d, &lookups}
	anyVolume := func(secrets.Reference) []string { return nil }
	for kind, s := range map[string]secrets.Store{
		"itself":  store,
		"a chain": secrets.Chain(documented{secrets.Document{UUID: uuid.New()}, new(int)}, store),
		"lazy":    secrets.Lazy("lazy", func() (secrets.Store, error) { return secrets.Chain(store), nil }),
		"bound":   secrets.BindVolumes(secrets.Chain(store), anyVolume),
	} {
		lookups = 0
		value, err := secrets.BindDestination(s, to).Lookup(t.Context(), d.Reference())
		value.Wipe()
		var of *secrets.StoreError
		if !errors.Is(err, want) || want != nil && (!errors.As(err, &of) || of.Store != "test:") {
			t.Errorf("%s, %s, %+v: %v, want %v", name, kind, d, err, want)
		}
		if read := lookups > 0; read == (want != nil) {
			t.Errorf("%s, %s, %+v: %d look-ups", name, kind, d, lookups)
		}
	}
}
