package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug"
)

// unlockFlag is the value of --unlock.
type unlockFlag hotplug.UnlockPolicy

func (f *unlockFlag) register(cmd *cobra.Command) {
	cmd.Flags().Var(f, "unlock", "what unlocks the volume: auto (luksplug itself where possible), qemu, or external (a qemu-storage-daemon)")
	complete(cmd, "unlock", f.values()...)
}

func (*unlockFlag) values() []string {
	return []string{string(hotplug.UnlockAuto), string(hotplug.UnlockQEMU), string(hotplug.UnlockExternal)}
}

// Set implements pflag.Value.
func (f *unlockFlag) Set(value string) error {
	if !slices.Contains(f.values(), value) {
		return fmt.Errorf("use %s", strings.Join(f.values(), ", "))
	}
	*f = unlockFlag(value)
	return nil
}

// String implements pflag.Value.
func (f *unlockFlag) String() string { return string(*f) }

// Type implements pflag.Value.
func (*unlockFlag) Type() string { return "METHOD" }
