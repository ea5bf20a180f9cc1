package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

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
left there (state "leftover"; repair removes it). Of a libvirt domain that is off it
shows the disks that belong to it (state "off"). With --all it shows every block node of
the VM, also those of others.`,
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
	return withVM(ctx, a, a.flags.limit(), func(ctx context.Context, m virtualMachine) error {
		if all {
			return listNodes(ctx, a, m)
		}
		list, err := m.List(ctx)
		if err != nil {
			return err
		}
		copies, err := copiesOf(ctx, m, list)
		if err != nil {
			return err
		}
		return showDisks(a, list, copies)
	})
}

// copiesOf returns the disks that are copied to another volume, by their targets. It asks the VM only if there is one.
func copiesOf(ctx context.Context, m virtualMachine, list *libvirtvm.Listing) (map[string]*hotplug.Copy, error) {
	if !slices.ContainsFunc(list.Disks, func(d *hotplug.AttachedDisk) bool { return d.Copy != nil }) {
		return nil, nil
	}
	vm, err := m.VM(ctx)
	if err != nil {
		return nil, err
	}
	all, err := vm.Copies(ctx)
	out := map[string]*hotplug.Copy{}
	for _, c := range all {
		out[c.Disk.Target] = c
	}
	return out, err
}

func listNodes(ctx context.Context, a *app, m virtualMachine) error {
	vm, err := m.VM(ctx)
	if err != nil {
		return err
	}
	state, err := vm.State(ctx)
	if err != nil {
		return err
	}
	return showNodes(a, state)
}

// showDisks prints the disks, and those that are only recorded.
func showDisks(a *app, list *libvirtvm.Listing, copies map[string]*hotplug.Copy) error {
	disks := listedDisks(list)
	for i, d := range disks {
		if c := copies[d.Target]; c != nil && d.Copy != nil {
			disks[i].Copy.Phase, disks[i].Copy.Done, disks[i].Copy.Total = c.Phase, c.Done, c.Total
		}
	}
	header := []string{"TARGET", "STATE", "DEVICE", "SIZE", "MODE", "UNLOCKED", "PAYLOAD", "HEADER"}
	if list.States != nil {
		header = append(header, "RECORDED")
	}
	rows := [][]string{header}
	var lines []string // below the table: QEMU may have any number of parts
	for i, d := range disks {
		row := []string{d.Target, d.State, dash(d.Device), "-", "-", "-", dash(d.Payload), headerOf(d)}
		switch d.State {
		case "leftover":
			for _, part := range d.Parts {
				lines = append(lines, printable.Line(d.Target+": left by an interrupted run: "+part))
			}
		case "attached": // the first disks are those of list.Disks
			row[3], row[4], row[5] = size(d.Size), mode(d.ReadOnly), cmp.Or(unlockedBy(list.Disks[i]), "not encrypted")
		default:
			row[4] = mode(d.ReadOnly)
			if !*d.Encrypted && d.Payload != "" {
				row[5] = "not encrypted"
			}
		}
		if list.States != nil {
			var recorded []string
			for _, s := range d.Recorded {
				recorded = append(recorded, string(s))
			}
			row = append(row, dash(strings.Join(recorded, ", ")))
		}
		rows = append(rows, row)
		if c := d.Copy; c != nil {
			lines = append(lines, printable.Line(fmt.Sprintf("%s: its copy to %s is %s (%s of %s): 'luksplug volume jobs' goes on with it", d.Target, dash(c.Payload), c.Phase, size(c.Done), size(c.Total))))
		}
		if d.Difference != "" {
			lines = append(lines, printable.Line(d.Target+": "+d.Difference))
		}
	}
	text := table(rows)
	if len(lines) > 0 {
		text += strings.Join(lines, "\n") + "\n"
	}
	switch {
	case len(disks) == 0 && list.Off:
		text = "the domain is off, and no disk of luksplug's belongs to it\n"
	case len(disks) == 0:
		text = "luksplug holds no disk in this VM\n"
	}
	return a.show(text, struct {
		Disks []diskJSON `json:"disks"`
	}{disks})
}

func showNodes(a *app, state *hotplug.State) error {
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
	for _, n := range state.Nodes {
		target := state.TargetOf(n)
		out = append(out, nodeJSON{n.Name, n.Driver, n.Image.VirtualSize, n.ReadOnly, n.File, target})
		rows = append(rows, []string{n.Name, n.Driver, size(n.Image.VirtualSize), mode(n.ReadOnly), dash(target), dash(n.File)})
	}
	return a.show(table(rows), struct {
		Nodes []nodeJSON `json:"nodes"`
	}{out})
}
