package main

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
	"github.com/luksplug/luksplug/secrets/keystore"
)

func newPlan(a *app) *cobra.Command {
	var about planFlags
	var unlock unlockFlag
	cmd := &cobra.Command{
		Use:   "plan DISK.xml",
		Short: "Show the steps of an attach without doing them",
		Long: `plan shows what attach would do, and needs neither a VM nor a secret. With --qmp
or --domain it plans for that VM as it is now; with --domain-xml for the VM that
the document describes; otherwise the device's place is left to QEMU.

For a running VM the plan is that of attach, which unlocks LUKS volumes outside
of QEMU. Without one it is the graph that QEMU has from its start, which unlocks
them itself; --unlock says otherwise.`,
		Example: `  luksplug plan vdb.xml
  luksplug --domain vm1 plan vdb.xml
  virsh dumpxml vm1 > vm1.xml; luksplug plan --domain-xml vm1.xml --output json vdb.xml
  luksplug plan vdb.xml --output dot | dot -Tpng > vdb.png`,
		Annotations: map[string]string{outputs: "dot mermaid svg"},
		Args:        argument("DISK.xml"),
		RunE: func(cmd *cobra.Command, args []string) error {
			plan, err := a.plan(cmd.Context(), args[0], about, hotplug.UnlockMode(unlock))
			if err != nil {
				return err
			}
			switch a.flags.output {
			case "json":
				text, err := plan.JSON()
				if err != nil {
					return err
				}
				return a.print(string(text))
			case "dot":
				return a.print(plan.Graph.DOT())
			case "mermaid":
				return a.print(plan.Graph.Mermaid())
			case "svg":
				return a.print(plan.Graph.SVG())
			}
			return a.print(plan.Text())
		},
	}
	about.register(cmd)
	unlock.register(cmd)
	return cmd
}

// planFlags are what a plan goes by besides the disk.
type planFlags struct {
	imageFlags
	domainXML string
}

func (f *planFlags) register(cmd *cobra.Command) {
	f.imageFlags.register(cmd)
	cmd.Flags().StringVar(&f.domainXML, "domain-xml", "", "plan for the libvirt domain of this document")
}

// plan builds the plan of a disk for the VM that the flags name, for the one of
// a domain document, or for none in particular.
func (a *app) plan(ctx context.Context, path string, about planFlags, mode hotplug.UnlockMode) (*blockgraph.Plan, error) {
	live := a.flags.qmp != "" || a.flags.domain != ""
	if live && about.domainXML != "" {
		return nil, &usageError{fmt.Errorf("give --domain-xml, or a running VM by --qmp or --domain, not both")}
	}
	disk, err := a.readDisk(ctx, path, about.imageFlags)
	if err != nil {
		return nil, err
	}
	if live {
		var plan *blockgraph.Plan
		ctx, cancel := a.bounded(ctx)
		defer cancel()
		err := a.withVM(ctx, func(ctx context.Context, vm *hotplug.VM) error {
			state, err := vm.State(ctx)
			if err != nil {
				return err
			}
			unlocking, err := vm.ChooseUnlock(ctx, disk, state, mode)
			if err != nil {
				return err
			}
			plan, err = vm.Plan(ctx, disk, state, unlocking.Unlock)
			return err
		})
		return plan, err
	}
	var machine blockgraph.Machine
	if about.domainXML != "" {
		data, err := a.readInput(about.domainXML)
		if err != nil {
			return nil, &usageError{fmt.Errorf("read the domain XML: %w", err)}
		}
		if machine, err = blockgraph.ParseDomain(data); err != nil {
			return nil, &usageError{err}
		}
	}
	graph, err := blockgraph.Build(disk, machine, offline(disk, mode))
	if err != nil {
		return nil, err
	}
	for _, w := range graph.Warnings {
		a.log.WithField("disk", disk.Target).Warn(w)
	}
	return graph.Plan(), nil
}

// offline says how a volume is opened in a VM that nobody can look at.
func offline(disk *blockgraph.Disk, mode hotplug.UnlockMode) blockgraph.Unlock {
	switch mode {
	case hotplug.UnlockAuto:
		return blockgraph.Unlock{Way: blockgraph.ByHeader}
	case hotplug.UnlockExternal:
		return blockgraph.Unlock{Way: blockgraph.ByDaemon, Folder: filepath.Join("/run/luksplug/vm/UUID", disk.Target)}
	}
	return blockgraph.Unlock{Way: blockgraph.ByQEMU}
}

// secretFolder is where cmdline tells QEMU to find secrets when the user does
// not say: on tmpfs, and laid out as a dir: key store.
const secretFolder = "/run/luksplug/secrets"

func newCmdline(a *app) *cobra.Command {
	var about planFlags
	cmd := &cobra.Command{
		Use:   "cmdline DISK.xml",
		Short: "Print the disk as QEMU arguments",
		Long: `cmdline prints the -object, -blockdev and -device arguments that give a VM the
disk from its start, quoted for a shell. They hold no passphrase: QEMU reads it
from a file when it starts, the one of --passphrase-file or --keystore dir:PATH,
else one in ` + secretFolder + `. The note on standard error says which.`,
		Example: `  luksplug cmdline vdb.xml --passphrase-file /run/keys/vm1-vdb
  eval "qemu-system-x86_64 -machine q35 -m 2G $(luksplug cmdline vdb.xml --keystore dir:/run/keys)"`,
		Args: argument("DISK.xml"),
		RunE: func(cmd *cobra.Command, args []string) error {
			plan, err := a.plan(cmd.Context(), args[0], about, hotplug.UnlockQEMU)
			if err != nil {
				return err
			}
			arguments, err := plan.Arguments(a.secretFile)
			if err != nil {
				return err
			}
			if a.flags.output == "json" {
				return a.printJSON(arguments)
			}
			return a.print(blockgraph.QuoteArguments(arguments))
		},
	}
	about.register(cmd)
	return cmd
}

// secretFile says which file QEMU is to read a passphrase from, and tells the
// user.
func (a *app) secretFile(o blockgraph.GraphObject) (string, error) {
	if data, ok := o.Secret(); ok && data.Text != "" {
		path := filepath.Join(secretFolder, o.ID)
		_, err := fmt.Fprintf(a.err, "luksplug: no cookies are in these arguments: write those of the XML into %s, as name=value; name=value, readable only for QEMU's user\n", path)
		return path, err
	}
	path := filepath.Join(secretFolder, dir.FileName(o.Ref))
	switch spec := a.flags.passphrase; {
	case spec == "-", strings.HasPrefix(spec, "fd:"):
		return "", &usageError{fmt.Errorf("--passphrase-file %s is gone when QEMU starts: give the path of a file", spec)}
	case spec != "":
		path = spec
	default:
		file, err := a.valueFile(o.Ref)
		if err != nil {
			return "", err
		}
		if file != "" {
			path = file
		}
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	_, err = fmt.Fprintf(a.err, "luksplug: no passphrase is in these arguments: QEMU reads the one with %s from %s as it starts, every byte of the file; keep it on tmpfs, readable only for QEMU's user\n", o.Ref, path)
	return path, err
}

// valueFile returns the file of the first key store, "" where none was named. Only
// a dir: store has its values in files that QEMU can read. No value is looked up.
func (a *app) valueFile(ref secrets.Reference) (string, error) {
	uris, _, from, err := a.keystoreURIs()
	if err != nil || len(uris) == 0 {
		return "", err
	}
	store, err := keystore.Open(uris[0], keystore.Options{})
	if folder, ok := store.(*dir.Store); ok && err == nil {
		return folder.ValueFile(context.Background(), ref), nil
	}
	if err != nil || from != fromFlag {
		return "", err // the configuration is about luksplug itself
	}
	return "", &usageError{fmt.Errorf("QEMU cannot read key store %s: give --keystore dir:PATH, or --passphrase-file", store)}
}

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  luksplug version\n  luksplug version --output json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.flags.output == "json" {
				return a.printJSON(map[string]string{"version": version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH})
			}
			return a.print(fmt.Sprintf("luksplug %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH))
		},
	}
}
