// Command luksplug plugs encrypted disks into running QEMU virtual machines,
// and takes them out again.
//
// It is a thin shell around packages blockgraph, secrets and hotplug: flags,
// output and exit codes live here, and nothing about block nodes or keys does.
// README.md is its reference; `luksplug help` prints the short one.
package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug"
)

// version is set by the linker (see the Makefile).
var version = "unknown"

func main() {
	noCoreFiles()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	// The first signal cancels what is going on, which is then rolled back. A
	// second one ends the program at once, as users expect.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], streams{in: os.Stdin, out: os.Stdout, err: os.Stderr}))
}

// noCoreFiles keeps passphrases out of core files, and other processes of the
// same user out of this one's memory; see prctl(2), PR_SET_DUMPABLE. Without it
// the program works just as well, so a kernel that refuses is no reason to end.
func noCoreFiles() {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}

// keepDescriptors keeps what the caller left open, such as the pipe of a
// passphrase, from the programs that are started here. It needs Linux 5.11; an
// older kernel's callers know what they leave open.
func keepDescriptors() {
	const firstInherited = 3
	_ = unix.CloseRange(firstInherited, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
}

// streams are the program's standard streams.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, s streams) int {
	a := &app{streams: s, uses: func() ([]hotplug.Use, error) { return hotplug.Uses("") }}
	return a.run(ctx, args)
}

func (a *app) run(ctx context.Context, args []string) int {
	s := a.streams
	root := newRoot(a)
	root.SetArgs(args)
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	err := root.ExecuteContext(ctx)
	a.close()
	if err == nil {
		return exitDone
	}
	if !a.started {
		// The command line itself was wrong: cobra has said so before any
		// command was begun.
		err = &usageError{err}
	}
	_, _ = fmt.Fprintf(s.err, "luksplug: %s\n", oneLine(err.Error()))
	if hint := a.hint(err); hint != "" {
		_, _ = fmt.Fprintf(s.err, "luksplug: hint: %s\n", hint)
	}
	return exitCode(err)
}

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "luksplug",
		Short: "Plug encrypted disks into running QEMU virtual machines",
		Long: `luksplug attaches LUKS-encrypted disks to running QEMU virtual machines, also
those whose LUKS header is in a file of its own, and detaches them again. An
attach either stands completely or leaves the VM as it was.

The disk is a libvirt <disk> document. The VM is a bare QEMU's monitor (--qmp) or
a libvirt domain (--domain).`,
		Example: `  luksplug --qmp /run/vm1.qmp --passphrase-file vm1-vdb.key attach vdb.xml
  luksplug --domain vm1 --keystore dir:/run/keys attach vdb.xml
  luksplug --domain vm1 list
  luksplug --domain vm1 detach vdb
  luksplug plan vdb.xml --output svg > vdb.svg
  luksplug cmdline vdb.xml

Exit codes:
  0 done, also when it already was      5 refused before anything was changed
  1 other failure                       6 failed and completely rolled back
  2 usage or invalid XML                7 failed and something is left behind
  3 a feature that is not supported     8 the guest has not released the device
  4 secret not found or wrong`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.flags.check(cmd); err != nil {
				return err
			}
			a.started = true
			return a.setUp(cmd)
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	a.flags.register(root)
	root.AddCommand(newAttach(a), newDetach(a), newList(a), newPlan(a), newCmdline(a), newRepair(a), newSecret(a), newHook(a), newMigrateCheck(a), newVersion(a), newWatchDaemon(a))
	strictCommands(root)
	return root
}
