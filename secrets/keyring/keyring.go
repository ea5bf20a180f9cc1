package keyring

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/godbus/dbus/v5"
	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// Options configure the connection to the service. Address is required.
type Options struct {
	// Address is the address of the service's D-Bus, in the format of
	// $DBUS_SESSION_BUS_ADDRESS.
	Address string
	// Collection is the alias of the collection for new secrets; "" means
	// "default". "session" is in memory.
	Collection string
	// Timeout bounds each call, including the time until the user answers a
	// prompt; 0 means one minute.
	Timeout time.Duration
}

// Store is a [secrets.Keeper] on a Secret Service. Make one with [New].
type Store struct{ options Options }

// inMemory is the collection that is lost at a reboot.
const inMemory = "session"

// New returns the store of a Secret Service. Each call opens a new
// connection.
func New(o Options) *Store {
	if o.Collection == "" {
		o.Collection = "default"
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	return &Store{o}
}

// String returns "keyring:".
func (s *Store) String() string { return "keyring:" }

// item is an item of the service with its document.
type item struct {
	path     dbus.ObjectPath
	document secrets.Document
}

// with runs f with a connection.
func (s *Store) with(ctx context.Context, ref secrets.Reference, f func(ctx context.Context, svc *service) error) error {
	return storecall.Fail(s, ref, storecall.Bounded(ctx, s.options.Timeout, "the Secret Service", func(ctx context.Context) error {
		if s.options.Address == "" {
			return fmt.Errorf("%w: there is no session bus: DBUS_SESSION_BUS_ADDRESS is not set; run this in the user's session", secrets.ErrUnreachable)
		}
		conn, err := dial(ctx, s.options.Address)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }() // all replies have been received
		return f(ctx, &service{conn: conn})
	}))
}

// Lookup implements [secrets.Store].
func (s *Store) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	var value *secrets.Secret
	err := s.with(ctx, ref, func(ctx context.Context, svc *service) error {
		if err := ref.Validate(); err != nil {
			return err
		}
		i, err := find(ctx, svc, ref)
		if err != nil {
			return err
		}
		if err := svc.openSession(ctx); err != nil {
			return err
		}
		var w wire
		if err := svc.call(ctx, i.path, itemName+".GetSecret", []any{svc.session.path}, &w); err != nil {
			return err
		}
		found, err := svc.session.open(w)
		if err == nil && found.Len() == 0 {
			err = secrets.ErrNoValue
		}
		if err == nil {
			value = found
		}
		return err
	})
	return value, err
}

// Describe implements [secrets.Describer].
func (s *Store) Describe(ctx context.Context, ref secrets.Reference) (d secrets.Document, err error) {
	err = s.change(ctx, ref, func(_ context.Context, _ *service, i item) error {
		d = i.document
		return nil
	})
	return d, err
}

// List implements [secrets.Lister]. It unlocks locked items, if need be by a prompt:
// some services hide the attributes of locked items.
func (s *Store) List(ctx context.Context) ([]secrets.Document, error) {
	var documents []secrets.Document
	err := s.with(ctx, secrets.Reference{}, func(ctx context.Context, svc *service) error {
		items, damaged, err := list(ctx, svc, map[string]string{attrApplication: application})
		for _, i := range items {
			documents = append(documents, i.document)
		}
		return errors.Join(err, damaged)
	})
	return documents, err
}

// Define implements [secrets.Keeper]. The service has no locks: two callers that define the
// same usage at the same moment may both succeed.
func (s *Store) Define(ctx context.Context, d secrets.Document) error {
	return s.with(ctx, d.Reference(), func(ctx context.Context, svc *service) error {
		if err := storecall.Definable(d); err != nil {
			return err
		}
		if d.Ephemeral && s.options.Collection != inMemory {
			return fmt.Errorf("%w: keep it in the collection %s", secrets.ErrPersistent, inMemory)
		}
		items, _, err := list(ctx, svc, map[string]string{attrApplication: application})
		if err != nil {
			return err
		}
		var documents []secrets.Document
		for _, i := range items {
			documents = append(documents, i.document)
		}
		if err := secrets.CheckDefine(documents, d); err != nil {
			return err
		}
		for _, i := range items {
			if i.document.UUID == d.UUID {
				if err := svc.call(ctx, i.path, propertiesSet, []any{itemName, "Label", dbus.MakeVariant(label(d))}); err != nil {
					return err
				}
				return svc.call(ctx, i.path, propertiesSet, []any{itemName, "Attributes", dbus.MakeVariant(attributesOf(d))})
			}
		}
		return s.create(ctx, svc, d)
	})
}

// create creates an item without value.
func (s *Store) create(ctx context.Context, svc *service, d secrets.Document) error {
	collection, err := svc.collection(ctx, s.options.Collection)
	if err != nil {
		return err
	}
	if err := svc.openSession(ctx); err != nil {
		return err
	}
	empty := secrets.New(nil)
	defer empty.Wipe()
	w, err := svc.session.seal(empty)
	if err != nil {
		return err
	}
	properties := map[string]dbus.Variant{
		itemName + ".Label":      dbus.MakeVariant(label(d)),
		itemName + ".Attributes": dbus.MakeVariant(attributesOf(d)),
	}
	var created, prompt dbus.ObjectPath
	// replace=true, so that a retry after a time-out creates no second item.
	if err := svc.call(ctx, collection, collectionName+".CreateItem", []any{properties, w, true}, &created, &prompt); err != nil {
		return err
	}
	return svc.prompt(ctx, prompt)
}

// Set implements [secrets.Keeper]. An empty value cannot be kept.
func (s *Store) Set(ctx context.Context, ref secrets.Reference, value *secrets.Secret) error {
	return s.change(ctx, ref, func(ctx context.Context, svc *service, i item) error {
		if value.Len() == 0 {
			return errors.New("the keyring keeps no empty values")
		}
		if err := svc.openSession(ctx); err != nil {
			return err
		}
		w, err := svc.session.seal(value)
		if err != nil {
			return err
		}
		return svc.call(ctx, i.path, itemName+".SetSecret", []any{w})
	})
}

// Remove implements [secrets.Keeper].
func (s *Store) Remove(ctx context.Context, ref secrets.Reference) error {
	return s.change(ctx, ref, func(ctx context.Context, svc *service, i item) error {
		var prompt dbus.ObjectPath
		if err := svc.call(ctx, i.path, itemName+".Delete", nil, &prompt); err != nil {
			return err
		}
		return svc.prompt(ctx, prompt)
	})
}

// change calls f with the secret that ref names.
func (s *Store) change(ctx context.Context, ref secrets.Reference, f func(context.Context, *service, item) error) error {
	return s.with(ctx, ref, func(ctx context.Context, svc *service) error {
		if err := ref.Validate(); err != nil {
			return err
		}
		i, err := find(ctx, svc, ref)
		if err != nil {
			return err
		}
		return f(ctx, svc, i)
	})
}

// find returns the item of the secret that ref names.
func find(ctx context.Context, svc *service, ref secrets.Reference) (item, error) {
	want := map[string]string{attrApplication: application}
	if ref.UUID != uuid.Nil {
		want[attrUUID] = ref.UUID.String()
	} else {
		if !utf8.ValidString(ref.Usage) {
			return item{}, secrets.ErrNotFound // D-Bus strings cannot contain it
		}
		want[attrUsageType], want[attrUsage] = string(ref.Type.UsageType()), ref.Usage
	}
	items, damaged, err := list(ctx, svc, want)
	switch {
	case err != nil:
		return item{}, err
	case damaged != nil:
		return item{}, damaged
	case len(items) == 0:
		return item{}, secrets.ErrNotFound
	case len(items) > 1:
		return item{}, fmt.Errorf("%w: %d items have these attributes: remove all but one", secrets.ErrDamaged, len(items))
	}
	_, err = items[0].document.Answers(ref)
	return items[0], err
}

// list returns the items with the attributes. damaged is the error for items with
// invalid attributes.
func list(ctx context.Context, svc *service, attributes map[string]string) (items []item, damaged, err error) {
	paths, err := svc.search(ctx, attributes)
	if err != nil {
		return nil, nil, err
	}
	for _, path := range paths {
		var has map[string]string
		err := svc.property(ctx, path, itemName, "Attributes", &has)
		if errors.Is(err, secrets.ErrNotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, nil, err
		}
		d, err := documentOf(has)
		if err != nil {
			damaged = errors.Join(damaged, fmt.Errorf("%w: item %s (uuid %q): %w", secrets.ErrDamaged, path, has[attrUUID], err))
			continue
		}
		items = append(items, item{path, d})
	}
	return items, damaged, nil
}
