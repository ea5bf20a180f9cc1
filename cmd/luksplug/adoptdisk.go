package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/secrets"
)

// adoptDiskOptions are the flags of adopt.
type adoptDiskOptions struct {
	hotplug.AdoptOptions
	secret string
}

func newAdopt(a *app) *cobra.Command {
	var o adoptDiskOptions
	cmd := &cobra.Command{
		Use:   "adopt TARGET",
		Short: "Take over a disk that was attached without luksplug",
		Long: `adopt makes a LUKS disk that a person or program has attached by QEMU's own commands
(blockdev-add, device_add) a disk of luksplug's: list shows it, detach removes it with
all its nodes, and its images count as in use. The guest does not notice. NODE is the
device's drive, the node of the LUKS volume; luksplug --qmp ... list --all shows it.
TARGET is the name that the disk is to have, such as vdb.

It looks first, and refuses a disk that it cannot take over, with the reason: the node
is no LUKS volume, or is libvirt's, or has other users; the images are not those that
QEMU's process has open, or a check of attach refuses them; there is a filter, a chain
of images, or a server. --dry-run ends there.

It prints the disk's XML, by which attach finds it attached, and attaches it again
after a detach. The secret of --secret is tried on the volume. The secret object that
was given to QEMU is removed: an open volume no longer needs it.`,
		Example: `  luksplug --qmp /run/vm1.qmp adopt --node luks0 --secret 0a81f5b2-8403-4b23-88d6-21ccc2f80d6f --dry-run vdb
  luksplug --qmp /run/vm1.qmp adopt --node luks0 --secret 0a81f5b2-8403-4b23-88d6-21ccc2f80d6f vdb > vdb.xml
  luksplug --domain vm1 adopt --node luks0 --secret volume:vm1-vdb vdb`,
		Args:              arguments("TARGET"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              func(cmd *cobra.Command, args []string) error { return runAdoptDisk(cmd.Context(), a, o, args[0]) },
	}
	f := cmd.Flags()
	f.StringVar(&o.Node, "node", "", "the name of the LUKS volume's block node, which is the drive of the device")
	_ = cmd.RegisterFlagCompletionFunc("node", completed(func(cmd *cobra.Command) []string { return volumeNodes(cmd, a) }, 0)) // the flag exists
	f.StringVar(&o.secret, "secret", "", "the secret that opens the volume, by its uuid or TYPE:USAGE, for the disk's XML")
	f.BoolVar(&o.DryRun, "dry-run", false, "show what would be taken over, and change nothing")
	f.BoolVar(&o.AllowPayloadSignature, "allow-signature", false, "allow a payload under a detached header that looks like a file system, partition table or other plain data: this is ciphertext that looks so by chance")
	return cmd
}

func runAdoptDisk(ctx context.Context, a *app, o adoptDiskOptions, target string) error {
	switch {
	case o.Node == "":
		return &usageError{errors.New("adopt needs --node, the name of the LUKS volume's block node: list --all shows the nodes")}
	case o.secret == "":
		return &usageError{errors.New("adopt needs --secret, the uuid of the secret that opens the volume, or TYPE:USAGE")}
	}
	var err error
	if o.Secret, err = parseSecret(o.secret); err != nil {
		return err
	}
	if o.Secret.Type != secrets.Passphrase {
		return &usageError{fmt.Errorf("--secret %s is of a server, and a LUKS volume is opened by a passphrase: give a uuid, or volume:USAGE", o.secret)}
	}
	if err := hotplug.CheckTarget(target); err != nil {
		return err
	}
	o.Target = target
	store, err := storeToTry(a)
	if err != nil {
		return err
	}
	return withVM(ctx, a, a.flags.limit(), func(ctx context.Context, vm virtualMachine) error {
		adopted, err := vm.AdoptDisk(ctx, store, o.AdoptOptions)
		a.progress.end()
		if err != nil {
			return err
		}
		return showAdopted(a, adopted, o.DryRun)
	})
}

// volumeNodes returns the names of the nodes that adopt may take, none if the VM does not
// answer quickly.
func volumeNodes(cmd *cobra.Command, a *app) []string {
	if a.flags.complete(cmd) != nil || a.setUp(cmd) != nil {
		return nil
	}
	var out []string
	_ = withVM(cmd.Context(), a, completionLimit, func(ctx context.Context, m virtualMachine) error {
		vm, err := m.VM(ctx)
		if err != nil {
			return err
		}
		state, err := vm.State(ctx)
		if err != nil {
			return err
		}
		for _, n := range state.Nodes {
			if n.VolumeUUID() != "" && state.TargetOf(n) == "" {
				out = append(out, n.Name)
			}
		}
		return nil
	})
	return out
}

// storeToTry returns the store of the secret, which need not exist: it is only tried.
func storeToTry(a *app) (secrets.Store, error) {
	if a.flags.passphrase != "" {
		return &given{app: a}, nil
	}
	stores, err := openStores(a, a.storeOptions())
	return secrets.Chain(stores...), err
}

func showAdopted(a *app, d *hotplug.AdoptedDisk, dryRun bool) error {
	state := "adopted"
	switch {
	case d.Already:
		state = "already adopted"
	case dryRun:
		state = "can be adopted"
	}
	secret := ""
	switch {
	case d.Secret != "" && dryRun:
		secret = fmt.Sprintf("object %s would be removed: QEMU no longer needs it", d.Secret)
	case d.Secret != "":
		secret = fmt.Sprintf("object %s was removed: QEMU no longer needs it", d.Secret)
	case d.SharedSecret != "":
		secret = fmt.Sprintf("object %s stays in QEMU, where another node names it", d.SharedSecret)
	}
	if a.flags.output != "json" {
		if err := a.note("%s %s: device %s (%s), %s, %s, payload %s, header %s", d.Target, state, d.Device, d.Driver, size(d.Size), mode(d.ReadOnly), d.Payload, cmp.Or(d.Header, "in the payload")); err != nil {
			return err
		}
		for _, part := range d.Left() {
			if err := a.note("%s: %s", d.Target, part); err != nil {
				return err
			}
		}
		if secret != "" {
			if err := a.note("%s: the secret %s", d.Target, secret); err != nil {
				return err
			}
		}
	}
	return a.show(string(d.XML), struct {
		diskJSON
		Already      bool   `json:"already_adopted"`
		DryRun       bool   `json:"dry_run"`
		Secret       string `json:"secret_object,omitempty"`      // removed, or with dry_run to be removed
		SharedSecret string `json:"secret_object_kept,omitempty"` // another node names it
		Verified     bool   `json:"secret_verified"`
		DiskXML      string `json:"disk_xml"`
	}{diskToJSON(&d.AttachedDisk), d.Already, dryRun, d.Secret, d.SharedSecret, d.Verified, string(d.XML)})
}
