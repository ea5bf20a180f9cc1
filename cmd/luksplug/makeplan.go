package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
)

// planOptions are the flags of a command that makes a plan.
type planOptions struct {
	disk      diskFlags
	domainXML string
	unlock    hotplug.UnlockPolicy
}

func (o *planOptions) register(cmd *cobra.Command) {
	o.disk.register(cmd)
	cmd.Flags().StringVar(&o.domainXML, "domain-xml", "", "plan for the libvirt domain of this document")
}

// makePlan plans a disk for the VM that the flags name, for the domain of a document, or
// for no particular VM.
func makePlan(ctx context.Context, a *app, o planOptions, path string) (*blockgraph.Plan, error) {
	live := a.flags.qmp != "" || a.flags.domain != ""
	if live && o.domainXML != "" {
		return nil, &usageError{errors.New("give --domain-xml, or a running VM with --qmp or --domain, not both")}
	}
	document, err := readDisk(ctx, a, path, o.disk)
	if err != nil {
		return nil, err
	}
	disk := document.Disk
	if live {
		return planLive(ctx, a, disk, o.unlock)
	}
	var machine blockgraph.Machine
	if o.domainXML != "" {
		data, err := a.readInput(o.domainXML)
		if err != nil {
			return nil, &usageError{fmt.Errorf("read the domain XML: %w", err)}
		}
		if machine, err = diskxml.ParseDomain(data); err != nil {
			return nil, &usageError{err}
		}
	}
	graph, err := blockgraph.Build(disk, machine, offline(disk, o.unlock))
	if err != nil {
		return nil, err
	}
	warn(a, disk, graph.Warnings)
	return graph.Plan(), nil
}

func planLive(ctx context.Context, a *app, disk *blockgraph.Disk, policy hotplug.UnlockPolicy) (*blockgraph.Plan, error) {
	var plan *blockgraph.Plan
	err := withVM(ctx, a, a.limit(), func(ctx context.Context, m virtualMachine) error {
		vm, err := m.VM(ctx)
		if err != nil {
			return err
		}
		state, err := vm.State(ctx)
		if err != nil {
			return err
		}
		choice, err := vm.ChooseUnlock(ctx, disk, state, policy)
		if err == nil {
			plan, err = vm.Plan(ctx, disk, state, choice.Unlock)
		}
		return err
	})
	return plan, err
}

// offline returns how a VM that cannot be queried would open the volume.
func offline(disk *blockgraph.Disk, policy hotplug.UnlockPolicy) blockgraph.Unlock {
	switch policy {
	case hotplug.UnlockAuto:
		return blockgraph.Unlock{Method: blockgraph.MethodEphemeralHeader}
	case hotplug.UnlockExternal:
		return blockgraph.Unlock{Method: blockgraph.MethodStorageDaemon, Folder: filepath.Join("/run/luksplug/vm/UUID", disk.Target)}
	}
	return blockgraph.Unlock{Method: blockgraph.MethodQEMU}
}
