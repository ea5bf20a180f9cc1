package apply

import (
	"context"
	"path/filepath"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/grant"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
)

// StartFiles are the files on the host with which a VM starts for one disk.
type StartFiles struct {
	Target string
	Graph  *blockgraph.Graph
	Values *unlock.Values
	Grants grant.Grants
}

// Start makes the changes of the host for a disk that a VM is started with. After a
// failure they are undone; the rest is named by an [*outcome.LeftBehindError].
func Start(ctx context.Context, h *host.Host, f StartFiles) error {
	changes := []Change{grants(h, f.Target, func(ctx context.Context) error { return f.Grants.Take(ctx, h, nil) })}
	if len(f.Graph.Objects) > 0 || len(f.Graph.Headers) > 0 {
		changes = append(changes, Change{Name: "the files for the start of disk " + f.Target,
			Do: func(ctx context.Context) error { return f.write(ctx, h) },
			Undo: func(ctx context.Context) error {
				return onDisk(ctx, h, f.Target, func(d rundir.Disk) error { return d.RemoveHandOver() })
			}})
	}
	return prepare(ctx, h, f.Target, changes)
}

// write writes the files, in a directory in memory.
func (f StartFiles) write(ctx context.Context, h *host.Host) error {
	user, err := h.User(ctx)
	if err != nil {
		return err
	}
	disk, err := h.Disk(ctx, f.Target)
	if err != nil {
		return err
	}
	path, err := disk.MakeHandOver(user)
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
