package main

import (
	"errors"
	"io/fs"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// causeHint says what the command line has against a cause that a library reports.
// Libraries know nothing of flags.
type causeHint struct {
	cause error
	hint  string
}

// causeHints are in the order in which they are looked at: the narrower cause first.
var causeHints = []causeHint{
	{libvirtvm.ErrRecorded, "detach it with --persistent first, or give this one another target"},
	{libvirtvm.ErrDisks, "detach them with --persistent first"},
	{hotplug.ErrHeaderInUse, "--allow-shared-header allows a header that another disk uses"},
	{hotplug.ErrRelabelWouldHelp, "attach with --relabel, which gives them to QEMU's user for as long as the disk is attached"},
	{hotplug.ErrRelabelNeedsRoot, "--relabel takes root"},
	{qmp.ErrTLSKeyPassphrase, "--tls-secret names the secret of the TLS client's key"},
	{qmp.ErrTLSCredentials, "--tls-dir names the directory of the TLS client's files"},
	{qmp.ErrTLSRefused, "--tls-dir names the directory of the TLS client's files, certificate or keys.psk"},
	{blockgraph.ErrUnknownPool, "give the pool's XML by --pool-xml, or have libvirt asked by --domain"},
	{blockgraph.ErrNoDescriptors, "--unlock auto or --unlock qemu opens the disk in the VM's QEMU"},
	{hotplug.ErrExternalWouldHelp, "--unlock external avoids that"},
}

// unhinted are the causes of refusals whose messages say all that there is to do: no
// flag changes anything.
var unhinted = []error{
	hotplug.ErrTargetTaken, hotplug.ErrNameTaken, hotplug.ErrImageInUse, hotplug.ErrImageUnusable, hotplug.ErrReadOnlyImage,
	hotplug.ErrHeaderUnusable, hotplug.ErrUnexpectedEncryption, hotplug.ErrPermission, hotplug.ErrServer, hotplug.ErrNotBesideVM,
	hotplug.ErrHelperProcess, hotplug.ErrHostDevice, hotplug.ErrOverlay, hotplug.ErrReservations, hotplug.ErrNotRecorded,
}

// hintOf returns the hint against the cause of an error, "" for none.
func hintOf(err error) string {
	for _, c := range causeHints {
		if errors.Is(err, c.cause) {
			return c.hint
		}
	}
	return ""
}

// hint returns what the user can do about an error, by flags and commands; "" for
// nothing.
func (a *app) hint(err error) string {
	switch {
	case (errors.Is(err, qmp.ErrWrongPassphrase) || errors.Is(err, luks.ErrWrongPassphrase)) && a.newline:
		return "the passphrase ends in a newline, which counts as part of it: write the file without one (printf %s)"
	case errors.Is(err, libvirtvm.ErrNoPort):
		return "run luksplug hook enable " + a.flags.domain + ", or use bus='scsi' with an existing controller"
	case lacksHeader(err):
		return "--unlock external has a storage daemon unlock the disk"
	}
	if hint := hintOf(err); hint != "" {
		return hint
	}
	if errors.Is(err, fs.ErrPermission) && !errors.Is(err, secrets.ErrDenied) {
		return "run luksplug as a user who may open it, usually root"
	}
	return ""
}

// lacksHeader reports whether the VM's QEMU does not have detached LUKS headers.
func lacksHeader(err error) bool {
	var lacking *hotplug.VersionError
	return errors.As(err, &lacking) && lacking.Feature.Element == "disk/source/encryption/header"
}

// hintedLog adds hints to log entries that have a cause. It implements [logrus.Hook].
type hintedLog struct{}

// Levels implements [logrus.Hook].
func (hintedLog) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements [logrus.Hook].
func (hintedLog) Fire(e *logrus.Entry) error {
	cause, ok := e.Data[hotplug.CauseField].(error)
	if !ok {
		return nil
	}
	delete(e.Data, hotplug.CauseField) // its text is in the message
	if hint := hintOf(cause); hint != "" {
		e.Message += " (" + hint + ")"
	}
	return nil
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
