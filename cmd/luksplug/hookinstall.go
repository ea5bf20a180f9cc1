package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug/hook"
)

// installation is luksplug as a hook of this host, as the flags have it.
func (a *app) installation(dir string) (hook.Installation, error) {
	program, err := os.Executable()
	if err == nil {
		program, err = filepath.EvalSymlinks(program)
	}
	if err != nil {
		return hook.Installation{}, fmt.Errorf("where this program is: %w", err)
	}
	i := hook.Installation{Dir: dir, Program: program}
	if a.flags.config != "" {
		i.Config, err = filepath.Abs(a.flags.config)
	}
	return i, err
}

func hooksDirFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("hooks-dir", hook.Dir, "libvirt's hooks directory")
}

func newHookInstall(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Make luksplug a hook of this host's libvirt",
		Long: `install writes one small script into qemu.d of libvirt's hooks directory. The site's
other hooks are not touched. The script calls this very program, and with --config
this very configuration: install it where it stays first.`,
		Example: "  luksplug hook install\n  luksplug --config /etc/luksplug/hook.yaml hook install",
		Args:    cobra.NoArgs,
	}
	dir := hooksDirFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error { return a.runHookInstall(*dir) }
	return cmd
}

func (a *app) runHookInstall(dir string) error {
	i, err := a.installation(dir)
	if err != nil {
		return err
	}
	changed, err := i.Install()
	if err != nil {
		return err
	}
	restart := changed && !i.OtherHook()
	if a.flags.output == "json" {
		return a.printJSON(struct {
			Path    string `json:"path"`
			Changed bool   `json:"changed"`
			Restart bool   `json:"restart_libvirtd"`
		}{i.Path(), changed, restart})
	}
	text := i.Path() + " was there already\n"
	if changed {
		text = "wrote " + i.Path() + "\n"
	}
	if restart {
		text += "libvirt had no hook before: restart libvirtd (or virtqemud) once, or it will not run this one. VMs keep running\n"
	}
	return a.print(text)
}

func newHookUninstall(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "uninstall",
		Short:   "Remove the hook from this host's libvirt",
		Long:    "uninstall removes the script that install has written, and nothing else. Domains with disks of luksplug's no longer start with them.",
		Example: "  luksplug hook uninstall",
		Args:    cobra.NoArgs,
	}
	dir := hooksDirFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error { return a.runHookUninstall(*dir) }
	return cmd
}

func (a *app) runHookUninstall(dir string) error {
	i, err := a.installation(dir)
	if err != nil {
		return err
	}
	changed, err := i.Uninstall()
	if err != nil {
		return err
	}
	if a.flags.output == "json" {
		return a.printJSON(struct {
			Path    string `json:"path"`
			Changed bool   `json:"changed"`
		}{i.Path(), changed})
	}
	if !changed {
		return a.print(i.Path() + " was not there\n")
	}
	return a.print("removed " + i.Path() + "\n")
}
