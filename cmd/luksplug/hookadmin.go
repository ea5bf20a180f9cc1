package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/aymanbagabas/go-udiff"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/domainxml"
	"github.com/luksplug/luksplug/hotplug/hook"
)

// installation is luksplug as a hook of this host, as the flags have it.
func (a *app) installation(folder string) (hook.Installation, error) {
	program, err := os.Executable()
	if err == nil {
		program, err = filepath.EvalSymlinks(program)
	}
	if err != nil {
		return hook.Installation{}, fmt.Errorf("where this program is: %w", err)
	}
	i := hook.Installation{Folder: folder, Program: program}
	if a.flags.config != "" {
		i.Config, err = filepath.Abs(a.flags.config)
	}
	return i, err
}

func folderFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("hooks-dir", hook.Folder, "libvirt's folder of hooks")
}

func newHookInstall(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Make luksplug a hook of this host's libvirt",
		Long: `install writes one small script into qemu.d of libvirt's hooks folder. The site's
other hooks are not touched. The script calls this very program, and with --config
this very configuration: install it where it stays first.`,
		Example: "  luksplug hook install\n  luksplug --config /etc/luksplug/hook.yaml hook install",
		Args:    cobra.NoArgs,
	}
	folder := folderFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		i, err := a.installation(*folder)
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
	return cmd
}

func newHookUninstall(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "uninstall",
		Short:   "Remove the hook from this host's libvirt",
		Long:    "uninstall removes the script that install has written, and nothing else. Domains with disks of luksplug's no longer start with them.",
		Example: "  luksplug hook uninstall",
		Args:    cobra.NoArgs,
	}
	folder := folderFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		i, err := a.installation(*folder)
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
	return cmd
}

// finding is what a check has found out.
type finding struct {
	Good bool `json:"good"`
	// Unchecked tells that nobody knows, and who has to look.
	Unchecked bool   `json:"unchecked,omitempty"`
	Text      string `json:"text"`
}

// inOrder returns an error of exit code 5 where a check has found something.
func inOrder(findings []finding, reason string) error {
	for _, f := range findings {
		if !f.Good && !f.Unchecked {
			return &hotplug.PreflightError{Reason: reason, Err: errNotInOrder}
		}
	}
	return nil
}

// errNotInOrder: a check has found something.
var errNotInOrder = errors.New("not everything is in order: see above")

func newHookCheck(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Tell whether the hook works on this host",
		Long: `check looks at the script, the program that it calls, libvirtd, the configuration
and its key stores, and the place for keys in memory. Nothing is changed, and no
secret is looked up. With the XML of a running domain of another host, it also
tells whether this host could take it over: whether the files of its disks are
here, and their secrets. The exit code is 5 where something is not in order.`,
		Example: "  luksplug hook check\n  luksplug hook check --output json\n  ssh vmhost1 virsh dumpxml vm1 | luksplug hook check --domain-xml -",
		Args:    cobra.NoArgs,
	}
	folder := folderFlag(cmd)
	xml := cmd.Flags().String("domain-xml", "", "a running domain that is to come here: the path of its XML, - for standard input")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		i, err := a.installation(*folder)
		if err != nil {
			return err
		}
		findings, err := a.checkHook(i)
		if err == nil && *xml != "" {
			findings, err = a.checkArrival(cmd.Context(), *xml, findings)
		}
		if err != nil {
			return err
		}
		if err := a.printFindings(findings); err != nil {
			return err
		}
		return inOrder(findings, "the hook does not work on this host")
	}
	return cmd
}

// checkArrival adds what there is to say of a domain that is to come here.
func (a *app) checkArrival(ctx context.Context, path string, findings []finding) ([]finding, error) {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	text, err := a.readInput(path)
	if err != nil {
		return nil, err
	}
	disks, err := hook.Host{Store: &hookStore{app: a}, Log: a.log}.CheckArrival(ctx, text)
	if err != nil {
		return nil, fmt.Errorf("the domain's XML: %w", err)
	}
	for _, d := range disks {
		f := finding{Good: d.Err == nil, Text: fmt.Sprintf("disk %s: its files and secrets are here", d.Target)}
		if d.Err != nil {
			f.Text = oneLine(d.Err.Error())
			if !strings.HasPrefix(f.Text, "disk ") {
				f.Text = "disk " + d.Target + ": " + f.Text
			}
		}
		findings = append(findings, f)
	}
	return findings, nil
}

func (a *app) printFindings(findings []finding) error {
	if a.flags.output == "json" {
		return a.printJSON(struct {
			Findings []finding `json:"findings"`
		}{findings})
	}
	var b strings.Builder
	for _, f := range findings {
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

func (a *app) checkHook(i hook.Installation) ([]finding, error) {
	var out []finding
	add := func(good bool, format string, args ...any) {
		out = append(out, finding{Good: good, Text: fmt.Sprintf(format, args...)})
	}
	state, err := i.Check()
	if err != nil && !errors.Is(err, hook.ErrForeignScript) {
		return nil, err
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

func newHookEnable(a *app) *cobra.Command {
	e := hook.Enabling{}
	apply := applyFlags{}
	cmd := &cobra.Command{
		Use:   "enable DOMAIN",
		Short: "Give a domain what the hook needs: a monitor, and root ports",
		Long: `enable adds to the domain's definition a monitor of luksplug's own, through which
disks are plugged as it starts, and root ports that libvirt gives to no other
device. With --cold-plug its disks are among QEMU's arguments instead, so that the
guest can boot from them. It shows what is changed and asks; libvirt validates it.
It takes effect when the domain is started next.`,
		Example: "  luksplug hook enable vm1\n  luksplug hook enable vm1 --cold-plug --ports 4 --yes\n  luksplug hook enable vm1 --dry-run",
		Args:    argument("DOMAIN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeDefinition(cmd.Context(), args[0], apply, func(ctx context.Context, doc *domainxml.Document) (*domainxml.Document, error) {
				return hook.Definition{}.Enable(ctx, doc, e)
			})
		},
	}
	cmd.Flags().IntVar(&e.Ports, "ports", 4, fmt.Sprintf("root ports for luksplug's disks, at most %d", hook.MaxPorts))
	cmd.Flags().BoolVar(&e.ColdPlug, "cold-plug", false, "have the disks among QEMU's arguments, so that the guest can boot from them")
	apply.register(cmd)
	return cmd
}

func newHookDisable(a *app) *cobra.Command {
	apply := applyFlags{}
	cmd := &cobra.Command{
		Use:     "disable DOMAIN",
		Short:   "Take from a domain what enable has given it",
		Long:    "disable removes luksplug's monitor and root ports from the domain's definition, which must have none of its disks any more. It shows what is changed and asks.",
		Example: "  luksplug hook disable vm1",
		Args:    argument("DOMAIN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changeDefinition(cmd.Context(), args[0], apply, func(_ context.Context, doc *domainxml.Document) (*domainxml.Document, error) {
				return hook.Definition{}.Disable(doc)
			})
		},
	}
	apply.register(cmd)
	return cmd
}

// applyFlags say whether a change that was shown is made.
type applyFlags struct{ yes, dry bool }

func (f *applyFlags) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&f.dry, "dry-run", false, "show what would be changed, and change nothing")
}

// errNotConfirmed: nobody has said that a change be made.
var errNotConfirmed = errors.New("nothing was changed: there is no terminal to ask at, so give --yes")

// changeDefinition shows what is going to be changed in a domain's definition, and
// changes it.
func (a *app) changeDefinition(ctx context.Context, name string, apply applyFlags, change func(context.Context, *domainxml.Document) (*domainxml.Document, error)) error {
	if a.flags.domain != "" && a.flags.domain != name {
		return &usageError{fmt.Errorf("--domain %s and the argument %s name two domains", a.flags.domain, name)}
	}
	a.flags.domain = name
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	d, err := a.openDomain(ctx)
	if err != nil {
		return err
	}
	before, err := d.definition(ctx)
	if err != nil {
		return err
	}
	after, err := change(ctx, before)
	if errors.Is(err, hook.ErrDisks) || errors.Is(err, hook.ErrPorts) {
		return &hotplug.PreflightError{Reason: "the definition of domain " + name + " is not changed", Err: err}
	}
	if err != nil {
		return err
	}
	difference := udiff.Unified(name+" (now)", name+" (changed)", string(before.Text()), string(after.Text()))
	if a.flags.output == "json" {
		if err := a.printJSON(struct {
			Changed    bool   `json:"changed"`
			Difference string `json:"difference"`
		}{difference != "" && !apply.dry && apply.yes, difference}); err != nil {
			return err
		}
	} else if difference == "" {
		return a.print(name + " has it already\n")
	} else if err := a.print(difference); err != nil {
		return err
	}
	if difference == "" || apply.dry {
		return nil
	}
	if !apply.yes {
		if err := a.confirm("change the definition of " + name); err != nil {
			return err
		}
	}
	return d.redefine(ctx, func(doc *domainxml.Document) (*domainxml.Document, error) { return change(ctx, doc) })
}

// confirm asks whoever sits at the terminal.
func (a *app) confirm(what string) error {
	in, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return &usageError{errNotConfirmed}
	}
	if _, err := fmt.Fprintf(a.err, "luksplug: %s? [y/N] ", what); err != nil {
		return err
	}
	var answer string
	if _, err := fmt.Fscanln(in, &answer); err != nil && !errors.Is(err, io.EOF) && answer != "" {
		return err
	}
	if strings.ToLower(answer) != "y" && strings.ToLower(answer) != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}
