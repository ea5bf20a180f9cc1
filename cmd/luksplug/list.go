package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
)

func newList(a *app) *cobra.Command {
	all := false
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the disks that luksplug holds in the VM",
		Long: `list shows the disks that luksplug holds in the VM, and what interrupted runs
have left there (state "leftover", see repair). With --all it shows every block
node of the VM, whoever made it.`,
		Example: `  luksplug --domain vm1 list
  luksplug --qmp /run/vm1.qmp list --output json
  luksplug --qmp /run/vm1.qmp list --all`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runList(cmd.Context(), all) },
	}
	cmd.Flags().BoolVar(&all, "all", false, "list all block nodes of the VM")
	return cmd
}

func (a *app) runList(ctx context.Context, all bool) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	return a.withVM(ctx, func(ctx context.Context, m virtualMachine) error {
		vm, err := m.VM(ctx)
		if err != nil {
			return err
		}
		state, err := vm.State(ctx)
		if err != nil {
			return err
		}
		if all {
			return a.printNodes(state.Nodes)
		}
		disks := state.Disks()
		records, err := m.States(ctx, disks)
		if err != nil {
			return err
		}
		return a.printDisks(disks, records)
	})
}

// diskJSON is a disk, or a leftover, in JSON output. Members are only added.
type diskJSON struct {
	Target   string   `json:"target"`
	State    string   `json:"state"`
	Device   string   `json:"device,omitempty"`
	Driver   string   `json:"driver,omitempty"`
	Size     int64    `json:"size"`
	ReadOnly bool     `json:"read_only"`
	Payload  string   `json:"payload,omitempty"`
	Header   string   `json:"header,omitempty"`
	Parts    []string `json:"parts"`
	Unlock   string   `json:"unlock,omitempty"` // ephemeral, qemu, external
	UUID     string   `json:"uuid,omitempty"`
	Daemon   int      `json:"daemon,omitempty"`
	// Of a libvirt domain: where the disk is recorded, and what is not as it
	// should be.
	Recorded   []libvirtvm.Scope `json:"recorded,omitempty"`
	Difference string            `json:"difference,omitempty"`
}

func diskToJSON(h *hotplug.AttachedDisk) diskJSON {
	return diskJSON{Target: h.Target, State: diskState(h), Device: h.Device, Driver: h.Driver, Size: h.Size, ReadOnly: h.ReadOnly,
		Payload: h.Payload, Header: h.Header, Parts: notNil(h.Left()), Unlock: string(h.Unlock), UUID: h.UUID, Daemon: h.Daemon}
}

func diskState(h *hotplug.AttachedDisk) string {
	if h.Leftover() {
		return "leftover"
	}
	return "attached"
}

// printDisks prints the disks, and those that are only recorded. records is nil
// where there is no libvirt that keeps any.
func (a *app) printDisks(attached []*hotplug.AttachedDisk, records []libvirtvm.State) error {
	disks := []diskJSON{}
	for _, h := range attached {
		disks = append(disks, diskToJSON(h))
	}
	for _, s := range records {
		i := slices.IndexFunc(disks, func(d diskJSON) bool { return d.Target == s.Target })
		if i < 0 {
			disks = append(disks, diskJSON{Target: s.Target, State: "missing", Parts: []string{}})
			i = len(disks) - 1
		}
		disks[i].Recorded, disks[i].Difference = s.Recorded(), s.Difference()
	}
	if a.flags.output == "json" {
		return a.printJSON(struct {
			Disks []diskJSON `json:"disks"`
		}{disks})
	}
	if len(disks) == 0 {
		return a.print("luksplug holds no disk in this VM\n")
	}
	header := []string{"TARGET", "STATE", "DEVICE", "SIZE", "MODE", "UNLOCKED", "PAYLOAD", "HEADER"}
	if records != nil {
		header = append(header, "RECORDED")
	}
	rows, differences := [][]string{header}, ""
	for _, d := range disks {
		row := []string{d.Target, d.State, "-", "-", "-", "-", dash(d.Payload), dash(d.Header)}
		i := slices.IndexFunc(attached, func(h *hotplug.AttachedDisk) bool { return h.Target == d.Target })
		switch {
		case i < 0:
		case d.State == "leftover":
			row[2] = strings.Join(d.Parts, ", ")
		default:
			row[2], row[3], row[4], row[5] = d.Device, size(d.Size), mode(d.ReadOnly), dash(unlockedBy(attached[i]))
		}
		if records != nil {
			row = append(row, dash(join(d.Recorded)))
		}
		rows = append(rows, row)
		if d.Difference != "" {
			differences += fmt.Sprintf("%s: %s\n", d.Target, d.Difference)
		}
	}
	return a.print(table(rows) + differences)
}

func (a *app) printNodes(nodes []hotplug.Node) error {
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
	if a.flags.output == "json" {
		return a.printJSON(struct {
			Nodes []nodeJSON `json:"nodes"`
		}{out})
	}
	return a.print(table(rows))
}

// table lays rows out in columns.
func table(rows [][]string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, r := range rows {
		_, _ = fmt.Fprintln(w, strings.Join(r, "\t")) // into memory
	}
	_ = w.Flush()
	return b.String()
}

// join lists scopes.
func join(scopes []libvirtvm.Scope) string {
	var out []string
	for _, s := range scopes {
		out = append(out, string(s))
	}
	return strings.Join(out, ", ")
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func mode(readOnly bool) string {
	if readOnly {
		return "read-only"
	}
	return "read-write"
}

// size prints bytes in human-readable form, in powers of 1024.
func size(n int64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"}
	value, unit := float64(n), 0
	for value >= 1024 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	if value == float64(int64(value)) {
		return fmt.Sprintf("%d %s", int64(value), units[unit])
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}
