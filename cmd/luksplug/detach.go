package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/internal/printable"
)

// detachOptions are the flags of detach.
type detachOptions struct {
	libvirtvm.DetachOptions
	agentSocket string
}

func newDetach(a *app) *cobra.Command {
	o := detachOptions{}
	cmd := &cobra.Command{
		Use:         "detach DISK",
		Annotations: map[string]string{ownLimit: ""},
		Short:       "Detach a disk from the VM",
		Long: `detach requests that the guest releases the disk, waits for that as long as
--timeout allows, and removes every node and object of the disk. If the guest does
not release it, the exit code is 8 and the disk stays: run detach again later.

Unmount the disk in the guest first: a guest releases a disk that it has mounted, too,
and then gets I/O errors and loses what it has not written yet. If the VM has a guest
agent (qemu-ga), detach asks it, for at most five seconds, and refuses a disk with
mounted file systems, also on its partitions, LVM and dm-crypt, unless --force is
given. Swap space, and disks that are open without a mount, the agent does not report.
An agent that does not answer refuses nothing.

A disk that a block job, an export, another node or another device of the VM uses is
refused before anything is changed. The message names the user.

DISK is a target (vdb), the disk's XML (a file whose name ends in .xml, a pipe, or -
for standard input), of which the target counts, or the source of its payload as list
shows it. Anything else is an error, also with --ignore-missing.

From a libvirt domain that is off, detach removes the disk from its definition.`,
		Example: `  luksplug --domain vm1 detach vdb
  luksplug --qmp /run/vm1.qmp --timeout 2m detach vdb
  luksplug --domain vm1 detach vdb.xml
  luksplug --domain vm1 detach vdb --ignore-missing
  luksplug --domain vm1 detach vdb --force
  luksplug --qmp /run/vm1.qmp detach vdb --agent-socket /run/vm1.qga`,
		Args: arguments("DISK"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return targets(cmd, a), cobra.ShellCompDirectiveDefault // files as well
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runDetach(cmd.Context(), a, o, args[0]) },
	}
	cmd.Flags().BoolVar(&o.Persistent, "persistent", false, "also remove the disk from the libvirt domain's definition, so that it is not there at the next start")
	cmd.Flags().BoolVar(&o.IgnoreMissing, "ignore-missing", false, "succeed if luksplug holds no such disk")
	cmd.Flags().BoolVar(&o.Force, "force", false, "detach the disk although the guest has mounted it: the guest gets I/O errors and loses what it has not written")
	cmd.Flags().StringVar(&o.agentSocket, "agent-socket", "", "the unix socket of the guest agent's channel of a QEMU without libvirt (default: that at which the VM's QEMU listens)")
	return cmd
}

func runDetach(ctx context.Context, a *app, o detachOptions, argument string) error {
	disk, err := readDiskArgument(ctx, a, argument)
	if err != nil {
		return err
	}
	if err := a.flags.checkPersistent(o.Persistent); err != nil {
		return err
	}
	if o.agentSocket != "" {
		if err := checkAgentSocket(a, o.agentSocket); err != nil {
			return err
		}
		o.Agent = hotplug.AgentSocket(o.agentSocket)
	}
	const guestsUsuallyTake = 30 * time.Second
	o.Wait = cmp.Or(a.flags.timeout, guestsUsuallyTake)
	// The wait for QEMU and the lock has a limit, too.
	return withVM(ctx, a, o.Wait+time.Minute, func(ctx context.Context, vm virtualMachine) error {
		target, err := disk.find(ctx, vm)
		if err != nil {
			return err
		}
		d, err := vm.Detach(ctx, target, o.DetachOptions)
		if err != nil {
			return err
		}
		return a.show(detachedText(d, a.flags.domain, a.flags.verbose > 0), struct {
			Target       string   `json:"target"`
			Changed      bool     `json:"changed"`
			Removed      []string `json:"removed"`
			Milliseconds float64  `json:"milliseconds"`
		}{d.Target, len(d.Removed) > 0, notNil(d.Removed), milliseconds(d.Waited)})
	})
}

// checkAgentSocket refuses a path that is no socket, and one with a libvirt domain, whose agent libvirt asks.
func checkAgentSocket(a *app, path string) error {
	if a.flags.domain != "" {
		return &usageError{errors.New("--agent-socket is for a QEMU without libvirt: with --domain libvirt asks the agent")}
	}
	info, err := os.Stat(path)
	if err != nil {
		return &usageError{fmt.Errorf("--agent-socket: %w", err)}
	}
	if info.Mode().Type() != fs.ModeSocket {
		return &usageError{fmt.Errorf("--agent-socket: %s is not a socket: give that of the chardev of QEMU's virtserialport org.qemu.guest_agent.0", path)}
	}
	return nil
}

// detachedText describes what was detached. domain is the libvirt domain, if any.
func detachedText(d *libvirtvm.Detached, domain string, verbose bool) string {
	switch {
	case len(d.Removed) == 0 && d.Off:
		return fmt.Sprintf("%s did not belong to %s, which is off\n", d.Target, printable.Line(domain))
	case len(d.Removed) == 0:
		return d.Target + " was not attached\n"
	case d.Off:
		return fmt.Sprintf("%s removed from the definition of %s, which is off\n", d.Target, printable.Line(domain))
	}
	text := d.Target + " detached"
	if d.Waited > 0 {
		text += fmt.Sprintf(", the guest released it after %s", d.Waited.Round(time.Millisecond))
	}
	text += "\n"
	if verbose {
		for _, r := range d.Removed {
			text += "  removed " + printable.Line(r) + "\n"
		}
	}
	return text
}

// targets returns the disks that can be detached, for completion in a shell. It returns
// none if the VM does not answer quickly.
func targets(cmd *cobra.Command, a *app) []string {
	if a.flags.complete(cmd) != nil || a.setUp(cmd) != nil {
		return nil
	}
	var out []string
	_ = withVM(cmd.Context(), a, time.Second, func(ctx context.Context, m virtualMachine) error {
		list, err := m.List(ctx)
		if err != nil {
			return err
		}
		for _, d := range listedDisks(list) {
			out = append(out, d.Target)
		}
		return nil
	})
	return out
}
