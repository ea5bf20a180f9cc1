package barbican

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
)

// errChanged: another client has changed the project during the call.
var errChanged = errors.New("the secrets of the project have changed meanwhile")

// version is a Barbican secret with its document.
type version struct {
	item
	document   secrets.Document
	generation uint64 // 0 for a secret of another program
}

// foreign reports whether v is a secret of another program.
func (v version) foreign() bool { return v.generation == 0 }

// newer reports whether v takes precedence over o, another version of the same secret. Two simultaneous changes
// make the same generation; all clients then agree on the same version.
func (v version) newer(o version) bool {
	if v.generation != o.generation {
		return v.generation > o.generation
	}
	if !v.created.Equal(o.created) {
		return v.created.After(o.created)
	}
	return v.id.String() > o.id.String()
}

func documentsOf(versions []version) []secrets.Document {
	var out []secrets.Document
	for _, v := range versions {
		out = append(out, v.document)
	}
	return out
}

// find returns the secret that ref names.
func find(ctx context.Context, c *client, ref secrets.Reference) (version, error) {
	if ref.UUID == uuid.Nil {
		return findUsage(ctx, c, ref)
	}
	v, err := findUUID(ctx, c, ref.UUID)
	if err != nil {
		return v, err
	}
	_, err = v.document.Answers(ref)
	return v, err
}

// findUUID returns the secret that was defined with id, else the secret to which
// Barbican has assigned id.
func findUUID(ctx context.Context, c *client, id uuid.UUID) (version, error) {
	items, err := c.list(ctx, namePrefix+id.String())
	if err != nil {
		return version{}, err
	}
	found, damaged, err := resolve(ctx, c, slices.DeleteFunc(items, func(i item) bool { return i.owner() != id }))
	switch {
	case err != nil:
		return version{}, err
	case damaged != nil:
		return version{}, damaged
	case len(found) > 0:
		return found[0], nil
	}
	i, err := c.get(ctx, id)
	if err != nil {
		return version{}, err
	}
	if i.owner() != uuid.Nil {
		return version{}, secrets.ErrNotFound // defined by luksplug with another uuid
	}
	return foreignVersion(i), nil
}

func findUsage(ctx context.Context, c *client, ref secrets.Reference) (version, error) {
	if !utf8.ValidString(ref.Usage) {
		return version{}, secrets.ErrNotFound // JSON strings are valid UTF-8
	}
	usageType := ref.Type.UsageType()
	items, err := withUsage(ctx, c, usageType, ref.Usage)
	if err != nil {
		return version{}, err
	}
	all, damaged, err := resolve(ctx, c, items)
	if err != nil {
		return version{}, err
	}
	all = slices.DeleteFunc(all, func(v version) bool { return v.document.UsageType != usageType || v.document.Usage != ref.Usage })
	switch {
	case len(all) > 1:
		return version{}, fmt.Errorf("%w: %d secrets have this usage: remove all but one", secrets.ErrDamaged, len(all))
	case len(all) == 1:
		return all[0], nil
	case damaged != nil:
		return version{}, damaged // it could be the damaged one
	}
	return version{}, secrets.ErrNotFound
}

// withUsage returns the secrets that may have the usage: all that luksplug has
// defined, and those whose name matches.
func withUsage(ctx context.Context, c *client, usageType secrets.UsageType, usage string) ([]item, error) {
	items, err := c.list(ctx, namePrefix+strings.Repeat("_", len(uuid.Nil.String())))
	if name := string(usageType) + ":" + usage; err == nil && utf8.RuneCountInString(name) <= maxText {
		var named []item
		named, err = c.list(ctx, like(name))
		items = append(items, slices.DeleteFunc(named, func(i item) bool { return i.name != name })...)
	}
	return items, err
}

// like returns a pattern that matches the name. Barbican uses the name filter as a
// pattern of SQL's LIKE, and URL-decodes it twice; escaping depends on its database.
// The pattern may match other names too, which the caller must filter out.
func like(name string) string { return strings.NewReplacer("%", "_", "+", "_", `\`, "_").Replace(name) }

// resolve returns the newest version of each secret that luksplug has defined, and
// all secrets of other programs. damaged is the error for items with invalid
// metadata.
func resolve(ctx context.Context, c *client, items []item) (found []version, damaged, err error) {
	newest := map[uuid.UUID]version{}
	gone := map[uuid.UUID]bool{}
	for _, i := range items {
		owner := i.owner()
		if owner == uuid.Nil {
			found = append(found, foreignVersion(i))
			continue
		}
		v, committed, err := c.version(ctx, i)
		switch {
		case errors.Is(err, secrets.ErrNotFound):
			gone[owner] = true
		case errors.Is(err, secrets.ErrDamaged):
			damaged = errors.Join(damaged, err)
		case err != nil:
			return nil, nil, err
		case committed:
			if old, ok := newest[owner]; !ok || v.newer(old) {
				newest[owner] = v
			}
		}
	}
	for owner := range gone {
		if _, ok := newest[owner]; !ok {
			return nil, nil, errChanged
		}
	}
	for _, v := range newest {
		found = append(found, v)
	}
	return found, damaged, nil
}

// version returns the version that i holds. committed is false if i is incomplete,
// because its creation is in progress or was interrupted.
func (c *client) version(ctx context.Context, i item) (v version, committed bool, err error) {
	meta, err := c.metadata(ctx, i.id)
	if err != nil {
		return version{}, false, err
	}
	if len(meta) == 0 {
		return version{item: i}, false, nil
	}
	document, generation, err := documentOf(meta, i.owner())
	if err != nil {
		return version{}, false, fmt.Errorf("%w: the metadata of the secret with uuid %s, Barbican's %s: %w", secrets.ErrDamaged, i.owner(), i.id, err)
	}
	if i.contentType == "" {
		// Its payload may have been set after it was listed, before the metadata
		// that completes it.
		if i, err = c.get(ctx, i.id); err != nil {
			return version{}, false, err
		}
	}
	return version{i, document, generation}, true, nil
}
