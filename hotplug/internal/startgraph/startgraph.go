// Package startgraph builds the graph of a disk that a VM is started with: the one graph
// that determines QEMU's arguments, the files that they name, and the secrets that QEMU
// needs again.
package startgraph

import (
	"context"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/apply"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
)

// Options are the options of a start with the disk.
type Options struct {
	Method blockgraph.Method
	// Devices are the disk's earlier devices; nil lets QEMU choose the address.
	Devices []blockgraph.Object
}

// Build builds the graph. It depends only on the disk, the options and the VM's run
// directory.
func Build(ctx context.Context, h *host.Host, disk *blockgraph.Disk, o Options) (*blockgraph.Graph, blockgraph.Unlock, error) {
	u := blockgraph.Unlock{Method: o.Method}
	if disk.Transient {
		return nil, u, &blockgraph.UnsupportedError{Element: "disk/transient", Reason: "a VM that is about to start has no transient disk of luksplug's: attach it when the VM runs"}
	}
	if apply.Managed(disk) != nil {
		return nil, u, &outcome.PreflightError{Target: disk.Target, Cause: outcome.ErrReservations, Reason: "its reservations are managed, and a VM that is about to start has no qemu-pr-helper of luksplug's: run one, and name its socket with managed='no'"}
	}
	own, err := h.Disk(ctx, disk.Target)
	if err != nil {
		return nil, u, err
	}
	if o.Method == blockgraph.MethodEphemeralHeader {
		u.Dir = own.HandOver()
	}
	graph, err := blockgraph.Build(disk, blockgraph.Machine{Devices: o.Devices}, u)
	return graph, u, err
}
