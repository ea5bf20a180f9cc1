// Command luksplug attaches encrypted disks to running QEMU virtual machines and
// detaches them.
//
// It holds flags, output, exit codes and hints; packages hotplug, blockgraph and
// secrets do the work. Each command is a file with newX, which declares its flags,
// and runX below it. README.md is the reference; `luksplug help` prints a short one.
package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug"
)

// version is set by the linker (see the Makefile).
var version = "unknown"

func main() {
	noCoreFiles()
	a := &app{
		streams: streams{in: os.Stdin, out: os.Stdout, err: os.Stderr},
		uses:    func() ([]hotplug.Use, error) { return hotplug.Uses("") },
	}
	ctx := untilSignal(context.Background(), &a.unfinished, os.Stderr)
	os.Exit(run(ctx, a, os.Args[1:]))
}

// noCoreFiles keeps passphrases out of core files, and other processes of the same
// user out of this one's memory; see prctl(2), PR_SET_DUMPABLE. An error is ignored:
// the program works without it.
func noCoreFiles() {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, a *app, args []string) int {
	started := false
	a.streams = a.escaped()
	root := newRoot(a)
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := a.flags.complete(cmd); err != nil {
			return err
		}
		started = true
		return a.setUp(cmd)
	}
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	err := root.ExecuteContext(ctx)
	a.close()
	if err == nil {
		return exitDone
	}
	if !started { // cobra has refused the command line
		err = &usageError{err}
	}
	a.report(err, a.flags.output == "json" || !started && wantsJSON(args))
	return exitCode(err)
}

func newRoot(a *app) *cobra.Command {
	showVersion := false
	root := &cobra.Command{
		Use:   "luksplug",
		Short: "Attach encrypted disks to running QEMU virtual machines",
		Long: `luksplug attaches LUKS-encrypted disks to running QEMU virtual machines and
detaches them. The LUKS header of a disk may be in a file of its own. An attach
either completes or leaves the VM as it was.

The disk is a libvirt <disk> document. The VM is a bare QEMU, named by its monitor
(--qmp), or a libvirt domain (--domain).`,
		Example: `  luksplug --qmp /run/vm1.qmp --passphrase-file vm1-vdb.key attach vdb.xml
  luksplug --domain vm1 --keystore dir:/run/keys attach vdb.xml
  luksplug --domain vm1 list
  luksplug --domain vm1 detach vdb
  luksplug plan vdb.xml --output svg > vdb.svg
  luksplug cmdline vdb.xml

Exit codes:
  0 done, or nothing to do              5 refused before anything was changed
  1 other failure                       6 failed and completely rolled back
  2 wrong command line or invalid XML   7 failed and something is left behind
  3 a feature that is not supported     8 the guest has not released the device
  4 secret not found or wrong             130 interrupted: a re-encryption goes on`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs, // see RunE
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case showVersion && len(args) == 0:
				return a.showVersion()
			case len(args) > 0 || cmd.Flags().NFlag() > 0:
				return needsCommand(cmd, args)
			}
			return cmd.Help()
		},
	}
	root.Flags().BoolVar(&showVersion, "version", false, "print the version")
	root.SetFlagErrorFunc(unknownFlag)
	a.flags.register(root)
	root.AddCommand(newAttach(a), newDetach(a), newAdopt(a), newList(a), newPlan(a), newCmdline(a), newRepair(a), newSecret(a), newVolume(a), newHook(a), newMigrateCheck(a), newVersion(a), newWatchDaemon(), newWatchKeys(a))
	strictCommands(root)
	groupFlags(root)
	completeNames(a, root)
	return root
}
