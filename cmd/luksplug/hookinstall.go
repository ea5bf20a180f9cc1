package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/internal/ending"
)

func newHookInstall(a *app) *cobra.Command {
	return onInstallation(a, runHookInstall, &cobra.Command{
		Use:   "install",
		Short: "Install luksplug as a hook of this host's libvirt",
		Long: `install writes one script into qemu.d of libvirt's hooks directory. It does not
touch other hooks. The script calls this program at its present path, with the
configuration of --config if that is given: put the program in its place first.

install also makes the key that signs the records of disks in the metadata of domains,
unless there is one: hosts between which domains migrate need the same key. And it
writes down which user libvirt runs QEMU as, if libvirt answers.`,
		Example: "  luksplug hook install\n  luksplug --config /etc/luksplug/hook.yaml hook install",
		Args:    arguments(),
	})
}

func runHookInstall(ctx context.Context, a *app, i hook.Installation) error {
	key, err := a.recordKey()
	if err != nil {
		return err
	}
	_, made, err := hook.MakeKey(key)
	if err != nil {
		return err
	}
	changed, err := i.Install()
	if err != nil {
		return err
	}
	noteUser(ctx, a)
	c, _, err := readConfig(a.flags.config)
	bound := boundText(c)
	if err != nil {
		bound = err.Error()
	}
	restart := i.Skipped()
	if _, known := hook.LibvirtdStart(); !known {
		restart = changed && !i.OtherHook()
	}
	text := i.Path() + " was there already\n"
	if changed {
		text = "wrote " + i.Path() + "\n"
	}
	if made {
		text += "made " + key + ", which signs records: hosts between which domains migrate need the same\n"
	}
	if restart {
		text += "libvirtd had no hook when it started: restart libvirtd (or virtqemud) once, or it will not run this one. VMs keep running\n"
	}
	text += bound + "\n"
	return a.show(text, struct {
		Path    string `json:"path"`
		Changed bool   `json:"changed"`
		Restart bool   `json:"restart_libvirtd"`
		Key     string `json:"record_key"`
		KeyMade bool   `json:"record_key_made"`

		AnyVolume bool `json:"any_volume"`
	}{i.Path(), changed, restart, key, made, c.Hook.AnyVolume})
}

// noteUser writes down which user libvirt runs QEMU as. A libvirt that does not answer is
// none: the hook finds the user in other ways.
func noteUser(ctx context.Context, a *app) {
	ctx, cancel := ending.After(ctx, 5*time.Second)
	defer cancel()
	uri, err := a.libvirtURI()
	if err == nil {
		err = libvirtvm.NoteUser(ctx, uri.text)
	}
	if err != nil {
		a.log.Debugf("QEMU's user is not written down: %v", err)
	}
}

func newHookUninstall(a *app) *cobra.Command {
	force := false
	run := func(_ context.Context, a *app, i hook.Installation) error { return runHookUninstall(a, i, force) }
	cmd := onInstallation(a, run, &cobra.Command{
		Use:   "uninstall",
		Short: "Remove the hook from this host's libvirt",
		Long: `uninstall removes the script that install has written. It refuses while domains of
this host need the hook: those of 'hook enable', and those with disks of luksplug's.
With --force it removes the script anyway: such domains do not start then, or lack
their disks, and their saved states cannot be restored.`,
		Example: "  luksplug hook uninstall",
		Args:    arguments(),
	})
	cmd.Flags().BoolVar(&force, "force", false, "remove the script even if domains of this host need it")
	return cmd
}

func runHookUninstall(a *app, i hook.Installation, force bool) error {
	if !force {
		if err := checkUnneeded(); err != nil {
			return err
		}
	}
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
