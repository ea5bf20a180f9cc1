package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/internal/duration"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/vmkeys"
)

// pruneOptions are the flags of secret prune.
type pruneOptions struct {
	dryRun, force bool
	vm            string
	olderThan     time.Duration
}

func newSecretPrune(a *app) *cobra.Command {
	var o pruneOptions
	var older string
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Destroy the keys of VMs that are gone, and list those of others",
		Long: `prune lists the VMs of which this host holds keys of their own, in the stores vm:,
and destroys the keys of those that are gone: their domain was here, and is neither
defined nor running now. Keys of a defined domain that are still in memory are moved to
the disk. Nothing is destroyed on doubt: if a definition cannot be read, for a VM
that was saved to a file, or for one that has not been here since its keys were put.
--older-than includes the latter two.

The states are: running; defined; saved (to a file, which may be restored); expected
(its keys were put, and it has not been here); gone. The hook does the same at each
end of a domain. libvirtd need not run.`,
		Example: "  luksplug secret prune --dry-run\n  luksplug secret prune\n  luksplug secret prune --older-than 720h\n  luksplug secret prune --vm 3e3fce45-4f53-4fa7-bb32-11f34168b82b",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if older != "" {
				d, err := duration.Parse(older)
				if err != nil || d <= 0 {
					return &usageError{fmt.Errorf("--older-than: %q is not a positive time, such as 24h", older)}
				}
				o.olderThan = d
			}
			if o.vm != "" {
				id, err := secrets.ParseUUID(o.vm)
				if err != nil {
					return &usageError{fmt.Errorf("--vm: %w", err)}
				}
				o.vm = id.String()
			}
			if o.force && o.vm == "" {
				return &usageError{errors.New("--force is for one VM: give --vm UUID")}
			}
			return runSecretPrune(cmd.Context(), a, o)
		},
	}
	p := cmd.Flags()
	p.BoolVar(&o.dryRun, "dry-run", false, "only list")
	p.StringVar(&o.vm, "vm", "", "destroy the keys of the VM with this UUID, and of no other")
	p.BoolVar(&o.force, "force", false, "with --vm, destroy the keys also if the VM is defined or running")
	p.StringVar(&older, "older-than", "", "also destroy keys of VMs that are saved or expected, and whose keys were last put or used before this time, such as 720h")
	return cmd
}

// vmKeysJSON are the keys of a VM in JSON output. Members are only added.
type vmKeysJSON struct {
	VM       string         `json:"vm"`
	Domain   string         `json:"domain,omitempty"`
	State    hook.KeysState `json:"state"`
	InMemory int            `json:"in_memory"`
	OnDisk   int            `json:"on_disk"`
	// Result is what was done: kept, destroyed, or moved (to the disk).
	Result string `json:"result"`
}

func runSecretPrune(ctx context.Context, a *app, o pruneOptions) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	k, err := a.vmKeys()
	if err != nil {
		return err
	}
	all, err := k.List()
	if err != nil {
		return fmt.Errorf("nothing is destroyed: %w", err)
	}
	if o.vm != "" {
		if err := checkPruned(all, o); err != nil {
			return err
		}
	}
	out := []vmKeysJSON{}
	var failed []error
	for _, vm := range all {
		result, err := pruneOne(ctx, a, k, vm, o)
		failed = append(failed, err)
		out = append(out, vmKeysJSON{VM: vm.UUID, Domain: vm.Domain, State: vm.State, InMemory: vm.InMemory, OnDisk: vm.OnDisk, Result: result})
	}
	return errors.Join(showPruned(a, out, o.dryRun), errors.Join(failed...))
}

// What is done with the keys of a VM.
const (
	keysKept      = "kept"
	keysDestroyed = "destroyed"
	keysMoved     = "moved"
)

// pruneOne does what is chosen for the keys of one VM, and returns what that was.
func pruneOne(ctx context.Context, a *app, k hook.Keys, vm hook.VMKeys, o pruneOptions) (string, error) {
	switch {
	case o.chooses(vm) && o.dryRun:
		return keysDestroyed, nil
	case o.chooses(vm):
		if err := vm.Places.Wipe(vm.UUID); err != nil {
			return keysKept, err
		}
		return keysDestroyed, nil
	case o.dryRun || o.vm != "" || !vm.Defined || vm.InMemory == 0 || vm.Places.Disk == "":
		return keysKept, nil
	}
	k.Places = []vmkeys.Places{vm.Places}
	if _, err := k.Settle(ctx, vm.UUID); err != nil {
		a.log.Warn(staysInMemory(vm.UUID, err))
	}
	if left, err := k.List(); err == nil && inMemory(left, vm.UUID) < vm.InMemory {
		return keysMoved, nil
	}
	return keysKept, nil
}

// inMemory returns how many keys of a VM are in memory.
func inMemory(all []hook.VMKeys, vm string) int {
	for _, one := range all {
		if one.UUID == vm {
			return one.InMemory
		}
	}
	return 0
}

// chooses reports whether the keys of a VM are to be destroyed.
func (o pruneOptions) chooses(vm hook.VMKeys) bool {
	if o.vm != "" {
		return vm.UUID == o.vm
	}
	last := vm.Put
	if vm.Note != nil && vm.Note.Time.After(last) {
		last = vm.Note.Time
	}
	old := o.olderThan > 0 && time.Since(last) > o.olderThan
	return vm.State == hook.KeysGone || old && (vm.State == hook.KeysSaved || vm.State == hook.KeysExpected)
}

// errKeysNeeded reports that a VM can still use its keys.
var errKeysNeeded = errors.New("the VM can still use them")

// checkPruned refuses to destroy the keys of a VM that is defined or running.
func checkPruned(all []hook.VMKeys, o pruneOptions) error {
	found := false
	for _, vm := range all {
		if vm.UUID != o.vm {
			continue
		}
		found = true
		if !o.force && (vm.State == hook.KeysRunning || vm.State == hook.KeysDefined) {
			return &hotplug.PreflightError{Cause: errKeysNeeded, Reason: fmt.Sprintf("the keys of VM %s stay, because it is %s (domain %s): undefine it first", vm.UUID, vm.State, dash(vm.Domain))}
		}
	}
	if !found {
		return fmt.Errorf("this host holds no keys of VM %s: 'luksplug secret prune --dry-run' lists those that it has", o.vm)
	}
	return nil
}

func showPruned(a *app, all []vmKeysJSON, dryRun bool) error {
	rows := [][]string{{"VM", "DOMAIN", "STATE", "MEMORY", "DISK", "RESULT"}}
	for _, j := range all {
		result := j.Result
		if dryRun && result == keysDestroyed {
			result = "to be destroyed"
		}
		rows = append(rows, []string{j.VM, dash(j.Domain), string(j.State), strconv.Itoa(j.InMemory), strconv.Itoa(j.OnDisk), result})
	}
	text := table(rows)
	if len(all) == 0 {
		text = "this host holds no keys of VMs\n"
	}
	return a.show(text, struct {
		VMs    []vmKeysJSON `json:"vms"`
		DryRun bool         `json:"dry_run"`
	}{all, dryRun})
}
