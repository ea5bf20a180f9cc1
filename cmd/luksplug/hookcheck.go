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
)

// inOrder returns an error of exit code 5 if a check has found something.
func inOrder(r libvirtvm.Report, reason string) error {
	if r.InOrder() {
		return nil
	}
	return &hotplug.PreflightError{Reason: reason, Err: errNotInOrder}
}

// errNotInOrder: a check has found something.
var errNotInOrder = errors.New("not everything is in order: see above")

func newHookCheck(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Report whether the hook works on this host",
		Long: `check looks at the script, the program that it calls, libvirtd, the configuration
and its key stores, and the place for keys in memory. Nothing is changed, and no
secret is looked up. With the XML of a running domain of another host, it also
reports whether this host could take it over: whether the files of its disks are
here, and their secrets. The exit code is 5 where something is not in order.`,
		Example: "  luksplug hook check\n  luksplug hook check --output json\n  ssh vmhost1 virsh dumpxml vm1 | luksplug hook check --domain-xml -",
		Args:    cobra.NoArgs,
	}
	dir := hooksDirFlag(cmd)
	xml := cmd.Flags().String("domain-xml", "", "a running domain that is to come here: the path of its XML, - for standard input")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.runHookCheck(cmd.Context(), *dir, *xml) }
	return cmd
}

func (a *app) runHookCheck(ctx context.Context, dir, xml string) error {
	i, err := a.installation(dir)
	if err != nil {
		return err
	}
	report, err := a.checkHook(i)
	if err == nil && xml != "" {
		err = a.checkArrival(ctx, xml, &report)
	}
	if err != nil {
		return err
	}
	if err := a.printReport(report); err != nil {
		return err
	}
	return inOrder(report, "the hook does not work on this host")
}

// checkArrival adds whether a domain could come here.
func (a *app) checkArrival(ctx context.Context, path string, report *libvirtvm.Report) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	text, err := a.readInput(path)
	if err != nil {
		return err
	}
	disks, err := hook.Host{Store: &hookStore{app: a}, Log: a.log}.CheckArrival(ctx, text)
	if err != nil {
		return fmt.Errorf("the domain's XML: %w", err)
	}
	for _, d := range disks {
		switch {
		case d.Err == nil:
			report.Goodf("disk %s: its files and secrets are here", d.Target)
		case strings.HasPrefix(d.Err.Error(), "disk "):
			report.Badf("%v", d.Err)
		default:
			report.Badf("disk %s: %v", d.Target, d.Err)
		}
	}
	return nil
}

func (a *app) printReport(r libvirtvm.Report) error {
	for i, f := range r.Findings {
		r.Findings[i].Text += findingHint(f.Cause)
	}
	if a.flags.output == "json" {
		return a.printJSON(r)
	}
	var b strings.Builder
	for _, f := range r.Findings {
		sign := "ok  "
		switch {
		case f.Unchecked:
			sign = "?   "
		case !f.Good:
			sign = "BAD "
		}
		b.WriteString(sign + f.Text + "\n")
	}
	return a.print(b.String())
}

func (a *app) checkHook(i hook.Installation) (libvirtvm.Report, error) {
	out := libvirtvm.Report{}
	add := func(good bool, format string, args ...any) {
		if good {
			out.Goodf(format, args...)
		} else {
			out.Badf(format, args...)
		}
	}
	state, err := i.Check()
	if err != nil && !errors.Is(err, hook.ErrForeignScript) {
		return out, err
	}
	switch {
	case err != nil:
		add(false, "%v", err)
	case state == hook.Other:
		program, _ := i.Installed() // it was read a moment ago
		info, err := os.Stat(program)
		works := err == nil && info.Mode()&0o111 != 0
		add(works, "%s calls another program, or uses another configuration: %s", i.Path(), program)
	default:
		add(state == hook.Current, "%s is %s", i.Path(), state)
	}
	if started, known := hook.LibvirtdStart(); !known {
		add(true, "libvirtd is not running, or not known by its process: if it has run since before the first hook was installed, it has to be restarted once")
	} else if installed, err := os.Stat(i.Path()); err == nil {
		good := i.OtherHook() || started.After(installed.ModTime())
		add(good, "libvirtd runs since %s%s", started.Format("2006-01-02 15:04:05"), map[bool]string{false: ", when it had no hook: restart it once, VMs keep running"}[good])
	}
	c, err := readConfig(a.flags.config)
	if err != nil {
		add(false, "%v", err)
		return out, nil
	}
	if c == nil {
		add(true, "there is no configuration, and the default key store is used")
	}
	store := &hookStore{app: a}
	if err := store.open(); err != nil {
		add(false, "%v", err)
	} else {
		add(true, "key stores: %s", store.names)
	}
	if err := hotplug.CheckRunDir(); err != nil {
		add(false, "%v", err)
	} else {
		add(true, "keys that QEMU reads as it starts are kept in memory")
	}
	return out, nil
}
