package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/internal/libvirtconn"
)

// hostsDomain reports whether the domains of the commands are this host's, and this user is
// the one that libvirt's hook runs as. Otherwise the hook cannot be examined.
func hostsDomain(a *app) (bool, error) {
	uri, err := a.libvirtURI()
	if err != nil {
		return false, err
	}
	u, err := libvirtconn.Parse(uri.text)
	if err != nil {
		return false, uri.explain(err)
	}
	return u.Local() && u.Session == (os.Geteuid() != 0), nil
}

// hookEffective returns why libvirt of this host does not run the hook, nil if it does or if
// this user may not look.
func hookEffective(a *app) error {
	i, err := installation(a, "")
	if err == nil {
		err = i.Effective()
	}
	if errors.Is(err, fs.ErrPermission) {
		a.log.Warnf("whether libvirt runs luksplug's hook is unknown: %v", err)
		return nil
	}
	return err
}

// checkEffective refuses a change that the hook must follow, if it is not run.
func checkEffective(a *app, domain string) error {
	here, err := hostsDomain(a)
	if err != nil {
		return err
	}
	if !here {
		a.log.Warnf("whether the host of domain %s runs luksplug's hook is not known here: run 'luksplug hook check' there, as the user of its libvirt", domain)
		return nil
	}
	if err := hookEffective(a); err != nil {
		return &hotplug.PreflightError{Reason: "the definition of domain " + domain + " is not changed, because it would not start", Err: err}
	}
	return nil
}

// asHook returns the program as libvirt runs it: with the configuration of the installed
// script, without the flags and the terminal of this run.
func (a *app) asHook() (*app, error) {
	i, err := installation(a, "")
	if err != nil {
		return nil, err
	}
	h := &app{streams: a.streams, flags: a.flags, uses: a.uses, log: a.log, trace: a.trace, progress: a.progress, inherited: a.inherited,
		exposed: a.exposed, readSource: a.readSource, vm: a.vm}
	h.flags.keystores, h.flags.passphrase, h.flags.config = nil, "", i.InstalledConfig()
	return h, nil
}

// startCheck returns the check of a domain's next start, nil if it cannot be made here.
func startCheck(a *app) (func(context.Context, libvirtvm.NextStart) error, error) {
	here, err := hostsDomain(a)
	if err != nil || !here {
		return nil, err
	}
	return func(ctx context.Context, next libvirtvm.NextStart) error {
		if err := hookEffective(a); err != nil {
			return err
		}
		disks, warnings, err := examineStart(ctx, a, next)
		if err != nil {
			return err
		}
		log := a.log.WithField("disk", next.Target)
		for _, d := range disks {
			switch {
			case d.Err == nil:
			case d.Optional && !errors.Is(d.Err, hook.ErrNoMonitor):
				log.Warnf("the domain would start without it, since it is optional: %s", withHint(d.Err))
			default:
				return d.Err
			}
		}
		for _, w := range warnings {
			log.Warn(w)
		}
		return nil
	}, nil
}

// examineStart does what the hook does before its first change when the domain starts.
func examineStart(ctx context.Context, a *app, next libvirtvm.NextStart) ([]hook.DiskCheck, []string, error) {
	h, err := a.asHook()
	if err != nil {
		return nil, nil, err
	}
	c, _, err := readConfig(h.flags.config)
	if err != nil {
		return nil, nil, err
	}
	options := h.storeOptions()
	options.Prompt = nil // a hook has no terminal
	store := &hookStore{app: h, options: options}
	e := hook.Event{Domain: next.Domain, Operation: hook.Prepare, XML: next.XML}
	disks, err := hookHost(h, e, c, store).CheckStart(ctx, hook.StartCheck{Domain: next.Domain, XML: next.XML, Target: next.Target})
	warnings := e.Warnings()
	for _, name := range store.found.inMemory() {
		warnings = append(warnings, "a secret is in the key store "+name+", which is in memory: after a reboot of the host the domain does not start until it is there again")
	}
	warnings = append(warnings, store.found.unlocked(ctx)...)
	return disks, warnings, err
}

// checkDomain adds whether the domain of --domain would start with its disks.
func checkDomain(ctx context.Context, a *app, report *libvirtvm.Report) error {
	here, err := hostsDomain(a)
	if err != nil {
		return err
	}
	if !here {
		return &usageError{errors.New("--domain is of another host or user: run 'luksplug hook check' there, as the user of its libvirt")}
	}
	return withDomain(ctx, a, a.flags.domain, func(ctx context.Context, d *libvirtvm.Domain) error {
		next, err := d.NextStart(ctx)
		if err != nil {
			return err
		}
		if e := (hook.Event{Domain: next.Domain, XML: next.XML}); !e.Concerns() {
			report.Warnf("domain %s has nothing of luksplug's: 'luksplug hook enable %s' gives it what persistent disks need", next.Domain, next.Domain)
			return nil
		}
		disks, warnings, err := examineStart(ctx, a, next)
		if err != nil {
			report.Badf("domain %s does not start: %s", next.Domain, withHint(err))
		}
		for _, d := range disks {
			text := ""
			if d.Err != nil {
				text = "disk " + d.Target + ": " + strings.TrimPrefix(withHint(d.Err), "disk "+d.Target+": ")
			}
			switch {
			case d.Err == nil:
				report.Goodf("disk %s: the domain starts with it", d.Target)
			case d.Optional:
				report.Warnf("the domain starts without its optional disk: %s", text)
			default:
				report.Badf("the domain does not start: %s", text)
			}
		}
		if err == nil && len(disks) == 0 {
			report.Goodf("domain %s starts: it has luksplug's monitor, and no disk", next.Domain)
		}
		for _, w := range warnings {
			report.Warnf("%s", w)
		}
		return nil
	})
}

// errEnabled reports that domains need the hook.
var errEnabled = errors.New("domains of this host need it")

// checkUnneeded refuses to uninstall the hook while domains need it.
func checkUnneeded() error {
	names, err := hook.HostVMs().Enabled()
	if err != nil || len(names) == 0 {
		return err
	}
	return &hotplug.PreflightError{Cause: errEnabled, Reason: fmt.Sprintf("the hook stays, because domains need it to start, or have disks of luksplug's: %s: detach their disks, and run 'luksplug hook disable' for each", strings.Join(names, ", "))}
}
