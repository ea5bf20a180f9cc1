package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug"
)

func newAttach(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "attach DISK.xml",
		Short: "Plug a disk into the running VM",
		Long: `attach plugs the disk that DISK.xml (- for standard input) describes into the
running VM and prints what the guest will see. It is there completely or not at
all. What an interrupted run left of the same disk is removed first; a disk that
is attached already is left alone, which is a success.`,
		Example: `  luksplug --qmp /run/vm1.qmp --passphrase-file vm1-vdb.key attach vdb.xml
  luksplug --domain vm1 --keystore dir:/run/keys attach vdb.xml
  pass show vm1-vdb | tr -d '\n' | luksplug --domain vm1 --passphrase-file - attach vdb.xml`,
		Args: argument("DISK.xml"),
		RunE: func(cmd *cobra.Command, args []string) error {
			disk, err := a.readDisk(args[0])
			if err != nil {
				return err
			}
			store, err := a.store(disk)
			if err != nil {
				return err
			}
			ctx, cancel := a.bounded(cmd.Context())
			defer cancel()
			return a.withVM(ctx, func(ctx context.Context, vm *hotplug.VM) error {
				attached, err := vm.Attach(ctx, disk, store)
				if err != nil {
					return err
				}
				if a.flags.output == "json" {
					return a.printJSON(attachedJSON(attached))
				}
				return a.print(attachedText(attached, a.flags.verbose > 0))
			})
		},
	}
}

// attachedText says what the guest will see.
func attachedText(at *hotplug.Attached, steps bool) string {
	var b strings.Builder
	for _, c := range at.Cleared {
		fmt.Fprintf(&b, "removed %s, which an interrupted run had left\n", c)
	}
	state := "attached"
	if at.Already {
		state = "already attached"
	}
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	row := func(name, value string) {
		if value != "" {
			_, _ = fmt.Fprintf(w, "  %s\t%s\n", name, value) // into memory
		}
	}
	fmt.Fprintf(&b, "%s %s\n", at.Target, state)
	row("device", at.Device+" ("+at.Driver+")")
	row("place", strings.TrimSpace(at.Bus+" "+at.Address))
	row("size", fmt.Sprintf("%s (%d bytes), %s", size(at.Size), at.Size, mode(at.ReadOnly)))
	row("serial", at.Serial)
	row("in the guest", guestPath(at))
	row("payload", at.Payload)
	row("header", at.Header)
	_ = w.Flush() // into memory
	if steps && !at.Already {
		fmt.Fprintf(&b, "steps, %s in all\n", at.Duration.Round(10*time.Microsecond))
		for i, s := range at.Steps {
			fmt.Fprintf(&b, "%3d  %10s  %-12s  %s\n", i+1, s.Duration.Round(10*time.Microsecond), s.Step.Do.Execute, s.Step.Subject)
		}
	}
	return b.String()
}

// guestPath says how a Linux guest with udev names the disk for good. There is
// no such name for a disk without a serial.
func guestPath(at *hotplug.Attached) string {
	const shown = 20 // characters of a serial that a virtio disk has room for
	if at.Serial == "" || at.Driver != "virtio-blk-pci" {
		return ""
	}
	return "/dev/disk/by-id/virtio-" + at.Serial[:min(len(at.Serial), shown)]
}

type stepJSON struct {
	Command      string  `json:"command"`
	Subject      string  `json:"subject"`
	Milliseconds float64 `json:"milliseconds"`
}

// attachedJSON is what `attach --output json` prints. Members are only added.
func attachedJSON(at *hotplug.Attached) any {
	steps := []stepJSON{}
	for _, s := range at.Steps {
		steps = append(steps, stepJSON{s.Step.Do.Execute, s.Step.Subject, milliseconds(s.Duration)})
	}
	return struct {
		holdingJSON
		Already      bool       `json:"already_attached"`
		Cleared      []string   `json:"cleared"`
		Bus          string     `json:"bus,omitempty"`
		Address      string     `json:"address,omitempty"`
		Serial       string     `json:"serial,omitempty"`
		GuestPath    string     `json:"guest_path,omitempty"`
		Milliseconds float64    `json:"milliseconds"`
		Steps        []stepJSON `json:"steps"`
	}{holdingToJSON(&at.Holding), at.Already, notNil(at.Cleared), at.Bus, at.Address, at.Serial, guestPath(at), milliseconds(at.Duration), steps}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func notNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
