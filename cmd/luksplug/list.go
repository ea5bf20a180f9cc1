package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/internal/printable"
)

func newList(a *app) *cobra.Command {
	all := false
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the disks that luksplug holds in the VM",
		Long: `list shows the disks that luksplug holds in the VM, and what interrupted runs have
left there (state "leftover"; repair removes it). With --all it shows every block
node of the VM, also those of others.`,
		Example: `  luksplug --domain vm1 list
  luksplug --qmp /run/vm1.qmp list --output json
  luksplug --qmp /run/vm1.qmp list --all`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error { return runList(cmd.Context(), a, all) },
	}
	cmd.Flags().BoolVar(&all, "all", false, "list all block nodes of the VM")
	return cmd
}

func runList(ctx context.Context, a *app, all bool) error {
	return withVM(ctx, a, a.limit(), func(ctx context.Context, m virtualMachine) error {
		vm, err := m.VM(ctx)
		if err != nil {
			return err
		}
		state, err := vm.State(ctx)
		if err != nil {
			return err
		}
		if all {
			return showNodes(a, state.Nodes)
		}
		disks := state.Disks()
		records, err := m.States(ctx, disks)
		if err != nil {
			return err
		}
		return showDisks(a, disks, records)
	})
}

// showDisks prints the disks, and those that are only recorded. records is nil for a VM
// without records.
func showDisks(a *app, attached []*hotplug.AttachedDisk, records []libvirtvm.State) error {
	disks := []diskJSON{}
	for _, h := range attached {
		disks = append(disks, diskToJSON(h))
	}
	at := map[string]int{}
	for i, d := range disks {
		at[d.Target] = i
	}
	for _, s := range records {
		i, attached := at[s.Target]
		if !attached {
			i = len(disks)
			disks = append(disks, diskJSON{Target: s.Target, State: "missing", Parts: []string{}})
			at[s.Target] = i
		}
		disks[i].Recorded, disks[i].Difference = s.Recorded(), s.Difference()
	}
	header := []string{"TARGET", "STATE", "DEVICE", "SIZE", "MODE", "UNLOCKED", "PAYLOAD", "HEADER"}
	if records != nil {
		header = append(header, "RECORDED")
	}
	rows, differences := [][]string{header}, ""
	for i, d := range disks {
		row := []string{d.Target, d.State, "-", "-", "-", "-", dash(d.Payload), dash(d.Header)}
		switch d.State {
		case "leftover":
			row[2] = strings.Join(d.Parts, ", ")
		case "attached": // the first disks are those of attached
			row[2], row[3], row[4], row[5] = d.Device, size(d.Size), mode(d.ReadOnly), dash(unlockedBy(attached[i]))
		}
		if records != nil {
			var recorded []string
			for _, s := range d.Recorded {
				recorded = append(recorded, string(s))
			}
			row = append(row, dash(strings.Join(recorded, ", ")))
		}
		rows = append(rows, row)
		if d.Difference != "" {
			differences += printable.Line(d.Target+": "+d.Difference) + "\n"
		}
	}
	text := table(rows) + differences
	if len(disks) == 0 {
		text = "luksplug holds no disk in this VM\n"
	}
	return a.show(text, struct {
		Disks []diskJSON `json:"disks"`
	}{disks})
}

func showNodes(a *app, nodes []hotplug.Node) error {
	type nodeJSON struct {
		Name     string `json:"node_name"`
		Driver   string `json:"driver"`
		Size     int64  `json:"size"`
		ReadOnly bool   `json:"read_only"`
		File     string `json:"file"`
		Target   string `json:"target,omitempty"`
	}
	out := []nodeJSON{}
	rows := [][]string{{"NODE", "DRIVER", "SIZE", "MODE", "DISK", "FILE"}}
	for _, n := range nodes {
		target, _, _ := blockgraph.ParseName(n.Name)
		out = append(out, nodeJSON{n.Name, n.Driver, n.Image.VirtualSize, n.ReadOnly, n.File, target})
		rows = append(rows, []string{n.Name, n.Driver, size(n.Image.VirtualSize), mode(n.ReadOnly), dash(target), dash(n.File)})
	}
	return a.show(table(rows), struct {
		Nodes []nodeJSON `json:"nodes"`
	}{out})
}
