package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/internal/shell"
	"github.com/luksplug/luksplug/secrets/keystore"
)

func newHookCheck(a *app) *cobra.Command {
	var xml string
	run := func(ctx context.Context, a *app, i hook.Installation) error { return runHookCheck(ctx, a, i, xml) }
	cmd := onInstallation(a, run, &cobra.Command{
		Use:   "check",
		Short: "Report whether the hook works on this host",
		Long: `check examines the script, the program that it calls, libvirtd, the configuration
and its key stores, the directory for keys in memory, and the key that signs
records. It changes nothing and looks up no secret. With --domain it also reports
whether the domain would start now: it does what the hook does before its first
change, and derives keys as well. With --domain-xml, the XML of a running domain of another host,
it also reports whether this host can take the domain over: whether it has the files
of the domain's disks and their secrets. The exit code is 5 if a check fails.`,
		Example: "  luksplug hook check\n  luksplug hook check --output json\n  luksplug --domain vm1 hook check\n  ssh vmhost1 virsh dumpxml vm1 | luksplug hook check --domain-xml -",
		Args:    arguments(),
	})
	cmd.Flags().StringVar(&xml, "domain-xml", "", "a running domain that is to be migrated to this host: the path of its XML, - for standard input")
	return cmd
}

func runHookCheck(ctx context.Context, a *app, i hook.Installation, xml string) error {
	report := libvirtvm.Report{}
	if err := checkScript(i, &report); err != nil {
		return err
	}
	checkLibvirtd(i, &report)
	store := &hookStore{app: a, options: a.storeOptions()}
	checkKeys(ctx, a, store, &report)
	checkRecordKey(a, &report)
	if a.flags.domain != "" {
		if err := checkDomain(ctx, a, &report); err != nil {
			return err
		}
	}
	if xml != "" {
		if err := checkArrival(ctx, a, store, xml, &report); err != nil {
			return err
		}
	}
	return showReport(a, report, "the hook does not work on this host")
}

// checkScript adds whether the script is the one that install writes.
func checkScript(i hook.Installation, report *libvirtvm.Report) error {
	state, err := i.Check()
	switch {
	case errors.Is(err, hook.ErrForeignScript):
		report.Badf("%v", err)
	case err != nil:
		return err
	case state == hook.Other:
		program, _ := i.Installed() // Check has just read it
		info, err := os.Stat(program)
		add := report.Badf
		if err == nil && info.Mode()&0o111 != 0 {
			add = report.Goodf
		}
		add("%s calls another program, or uses another configuration: %s", i.Path(), program)
	case state == hook.Current:
		report.Goodf("%s is %s", i.Path(), state)
	default:
		report.Badf("%s is %s", i.Path(), state)
	}
	return nil
}

// checkLibvirtd adds whether libvirtd runs hooks: it looks for them only when it starts.
func checkLibvirtd(i hook.Installation, report *libvirtvm.Report) {
	started, known := hook.LibvirtdStart()
	if !known {
		report.Goodf("libvirtd is not running, or its process was not found: if it was started before the first hook was installed, restart it once")
		return
	}
	if _, err := os.Stat(i.Path()); err != nil {
		return
	}
	since := started.Format("2006-01-02 15:04:05")
	if !i.Skipped() {
		report.Goodf("libvirtd runs since %s", since)
	} else {
		report.Badf("libvirtd runs since %s, when it had no hook, and runs none, also no other one that was added since: restart it once, VMs keep running", since)
	}
}

// checkKeys adds whether the configuration, its key stores and the directory for keys are
// usable.
func checkKeys(ctx context.Context, a *app, store *hookStore, report *libvirtvm.Report) {
	c, found, err := readConfig(a.flags.config)
	if err != nil {
		report.Badf("%v", err)
		return
	}
	if !found {
		report.Goodf("there is no configuration, and the default key store is used")
	}
	if err := store.open(); err != nil {
		report.Badf("%v", err)
	} else {
		report.Goodf("key stores: %s", store.names)
		// A state that is unknown concerns only the domains whose secrets are there.
		states, _ := statesOf(ctx, store.stores)
		for _, s := range states {
			switch s.State {
			case storeLocked:
				report.Warnf("key store %s: domains with secrets in it do not start: run 'luksplug secret unlock %s'", s, shell.Word(s.Store))
			case storeUnlocked:
				report.Goodf("key store %s", s)
			}
		}
		checkVMKeys(ctx, a, report)
	}
	report.Goodf("%s", boundText(c))
	if err := hotplug.CheckRunDir(); err != nil {
		report.Badf("%v", err)
	} else {
		report.Goodf("keys that QEMU reads as it starts are kept in memory")
	}
}

// checkVMKeys adds whether the keys of VMs in stores of the kind vm: can be kept on the disk.
func checkVMKeys(ctx context.Context, a *app, report *libvirtvm.Report) {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	names, err := a.storeNames()
	if err != nil {
		return // which opening the stores reports
	}
	for _, uri := range names.uris {
		places, found, err := keystore.VMKeys(uri, a.storeOptions())
		switch {
		case err != nil || !found:
		case places.Disk == "":
			report.Goodf("keys of VMs in %s stay in memory, and a reboot of the host takes them", places.Memory)
		default:
			if err := places.CheckDisk(ctx); err != nil {
				report.Warnf("keys of VMs stay in memory, and a reboot of the host takes them: they cannot be encrypted for %s: %v", places.Disk, err)
			} else {
				report.Goodf("keys of domains that are defined are kept in %s, encrypted", places.Disk)
			}
		}
	}
}

// checkRecordKey adds whether the key that signs records is usable.
func checkRecordKey(a *app, report *libvirtvm.Report) {
	path, err := a.recordKey()
	if err == nil {
		report.RecordKey, err = hook.CheckKey(path)
	}
	if err != nil {
		report.Badf("%v: 'luksplug hook install' makes a missing one", err)
		return
	}
	report.Goodf("records are signed with %s, whose fingerprint is %s", path, report.RecordKey)
}

// boundText says for which disks secrets that are bound to a volume are used.
func boundText(c configuration) string {
	if c.Hook.AnyVolume {
		return "secrets that are bound to a volume are used for any disk: hook, any-volume is set in the configuration"
	}
	return "secrets that are bound to a volume are used for disks of that volume only"
}

// checkArrival adds whether the domain of the XML at path can be migrated to this host.
func checkArrival(ctx context.Context, a *app, store *hookStore, path string, report *libvirtvm.Report) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	text, err := a.readInput(ctx, path)
	if err != nil {
		return err
	}
	key, err := a.recordKey()
	if err != nil {
		return err
	}
	c, _, err := readConfig(a.flags.config)
	if err != nil {
		return err
	}
	host := hook.Host{Store: store.store(), AnyVolume: c.Hook.AnyVolume, Log: a.log, RecordKey: key}
	disks, err := host.CheckArrival(ctx, text)
	if errors.Is(err, hook.ErrUnverified) {
		report.Badf("the domain does not start here: %v", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("the domain's XML: %w", err)
	}
	for _, w := range (hook.Event{XML: text}).Warnings() {
		report.Warnf("%s", w)
	}
	for _, d := range disks {
		switch {
		case d.Err == nil:
			report.Goodf("disk %s: its files and secrets are here", d.Target)
		case strings.HasPrefix(d.Err.Error(), "disk "):
			report.Badf("%s", withHint(d.Err))
		default:
			report.Badf("disk %s: %s", d.Target, withHint(d.Err))
		}
	}
	return nil
}
