package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keystore"
	"github.com/luksplug/luksplug/secrets/vmkeys"
)

// vmKeys returns the keys that this host holds for VMs: in the usual places, and in those
// of the stores of the kind vm: among the run's key stores.
func (a *app) vmKeys() (hook.Keys, error) {
	k := hook.Keys{VMs: a.hostVMs(), Warn: func(err error) { a.log.Warn(err) }}
	options := a.storeOptions()
	var configured []vmkeys.Places
	names, failed := a.storeNames()
	for _, uri := range names.uris {
		places, found, err := keystore.VMKeys(uri, options)
		failed = errors.Join(failed, err)
		if found && !slices.ContainsFunc(configured, func(p vmkeys.Places) bool { return p.Memory == places.Memory }) {
			configured = append(configured, places)
		}
	}
	if !slices.ContainsFunc(configured, func(p vmkeys.Places) bool { return p.Memory == vmkeys.Dir }) {
		configured = append(configured, vmkeys.Default())
	}
	k.Places = configured
	return k, failed
}

// hostVMs returns the places of the VMs of this host's libvirt: its definitions are next to
// the directory of its hooks.
func (a *app) hostVMs() hook.VMs {
	v := hook.HostVMs()
	if c, _, err := readConfig(a.flags.config); err == nil && c.Hook.Dir != "" {
		v.Definitions = filepath.Join(filepath.Dir(c.Hook.Dir), "qemu")
	}
	return v
}

// vmPlaces returns the places of a store of the kind vm:, and the VM that its URI names; ok
// is false for another store.
func (a *app) vmPlaces(store secrets.Store) (k hook.Keys, vm string, ok bool) {
	s, ok := keystore.Unencoded(store).(*vmkeys.Store)
	if !ok {
		return k, "", false
	}
	return hook.Keys{Places: []vmkeys.Places{s.Places()}, VMs: a.hostVMs()}, s.VM(), true
}

// pruneBefore destroys the keys of VMs that are gone before a store of the kind vm: is changed:
// a VM with the UUID of one that is gone does not get its keys.
func (a *app) pruneBefore(store secrets.Store) {
	k, _, ok := a.vmPlaces(store)
	if !ok {
		return
	}
	gone, err := k.Prune("")
	for _, vm := range gone {
		a.log.Infof("the keys of VM %s (%s) are destroyed, because it is gone", vm.UUID, dash(vm.Domain))
	}
	if err != nil && !errors.Is(err, hook.ErrNoLibvirt) {
		a.log.Warnf("keys of VMs that are gone are not destroyed: %v", err)
	}
}

// settleAfter moves the keys of a VM to the disk, after one was put into a store of the kind
// vm:, if its domain is defined here.
func (a *app) settleAfter(ctx context.Context, store secrets.Store) {
	k, vm, ok := a.vmPlaces(store)
	if !ok || k.Places[0].Disk == "" {
		return
	}
	if _, err := k.Settle(ctx, vm); err != nil && !errors.Is(err, hook.ErrNoLibvirt) {
		a.log.Warn(staysInMemory(vm, err))
	}
}

// staysInMemory says that keys were not moved to the disk.
func staysInMemory(vm string, err error) string {
	return fmt.Sprintf("the keys of VM %s stay in memory, and a reboot of the host takes them: %v", vm, err)
}

// watchKeysCommand is the hidden command that follows a domain's definition for a while.
const watchKeysCommand = "watch-keys"

// Times of watchKeysCommand. A domain is often undefined right after its end: a migration
// with --undefinesource does so after the hook.
const (
	watchingKeys = time.Minute
	betweenLooks = 500 * time.Millisecond
)

// watchKeys starts a process that runs watchKeysCommand for a domain, if the host has keys for
// it. libvirt does not wait for it.
func watchKeys(a *app, k hook.Keys, vm string, log logrus.FieldLogger) {
	if vm == "" || !slices.ContainsFunc(k.Places, func(p vmkeys.Places) bool { return p.Holds(vm) }) {
		return
	}
	args := []string{watchKeysCommand, vm}
	if a.flags.config != "" {
		args = append([]string{"--config", a.flags.config}, args...)
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), configVariable + "=" + os.Getenv(configVariable)}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err := cmd.Start()
	if err == nil {
		err = cmd.Process.Release()
	}
	if err != nil {
		log.Warnf("the keys of the VM are looked after at the next run: %v", err)
	}
}

func newWatchKeys(a *app) *cobra.Command {
	return &cobra.Command{
		Use:         watchKeysCommand + " UUID",
		Short:       "Bring the keys of a VM to where they belong, for a minute",
		Long:        "watch-keys is run by the hook, not by users.",
		Example:     "  luksplug watch-keys 3e3fce45-4f53-4fa7-bb32-11f34168b82b",
		Annotations: map[string]string{ownLimit: ""},
		Hidden:      true,
		Args:        arguments("UUID"),
		RunE:        func(cmd *cobra.Command, args []string) error { return runWatchKeys(cmd.Context(), a, args[0]) },
	}
}

func runWatchKeys(ctx context.Context, a *app, vm string) error {
	c, _, _ := readConfig(a.flags.config) // the hook has reported an error of it
	closeLog := a.logToFile(c)
	defer closeLog()
	log := a.log.WithFields(logrus.Fields{"uuid": vm, "operation": watchKeysCommand})
	k, err := a.vmKeys()
	if err != nil {
		log.Error(err)
	}
	ctx, cancel := context.WithTimeout(ctx, watchingKeys)
	defer cancel()
	for {
		before := k.VMs.Changed()
		if followed(ctx, k, vm, log) {
			return nil
		}
		for k.VMs.Changed().Equal(before) {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(betweenLooks):
			}
		}
	}
}

// followed brings the keys of a VM to where they belong, and reports whether nothing is left
// to wait for.
func followed(ctx context.Context, k hook.Keys, vm string, log logrus.FieldLogger) bool {
	s, err := k.Settle(ctx, vm)
	switch {
	case errors.Is(err, vmkeys.ErrOtherVM):
		log.Warn(err)
		return true
	case err != nil:
		log.Warn(staysInMemory(vm, err))
	}
	// A VM that runs ends with another call of the hook. One that arrives is defined later.
	return s.State == "" || s.State == hook.KeysGone || s.State == hook.KeysRunning && s.Defined
}
