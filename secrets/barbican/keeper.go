package barbican

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// Define implements [secrets.Keeper].
func (s *Store) Define(ctx context.Context, d secrets.Document) error {
	return s.with(ctx, d.Reference(), func(ctx context.Context, c *client) error {
		if err := storecall.Definable(d); err != nil {
			return err
		}
		if d.Ephemeral {
			return fmt.Errorf("%w: keep it in a dir: store on a tmpfs", secrets.ErrPersistent)
		}
		if err := fits(d); err != nil {
			return err
		}
		return define(ctx, c, d)
	})
}

func define(ctx context.Context, c *client, d secrets.Document) error {
	items, err := withUsage(ctx, c, d.UsageType, d.Usage)
	if err != nil {
		return err
	}
	// A damaged item belongs to another secret, or this call replaces it.
	others, _, err := resolve(ctx, c, items)
	if err != nil {
		return err
	}
	if err := secrets.CheckDefine(documentsOf(others), d); err != nil {
		return err
	}
	if i := slices.IndexFunc(others, func(v version) bool { return v.document.UUID == d.UUID && !v.foreign() }); i >= 0 {
		err := c.setMetadata(ctx, others[i].id, metadataOf(d, others[i].generation))
		if errors.Is(err, secrets.ErrNotFound) {
			return errChanged
		}
		return err
	}
	taken, err := c.get(ctx, d.UUID)
	switch {
	case err == nil:
		return fmt.Errorf("%w: Barbican has a secret of that uuid, %q", secrets.ErrConflict, taken.name)
	case !errors.Is(err, secrets.ErrNotFound):
		return err
	}
	_, err = c.commit(ctx, d, 1, nil)
	return err
}

// commit creates a version of a secret, with its value if value is not nil.
func (c *client) commit(ctx context.Context, d secrets.Document, generation uint64, value *secrets.Secret) (uuid.UUID, error) {
	id, err := c.create(ctx, namePrefix+d.UUID.String())
	if err == nil && value != nil {
		err = c.setPayload(ctx, id, value)
	}
	if err == nil {
		err = c.setMetadata(ctx, id, metadataOf(d, generation)) // this makes the version valid
	}
	return id, err
}

// Set implements [secrets.Keeper]. Barbican refuses an empty value, and one larger
// than its configured limit, by default 20000 bytes.
func (s *Store) Set(ctx context.Context, ref secrets.Reference, value *secrets.Secret) error {
	return s.with(ctx, ref, func(ctx context.Context, c *client) error {
		if err := ref.Validate(); err != nil {
			return err
		}
		v, err := find(ctx, c, ref)
		switch {
		case err != nil:
			return err
		case value.Len() == 0:
			return errors.New("an empty value cannot be kept in Barbican")
		case v.contentType == "":
			err := c.setPayload(ctx, v.id, value)
			if errors.Is(err, secrets.ErrNotFound) || errors.Is(err, errConflict) {
				return errChanged // another client has set the payload
			}
			return err
		case v.foreign():
			return notOurs(v, "changed")
		}
		if _, err := c.commit(ctx, v.document, v.generation+1, value); err != nil {
			return err
		}
		if err := cleanUp(ctx, c, v.document.UUID); err != nil {
			return fmt.Errorf("the value is set, but an older one could not be removed: set it again: %w", err)
		}
		return nil
	})
}

func notOurs(v version, what string) error {
	return fmt.Errorf("%w: another program has created it (its name in Barbican is %q), and luksplug has not %s it: "+
		"use that program, or openstack secret", secrets.ErrDenied, v.name, what)
}

// cleanUp removes the superseded versions of a secret, and incomplete ones that were
// abandoned.
func cleanUp(ctx context.Context, c *client, id uuid.UUID) error {
	items, err := c.list(ctx, namePrefix+id.String())
	if err != nil {
		return err
	}
	var versions, begun []version
	for _, i := range items {
		v, committed, err := c.version(ctx, i)
		switch {
		case i.owner() != id || errors.Is(err, secrets.ErrNotFound):
		case err != nil:
			return err
		case committed:
			versions = append(versions, v)
		default:
			begun = append(begun, v)
		}
	}
	if len(versions) == 0 {
		return nil
	}
	slices.SortFunc(versions, func(a, b version) int {
		if a.newer(b) {
			return 1
		}
		return -1
	})
	last := versions[len(versions)-1]
	old := versions[:len(versions)-1]
	for _, v := range begun {
		// Both times are the server's. No client takes an hour.
		const abandoned = time.Hour
		if last.created.Sub(v.created) > abandoned {
			old = append(old, v)
		}
	}
	return removeAll(ctx, c, old)
}

func removeAll(ctx context.Context, c *client, versions []version) error {
	for _, v := range versions {
		if err := c.remove(ctx, v.id); err != nil && !errors.Is(err, secrets.ErrNotFound) {
			return err
		}
	}
	return nil
}

// Remove implements [secrets.Keeper].
func (s *Store) Remove(ctx context.Context, ref secrets.Reference) error {
	return s.with(ctx, ref, func(ctx context.Context, c *client) error {
		if err := ref.Validate(); err != nil {
			return err
		}
		v, err := find(ctx, c, ref)
		switch {
		case err != nil:
			return err
		case v.foreign():
			return notOurs(v, "removed")
		}
		// The newest version is removed last, or an older one would become valid again.
		items, err := c.list(ctx, namePrefix+v.document.UUID.String())
		if err != nil {
			return err
		}
		var old []version
		for _, i := range items {
			if i.owner() == v.document.UUID && i.id != v.id {
				old = append(old, version{item: i})
			}
		}
		return removeAll(ctx, c, append(old, v))
	})
}
