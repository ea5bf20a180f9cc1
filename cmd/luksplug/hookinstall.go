package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug/hook"
)

// installation returns luksplug as a hook of this host, as the flags describe it.
func installation(a *app, dir string) (hook.Installation, error) {
	program, err := os.Executable()
	if err == nil {
		program, err = filepath.EvalSymlinks(program)
	}
	if err != nil {
		return hook.Installation{}, fmt.Errorf("find the path of this program: %w", err)
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
		Short: "Install luksplug as a hook of this host's libvirt",
		Long: `install writes one script into qemu.d of libvirt's hooks directory. It does not
touch other hooks. The script calls this program at its present path, with the
configuration of --config if that is given: put the program in its place first.`,
		Example: "  luksplug hook install\n  luksplug --config /etc/luksplug/hook.yaml hook install",
		Args:    cobra.NoArgs,
	}
	dir := hooksDirFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error { return runHookInstall(a, *dir) }
	return cmd
}

func runHookInstall(a *app, dir string) error {
	i, err := installation(a, dir)
	if err != nil {
		return err
	}
	changed, err := i.Install()
	if err != nil {
		return err
	}
	restart := changed && !i.OtherHook()
	text := i.Path() + " was there already\n"
	if changed {
		text = "wrote " + i.Path() + "\n"
	}
	if restart {
		text += "libvirt had no hook before: restart libvirtd (or virtqemud) once, or it will not run this one. VMs keep running\n"
	}
	return a.show(text, struct {
		Path    string `json:"path"`
		Changed bool   `json:"changed"`
		Restart bool   `json:"restart_libvirtd"`
	}{i.Path(), changed, restart})
}

func newHookUninstall(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove the hook from this host's libvirt",
		Long: `uninstall removes the script that install has written. Domains then start without
their luksplug disks.`,
		Example: "  luksplug hook uninstall",
		Args:    cobra.NoArgs,
	}
	dir := hooksDirFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error { return runHookUninstall(a, *dir) }
	return cmd
}

func runHookUninstall(a *app, dir string) error {
	i, err := installation(a, dir)
	if err != nil {
		return err
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
