package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/render"
	"github.com/luksplug/luksplug/hotplug"
)

func newPlan(a *app) *cobra.Command {
	var about planFlags
	var unlock unlockFlag
	cmd := &cobra.Command{
		Use:   "plan DISK.xml",
		Short: "Show the steps of an attach without doing them",
		Long: `plan shows what attach would do, and needs neither a VM nor a secret. With --qmp
or --domain it plans for that VM as it is now; with --domain-xml for the VM that
the document describes; otherwise the device's place is left to QEMU.

For a running VM the plan is that of attach, which unlocks LUKS volumes outside
of QEMU. Without one it is the graph that QEMU has from its start, which unlocks
them itself; --unlock says otherwise.`,
		Example: `  luksplug plan vdb.xml
  luksplug --domain vm1 plan vdb.xml
  virsh dumpxml vm1 > vm1.xml; luksplug plan --domain-xml vm1.xml --output json vdb.xml
  luksplug plan vdb.xml --output dot | dot -Tpng > vdb.png`,
		Annotations: map[string]string{outputs: "dot mermaid svg"},
		Args:        argument("DISK.xml"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runPlan(cmd.Context(), about, hotplug.UnlockPolicy(unlock), args[0])
		},
	}
	about.register(cmd)
	unlock.register(cmd)
	return cmd
}

func (a *app) runPlan(ctx context.Context, about planFlags, mode hotplug.UnlockPolicy, path string) error {
	plan, err := a.plan(ctx, path, about, mode)
	if err != nil {
		return err
	}
	switch a.flags.output {
	case "json":
		text, err := render.JSON(plan)
		if err != nil {
			return err
		}
		return a.print(string(text))
	case "dot":
		return a.print(render.DOT(plan.Graph))
	case "mermaid":
		return a.print(render.Mermaid(plan.Graph))
	case "svg":
		return a.print(render.SVG(plan.Graph))
	}
	return a.print(render.Text(plan))
}

// planFlags are what a plan goes by besides the disk.
type planFlags struct {
	imageFlags
	domainXML string
}

func (f *planFlags) register(cmd *cobra.Command) {
	f.imageFlags.register(cmd)
	cmd.Flags().StringVar(&f.domainXML, "domain-xml", "", "plan for the libvirt domain of this document")
}

// plan builds the plan of a disk for the VM that the flags name, for the one of
// a domain document, or for none in particular.
func (a *app) plan(ctx context.Context, path string, about planFlags, mode hotplug.UnlockPolicy) (*blockgraph.Plan, error) {
	live := a.flags.qmp != "" || a.flags.domain != ""
	if live && about.domainXML != "" {
		return nil, &usageError{fmt.Errorf("give --domain-xml, or a running VM by --qmp or --domain, not both")}
	}
	document, err := a.readDisk(ctx, path, about.imageFlags)
	if err != nil {
		return nil, err
	}
	disk := document.Disk
	if live {
		var plan *blockgraph.Plan
		ctx, cancel := a.bounded(ctx)
		defer cancel()
		err := a.withVM(ctx, func(ctx context.Context, m virtualMachine) error {
			vm, err := m.VM(ctx)
			if err != nil {
				return err
			}
			state, err := vm.State(ctx)
			if err != nil {
				return err
			}
			unlocking, err := vm.ChooseUnlock(ctx, disk, state, mode)
			if err != nil {
				return err
			}
			plan, err = vm.Plan(ctx, disk, state, unlocking.Unlock)
			return err
		})
		return plan, err
	}
	var machine blockgraph.Machine
	if about.domainXML != "" {
		data, err := a.readInput(about.domainXML)
		if err != nil {
			return nil, &usageError{fmt.Errorf("read the domain XML: %w", err)}
		}
		if machine, err = diskxml.ParseDomain(data); err != nil {
			return nil, &usageError{err}
		}
	}
	graph, err := blockgraph.Build(disk, machine, offline(disk, mode))
	if err != nil {
		return nil, err
	}
	for _, w := range graph.Warnings {
		a.log.WithField("disk", disk.Target).Warn(w)
	}
	return graph.Plan(), nil
}

// offline says how a volume is opened in a VM that cannot be queried.
func offline(disk *blockgraph.Disk, mode hotplug.UnlockPolicy) blockgraph.Unlock {
	switch mode {
	case hotplug.UnlockAuto:
		return blockgraph.Unlock{Method: blockgraph.MethodEphemeralHeader}
	case hotplug.UnlockExternal:
		return blockgraph.Unlock{Method: blockgraph.MethodStorageDaemon, Dir: filepath.Join("/run/luksplug/vm/UUID", disk.Target)}
	}
	return blockgraph.Unlock{Method: blockgraph.MethodQEMU}
}
