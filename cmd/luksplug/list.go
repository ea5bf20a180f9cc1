package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
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
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := a.bounded(cmd.Context())
			defer cancel()
			return a.withVM(ctx, func(ctx context.Context, vm *hotplug.VM) error {
				state, err := vm.State(ctx)
				if err != nil {
					return err
				}
				if all {
					return a.printNodes(state.Nodes)
				}
				return a.printHoldings(state.Holdings())
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "list all block nodes of the VM")
	return cmd
}

// holdingJSON is a disk, or a leftover, in JSON output. Members are only added.
type holdingJSON struct {
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
}

func holdingToJSON(h *hotplug.Holding) holdingJSON {
	return holdingJSON{h.Target, holdingState(h), h.Device, h.Driver, h.Size, h.ReadOnly, h.Payload, h.Header, notNil(h.Left()), string(h.Unlock), h.UUID, h.Daemon}
}

func holdingState(h *hotplug.Holding) string {
	if h.Leftover() {
		return "leftover"
	}
	return "attached"
}

func (a *app) printHoldings(holdings []*hotplug.Holding) error {
	if a.flags.output == "json" {
		disks := []holdingJSON{}
		for _, h := range holdings {
			disks = append(disks, holdingToJSON(h))
		}
		return a.printJSON(struct {
			Disks []holdingJSON `json:"disks"`
		}{disks})
	}
	if len(holdings) == 0 {
		return a.print("luksplug holds no disk in this VM\n")
	}
	rows := [][]string{{"TARGET", "STATE", "DEVICE", "SIZE", "MODE", "UNLOCKED", "PAYLOAD", "HEADER"}}
	for _, h := range holdings {
		if h.Leftover() {
			rows = append(rows, []string{h.Target, "leftover", strings.Join(h.Left(), ", "), "-", "-", "-", dash(h.Payload), dash(h.Header)})
			continue
		}
		rows = append(rows, []string{h.Target, "attached", h.Device, size(h.Size), mode(h.ReadOnly), dash(unlockedBy(h)), dash(h.Payload), dash(h.Header)})
	}
	return a.print(table(rows))
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

// size prints bytes for people, in powers of 1024.
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
