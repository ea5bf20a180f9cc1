package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug/hook"
)

func newHookInstall(a *app) *cobra.Command {
	return onInstallation(a, runHookInstall, &cobra.Command{
		Use:   "install",
		Short: "Install luksplug as a hook of this host's libvirt",
		Long: `install writes one script into qemu.d of libvirt's hooks directory. It does not
touch other hooks. The script calls this program at its present path, with the
configuration of --config if that is given: put the program in its place first.`,
		Example: "  luksplug hook install\n  luksplug --config /etc/luksplug/hook.yaml hook install",
		Args:    cobra.NoArgs,
	})
}

func runHookInstall(_ context.Context, a *app, i hook.Installation) error {
	changed, err := i.Install()
	if err != nil {
		return err
	}
	c, _, err := readConfig(a.flags.config)
	bound := boundText(c)
	if err != nil {
		bound = err.Error()
	}
	restart := changed && !i.OtherHook()
	text := i.Path() + " was there already\n"
	if changed {
		text = "wrote " + i.Path() + "\n"
	}
	if restart {
		text += "libvirt had no hook before: restart libvirtd (or virtqemud) once, or it will not run this one. VMs keep running\n"
	}
	text += bound + "\n"
	return a.show(text, struct {
		Path      string `json:"path"`
		Changed   bool   `json:"changed"`
		Restart   bool   `json:"restart_libvirtd"`
		AnyVolume bool   `json:"any_volume"`
	}{i.Path(), changed, restart, c.Hook.AnyVolume})
}

func newHookUninstall(a *app) *cobra.Command {
	return onInstallation(a, runHookUninstall, &cobra.Command{
		Use:   "uninstall",
		Short: "Remove the hook from this host's libvirt",
		Long: `uninstall removes the script that install has written. Domains then start without
their luksplug disks.`,
		Example: "  luksplug hook uninstall",
		Args:    cobra.NoArgs,
	})
}

func runHookUninstall(_ context.Context, a *app, i hook.Installation) error {
	changed, err := i.Uninstall()
	if err != nil {
		return err
	}
	text := i.Path() + " was not there\n"
	if changed {
		text = "removed " + i.Path() + "\n"
	}
	return a.show(text, struct {
		Path    string `json:"path"`
		Changed bool   `json:"changed"`
	}{i.Path(), changed})
}
