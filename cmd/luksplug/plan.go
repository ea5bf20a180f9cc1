package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/blockgraph/render"
	"github.com/luksplug/luksplug/hotplug"
)

func newPlan(a *app) *cobra.Command {
	var o planOptions
	var unlock unlockFlag
	cmd := &cobra.Command{
		Use:   "plan DISK.xml",
		Short: "Show the steps of an attach without executing them",
		Long: `plan shows what attach would do. It needs neither a VM nor a secret. With --qmp or
--domain the plan is for that VM in its present state; with --domain-xml it is for
the domain of that document; otherwise QEMU chooses the device's place.

For a running VM the plan is that of attach, which unlocks LUKS volumes outside of
QEMU. Otherwise it is the graph of a QEMU that has the disk from its start and
unlocks the volume itself. --unlock selects another method.

LUKS headers are examined if they are in images of this host: a disk that the method
of --unlock does not open, or that of attach, is refused as by attach.`,
		Example: `  luksplug plan vdb.xml
  luksplug --domain vm1 plan vdb.xml
  virsh dumpxml vm1 > vm1.xml; luksplug plan --domain-xml vm1.xml --output json vdb.xml
  luksplug plan vdb.xml --output dot | dot -Tpng > vdb.png`,
		Annotations: map[string]string{outputs: "dot mermaid svg"},
		Args:        arguments("DISK.xml"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.unlock = hotplug.UnlockPolicy(unlock)
			return runPlan(cmd.Context(), a, o, args[0])
		},
	}
	o.register(cmd)
	unlock.register(cmd)
	return cmd
}

func runPlan(ctx context.Context, a *app, o planOptions, path string) error {
	p, err := makePlan(ctx, a, o, path)
	if err != nil {
		return err
	}
	p.warn(a)
	plan := p.Plan
	switch a.flags.output {
	case "json":
		text, err := render.JSON(plan)
		if err != nil {
			return err
		}
		_, err = raw(a.out).Write(text)
		return err
	case "dot":
		return a.print(render.DOT(plan.Graph))
	case "mermaid":
		return a.print(render.Mermaid(plan.Graph))
	case "svg":
		return a.print(render.SVG(plan.Graph))
	}
	return a.print(render.Text(plan))
}
