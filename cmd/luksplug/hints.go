package main

import (
	"errors"
	"io/fs"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// hint returns what the user can do about an error, by flags and commands, which the
// library knows nothing of; "" for nothing.
func (a *app) hint(err error) string {
	switch {
	case (errors.Is(err, qmp.ErrWrongPassphrase) || errors.Is(err, luks.ErrWrongPassphrase)) && a.newline:
		return "the passphrase ends in a newline, which counts as part of it: write the file without one (printf %s)"
	case errors.Is(err, libvirtvm.ErrRecorded):
		return "detach it with --persistent first, or give this one another target"
	case errors.Is(err, libvirtvm.ErrNoPort):
		return "run luksplug hook enable " + a.flags.domain + ", or use bus='scsi' with an existing controller"
	case errors.Is(err, libvirtvm.ErrDisks):
		return "detach them with --persistent first"
	case errors.Is(err, fs.ErrPermission) && !errors.Is(err, secrets.ErrDenied):
		return "run luksplug as a user who may open it, usually root"
	case errors.Is(err, blockgraph.ErrUnknownPool):
		return "give the pool's XML by --pool-xml, or have libvirt asked by --domain"
	case errors.Is(err, blockgraph.ErrNoDescriptors):
		return "--unlock auto or --unlock qemu opens the disk in the VM's QEMU"
	case lacksHeader(err):
		return "--unlock external has a storage daemon unlock the disk"
	}
	return ""
}

// lacksHeader reports whether the VM's QEMU does not have detached LUKS headers.
func lacksHeader(err error) bool {
	var lacking *hotplug.VersionError
	return errors.As(err, &lacking) && lacking.Feature.Element == "disk/source/encryption/header"
}

// findingHint returns what the user can do about a finding, as the end of its text.
func findingHint(cause libvirtvm.Cause) string {
	switch cause {
	case libvirtvm.CauseSecretNeeded:
		return ": give --prepare, and run 'luksplug repair' after the migration"
	case libvirtvm.CauseNoShell:
		return "; give --shell, or run there: luksplug hook check --domain-xml FILE"
	}
	return ""
}
