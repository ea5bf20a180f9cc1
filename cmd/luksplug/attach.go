package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
)

// attachOptions are the flags of attach.
type attachOptions struct {
	libvirtvm.AttachOptions
	images imageFlags
	unlock unlockFlag
}

func newAttach(a *app) *cobra.Command {
	o := attachOptions{unlock: unlockFlag(hotplug.UnlockAuto)}
	cmd := &cobra.Command{
		Use:   "attach DISK.xml",
		Short: "Plug a disk into the running VM",
		Long: `attach plugs the disk that DISK.xml (- for standard input) describes into the
running VM and prints what the guest will see. It is there completely or not at
all. What an interrupted run left of the same disk is removed first; a disk that
is attached already is left alone, which is a success.

The LUKS volume is unlocked in this process, and QEMU is handed an ephemeral
header that it opens in milliseconds: with --unlock qemu, or where nothing else
works, the guest stands still for as long as the passphrase takes to be checked,
seconds as a rule. A LUKS volume inside of a qcow2 image is such a case, but for
--unlock external: a qemu-storage-daemon next to the VM opens it and serves the
disk until it is detached.`,
		Example: `  luksplug --qmp /run/vm1.qmp --passphrase-file vm1-vdb.key attach vdb.xml
  luksplug --domain vm1 --keystore dir:/run/keys attach vdb.xml
  luksplug --domain vm1 --keystore dir:/run/keys attach --unlock external qcow2.xml
  luksplug --domain vm1 attach --persistent vdb.xml
  pass show vm1-vdb | tr -d '\n' | luksplug --domain vm1 --passphrase-file - attach vdb.xml`,
		Args: argument("DISK.xml"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runAttach(cmd.Context(), o, args[0])
		},
	}
	o.unlock.register(cmd)
	o.images.register(cmd)
	f := cmd.Flags()
	f.BoolVar(&o.Persistent, "persistent", false, "the disk belongs to the libvirt domain: it is there at every start, by luksplug's hook; also for a domain that is off")
	f.BoolVar(&o.Optional, "optional", false, "with --persistent: the domain may start without the disk")
	f.BoolVar(&o.Relabel, "relabel", false, "give images that the VM's QEMU may not open to its user (and SELinux label) for as long as they are attached")
	f.BoolVar(&o.AllowSharedHeader, "allow-shared-header", false, "allow a detached header that another disk uses: both payloads then have the same key")
	return cmd
}

func (a *app) runAttach(ctx context.Context, o attachOptions, path string) error {
	disk, err := a.readDisk(ctx, path, o.images)
	if err != nil {
		return err
	}
	if err := a.checkClear(disk); err != nil {
		return err
	}
	store, err := a.store(disk.Disk)
	if err != nil {
		return err
	}
	if err := a.checkPersistent(o.Persistent); err != nil {
		return err
	}
	if o.Optional && !o.Persistent {
		return &usageError{errors.New("--optional is about the start of a domain: give --persistent as well")}
	}
	o.AttachOptions.Unlock = hotplug.UnlockPolicy(o.unlock)
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	return a.withVM(ctx, func(ctx context.Context, vm virtualMachine) error {
		attached, err := vm.Attach(ctx, disk, store, o.AttachOptions)
		a.progress.end()
		switch {
		case err != nil:
			return err
		case attached.Off && a.flags.output == "json":
			return a.printJSON(offJSON{attached.Target, "off", []libvirtvm.Scope{libvirtvm.Persistent}})
		case attached.Off:
			return a.print(fmt.Sprintf("%s belongs to %s, which is off: it is there from the next start on\n", attached.Target, a.flags.domain))
		case a.flags.output == "json":
			return a.printJSON(attachedJSON(&attached.Attached))
		}
		return a.print(attachedText(&attached.Attached, a.beforeMigration(&attached.Attached), a.flags.verbose > 0))
	})
}

// checkPersistent refuses --persistent without a libvirt domain.
func (a *app) checkPersistent(persistent bool) error {
	if persistent && a.flags.domain == "" {
		return &usageError{errors.New("--persistent is about a libvirt domain: give --domain")}
	}
	return nil
}

// offJSON is what `attach --output json` prints for a domain that is off.
type offJSON struct {
	Target   string            `json:"target"`
	State    string            `json:"state"`
	Recorded []libvirtvm.Scope `json:"recorded"`
}

// attachedText says what the guest will see.
func attachedText(at *hotplug.Attached, migration string, steps bool) string {
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
	row("unlocked", unlocked(at))
	row("migration", migration)
	_ = w.Flush() // into memory
	if steps && !at.Already {
		fmt.Fprintf(&b, "steps, %s in all\n", at.Duration.Round(10*time.Microsecond))
		for i, s := range at.Steps {
			fmt.Fprintf(&b, "%3d  %10s  %-12s  %s\n", i+1, s.Duration.Round(10*time.Microsecond), s.Step.Do.Execute, s.Step.Subject)
		}
	}
	return b.String()
}

// beforeMigration says what the disk's user has to do before the domain is migrated,
// "" for nothing. A VM without a libvirt is not luksplug's to move.
func (a *app) beforeMigration(at *hotplug.Attached) string {
	if a.flags.domain == "" || len(at.Reopened) == 0 {
		return ""
	}
	return fmt.Sprintf("QEMU needs the passphrase again if it fails: luksplug migrate-check %s DESTINATION --prepare", a.flags.domain)
}

// unlocked says who has opened the volume, and how long it took.
func unlocked(at *hotplug.Attached) string {
	text := unlockedBy(&at.AttachedDisk)
	if at.Unlock == blockgraph.MethodEphemeralHeader && !at.Already {
		text += fmt.Sprintf(" in %s", at.Unlocking.Round(time.Millisecond))
	}
	return text
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
		diskJSON
		Already      bool       `json:"already_attached"`
		Cleared      []string   `json:"cleared"`
		Bus          string     `json:"bus,omitempty"`
		Address      string     `json:"address,omitempty"`
		Serial       string     `json:"serial,omitempty"`
		GuestPath    string     `json:"guest_path,omitempty"`
		Reopened     []string   `json:"secrets_needed_by_migration,omitempty"`
		Unlocking    float64    `json:"unlock_milliseconds"`
		Milliseconds float64    `json:"milliseconds"`
		Steps        []stepJSON `json:"steps"`
	}{diskToJSON(&at.AttachedDisk), at.Already, notNil(at.Cleared), at.Bus, at.Address, at.Serial, guestPath(at), at.Reopened, milliseconds(at.Unlocking), milliseconds(at.Duration), steps}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func notNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
