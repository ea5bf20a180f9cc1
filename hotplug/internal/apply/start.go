package apply

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/grant"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
)

// StartFiles is what a VM that is about to start needs on the host for one disk.
type StartFiles struct {
	Target  string
	Graph   *blockgraph.Graph
	Values  *unlock.Values
	Permits grant.Permits
}

// Start does the changes of the host for a disk that a VM is started with. After a
// failure they are undone; what cannot be is in an [*outcome.LeftBehindError].
func Start(ctx context.Context, h *host.Host, f StartFiles) error {
	changes := []Change{permits(h, f.Target, func(ctx context.Context) error { return f.Permits.Take(ctx, h, nil) })}
	if len(f.Graph.Objects) > 0 || len(f.Graph.Headers) > 0 {
		changes = append(changes, Change{Name: "what QEMU was to start disk " + f.Target + " with",
			Do: func(ctx context.Context) error { return f.write(ctx, h) },
			Undo: func(ctx context.Context) error {
				return onDisk(ctx, h, f.Target, func(d rundir.Disk) error { return os.RemoveAll(d.HandOver()) })
			}})
	}
	for i, c := range changes {
		err := c.Do(ctx)
		if err == nil {
			continue
		}
		after, cancel := h.Recovering(ctx)
		defer cancel()
		var names []string
		for _, left := range undo(after, changes[:i+1]) {
			names, err = append(names, left.Name), errors.Join(err, left.Err)
		}
		if len(names) > 0 {
			return &outcome.LeftBehindError{Target: f.Target, Left: names, Err: err}
		}
		return err
	}
	return nil
}

// write writes the files, in a directory in memory.
func (f StartFiles) write(ctx context.Context, h *host.Host) error {
	user, err := h.User(ctx)
	if err != nil {
		return err
	}
	dir, err := h.Dir(ctx)
	if err != nil {
		return err
	}
	path, err := dir.Disk(f.Target).MakeHandOver(user)
	if err != nil {
		return err
	}
	if err := rundir.InMemory(path); err != nil {
		return err
	}
	if _, err := f.Values.HandOver(f.Graph, user); err != nil {
		return err
	}
	for _, o := range f.Graph.Objects {
		if _, ok := o.Secret(); !ok {
			continue
		}
		if err := f.Values.WriteSecret(filepath.Join(path, o.ID), user, o.ID); err != nil {
			return err
		}
	}
	return nil
}
