package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/internal/printable"
)

// attachOptions are the flags of attach.
type attachOptions struct {
	libvirtvm.AttachOptions
	disk     diskFlags
	unlock   unlockFlag
	maxStall time.Duration
}

func newAttach(a *app) *cobra.Command {
	o := attachOptions{unlock: unlockFlag(hotplug.UnlockAuto)}
	cmd := &cobra.Command{
		Use:   "attach DISK.xml",
		Short: "Attach a disk to the running VM",
		Long: `attach plugs the disk that DISK.xml (- for standard input) describes into the
running VM and prints what the guest will see. It either completes or leaves the VM
as it was. Leftovers of an interrupted attach of the same disk are removed first. A
disk that is already attached is left as it is, which is a success.

luksplug unlocks the LUKS volume itself and gives QEMU an ephemeral header, which
QEMU opens in milliseconds. With --unlock qemu, for a LUKS volume inside of a qcow2
image and for a VM on another host, QEMU gets the passphrase and checks it: the guest
stalls meanwhile, usually for seconds, and a header that would take longer than
--max-stall is refused. With --unlock external a qemu-storage-daemon next to the VM
opens the image, and serves the disk until it is detached. What QEMU or an image says
never makes luksplug give QEMU the passphrase: the disk is refused then.

A payload under a detached header that has the signature of a file system, partition
table, LVM, RAID or swap is refused, since the guest would see noise and could format
it, unless --allow-signature says that it is ciphertext that looks so by chance.

With --recover the <header> is a backup of the LUKS header in the image, which is
damaged or overwritten: a file of cryptsetup luksHeaderBackup, or another copy. The
image is only read, unless --recover=read-write is given. A backup of another volume,
and an image that needs no recovery, are refused.`,
		Example: `  luksplug --qmp /run/vm1.qmp --passphrase-file vm1-vdb.key attach vdb.xml
  luksplug --domain vm1 --keystore dir:/run/keys attach vdb.xml
  luksplug --domain vm1 --keystore dir:/run/keys attach --unlock external qcow2.xml
  luksplug --domain vm1 attach --persistent vdb.xml
  luksplug --domain vm1 attach --recover vdb-with-backup.xml
  pass show vm1-vdb | tr -d '\n' | luksplug --domain vm1 --passphrase-file - attach vdb.xml`,
		Args: arguments("DISK.xml"),
		RunE: func(cmd *cobra.Command, args []string) error { return runAttach(cmd.Context(), a, o, args[0]) },
	}
	o.unlock.register(cmd)
	o.disk.register(cmd)
	f := cmd.Flags()
	o.maxStall = hotplug.DefaultMaxStall
	f.Var((*timeFlag)(&o.maxStall), "max-stall", "refuse a volume for which QEMU, where it unlocks, would stall the guest longer than that with a wrong passphrase; 0 for no limit")
	f.BoolVar(&o.Persistent, "persistent", false, "also add the disk to the libvirt domain's definition, so that luksplug's hook attaches it at every start; the domain may be off")
	f.BoolVar(&o.Optional, "optional", false, "with --persistent: let the domain start without the disk if it cannot be attached")
	f.BoolVar(&o.Relabel, "relabel", false, "give images that the VM's QEMU may not open to its user (and SELinux label) while they are attached")
	f.BoolVar(&o.AllowSharedHeader, "allow-shared-header", false, "allow a detached header that another disk uses: both payloads then have the same key")
	f.BoolVar(&o.TrustImageChain, "trust-image-chain", false, "let QEMU open the backing and data files that images name and the XML does not, as libvirt does: the image's writer then chooses files of the VM's host for the guest to read")
	f.BoolVar(&o.AllowGuestHeader, "allow-guest-header", false, "allow a header of LUKS or an image format at the beginning of a plain image of <driver type='raw'/> or of a data store, which the guest has written there")
	f.BoolVar(&o.AllowPayloadSignature, "allow-signature", false, "allow a payload under a detached header that looks like a file system, partition table or other plain data: this is ciphertext that looks so by chance")
	return cmd
}

func runAttach(ctx context.Context, a *app, o attachOptions, path string) error {
	disk, err := readDisk(ctx, a, path, o.disk)
	if err != nil {
		return err
	}
	if err := checkClear(a, disk); err != nil {
		return err
	}
	store, err := openDiskStore(a, disk.Disk)
	if err != nil {
		return err
	}
	if err := a.flags.checkPersistent(o.Persistent); err != nil {
		return err
	}
	if o.Optional && !o.Persistent {
		return &usageError{errors.New("--optional is about the start of a domain: give --persistent as well")}
	}
	o.Unlock = hotplug.UnlockPolicy(o.unlock)
	switch {
	case o.maxStall < 0:
		return &usageError{fmt.Errorf("--max-stall %s is negative", o.maxStall)}
	case o.maxStall == 0:
		o.MaxStall = hotplug.NoMaxStall
	case o.maxStall != hotplug.DefaultMaxStall:
		o.MaxStall = o.maxStall
	}
	if o.Persistent {
		if o.CheckStart, err = startCheck(a); err != nil {
			return err
		}
	}
	return withVM(ctx, a, a.flags.limit(), func(ctx context.Context, vm virtualMachine) error {
		attached, err := vm.Attach(ctx, disk, store, o.AttachOptions)
		a.progress.end()
		if err != nil {
			return err
		}
		if attached.Off {
			return a.show(fmt.Sprintf("%s belongs to %s, which is off: it is there from the next start on\n", attached.Target, printable.Line(a.flags.domain)),
				struct {
					Target   string            `json:"target"`
					State    string            `json:"state"`
					Recorded []libvirtvm.Scope `json:"recorded"`
				}{attached.Target, "off", []libvirtvm.Scope{libvirtvm.Persistent}})
		}
		without := withoutHook(a)
		return a.show(attachedText(&attached.Attached, a.flags, without), attachedJSON(&attached.Attached, without))
	})
}

// notEncrypted describes a disk whose XML has no <encryption>.
const notEncrypted = "none: the disk is not encrypted"

// withoutHook returns why libvirt of the domain's host does not run the hook, "" if it does,
// if that is unknown here, and for a VM without libvirt.
func withoutHook(a *app) string {
	if a.flags.domain == "" {
		return ""
	}
	here, err := hostsDomain(a)
	if err != nil || !here {
		return ""
	}
	if err := hookEffective(a); err != nil {
		return oneLine(err.Error())
	}
	return ""
}

// attachedText describes what the guest will see, and with -v the steps. without is why
// libvirt does not run the hook, "" if it does.
func attachedText(at *hotplug.Attached, flags flags, without string) string {
	var b strings.Builder
	for _, c := range at.Cleared {
		fmt.Fprintf(&b, "removed %s, left by an interrupted run\n", printable.Line(c))
	}
	state, unlocked, migration := "already attached", unlockedBy(&at.AttachedDisk), ""
	if !at.Already {
		state = "attached"
		if at.Unlock == blockgraph.MethodEphemeralHeader {
			unlocked += fmt.Sprintf(" in %s", at.Unlocking.Round(time.Millisecond))
		}
	}
	if len(at.LayersByQEMU) > 0 {
		unlocked += ", and " + strings.Join(at.LayersByQEMU, " and ") + " by QEMU"
	}
	if flags.domain != "" && len(at.Reopened) > 0 {
		migration = fmt.Sprintf("QEMU needs the passphrase again if it fails: luksplug migrate-check %s DESTINATION --prepare", flags.domain)
	}
	saving := ""
	if without != "" {
		saving = "detach the disk first, or the domain cannot be restored: " + printable.Line(without)
	}
	encryption := ""
	if at.Unlock == "" {
		encryption = notEncrypted
	}
	recovery := ""
	if at.Recovery != blockgraph.NoRecovery {
		recovery = "the header is a backup: restore it into the payload when no VM uses that, with cryptsetup luksHeaderRestore"
	}
	fmt.Fprintf(&b, "%s %s\n", printable.Line(at.Target), state)
	var rows [][]string
	for _, row := range [][]string{
		{"device", at.Device + " (" + at.Driver + ")"},
		{"place", strings.TrimSpace(at.Bus + " " + at.Address)},
		{"size", fmt.Sprintf("%s (%d bytes), %s", size(at.Size), at.Size, mode(at.ReadOnly))},
		{"serial", at.Serial},
		{"in the guest", guestPath(&at.AttachedDisk)},
		{"payload", at.Payload},
		{"header", at.Header},
		{"recovery", recovery},
		{"unlocked", unlocked},
		{"encryption", encryption},
		{"migration", migration},
		{"saving", saving},
	} {
		if row[1] != "" {
			rows = append(rows, []string{"  " + row[0], row[1]})
		}
	}
	b.WriteString(table(rows))
	if flags.verbose > 0 && !at.Already {
		fmt.Fprintf(&b, "steps, %s in all\n", at.Duration.Round(10*time.Microsecond))
		for i, s := range at.Steps {
			fmt.Fprintf(&b, "%3d  %10s  %-12s  %s\n", i+1, s.Duration.Round(10*time.Microsecond), s.Step.Do.Execute, printable.Line(s.Step.Subject))
		}
	}
	return b.String()
}

// attachedJSON is what `attach --output json` prints. Members are only added.
func attachedJSON(at *hotplug.Attached, without string) any {
	type stepJSON struct {
		Command      string  `json:"command"`
		Subject      string  `json:"subject"`
		Milliseconds float64 `json:"milliseconds"`
	}
	steps := []stepJSON{}
	for _, s := range at.Steps {
		steps = append(steps, stepJSON{s.Step.Do.Execute, s.Step.Subject, milliseconds(s.Duration)})
	}
	return struct {
		diskJSON
		Already      bool       `json:"already_attached"`
		Cleared      []string   `json:"cleared"`
		LayersByQEMU []string   `json:"layers_unlocked_by_qemu,omitempty"`
		Reopened     []string   `json:"secrets_needed_by_migration,omitempty"`
		WithoutHook  string     `json:"without_hook,omitempty"`
		Warnings     []string   `json:"warnings"`
		Unlocking    float64    `json:"unlock_milliseconds"`
		Milliseconds float64    `json:"milliseconds"`
		Steps        []stepJSON `json:"steps"`
	}{diskToJSON(&at.AttachedDisk), at.Already, notNil(at.Cleared), at.LayersByQEMU, at.Reopened, without, notNil(at.Warnings), milliseconds(at.Unlocking), milliseconds(at.Duration), steps}
}
