package main

import (
	"errors"
	"io/fs"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// causeHints maps causes of the libraries, which know no flags, to the flags that help. A
// hint follows the error or log message in parentheses. The first match counts, so
// narrower causes come first.
var causeHints = []struct {
	cause error
	hint  string
}{
	{diskxml.ErrNotOneDisk, "use --target to choose a disk, such as --target vdb"},
	{libvirtvm.ErrRecorded, "detach that disk with --persistent first, or give this one another target"},
	{libvirtvm.ErrKeyFile, "correct the file, and run 'luksplug hook check'"},
	{libvirtvm.ErrNotHere, "run 'luksplug --domain VM repair --adopt' there"},
	{libvirtvm.ErrUnverified, "run 'luksplug --domain VM repair --adopt' as root on its host, which shows the record and signs it"},
	{libvirtvm.ErrDisks, "detach the disks with --persistent first"},
	{secrets.ErrOtherVolume, "hook, any-volume: true in " + configPath + " lets the hook use bound secrets for any disk"},
	{hotplug.ErrHeaderInUse, "attach with --allow-shared-header to use the header of another disk"},
	{hotplug.ErrGuestHeader, "attach with --allow-guest-header if the guest has written the header into its own disk"},
	{hotplug.ErrPayloadSignature, "attach with --allow-signature if this is ciphertext that looks so by chance"},
	{hotplug.ErrImageChain, "attach with --trust-image-chain to open what images name, as libvirt does"},
	{hotplug.ErrRelabelWouldHelp, "attach with --relabel to give the images to QEMU's user while the disk is attached"},
	{hotplug.ErrRelabelNeedsRoot, "run luksplug as root: --relabel changes the owner of images"},
	{qmp.ErrTLSKeyPassphrase, "use --tls-secret to name the secret that decrypts the TLS client's key"},
	{qmp.ErrTLSCredentials, "use --tls-dir to name the directory of the TLS client's files"},
	{qmp.ErrTLSRefused, "use --tls-dir to name the directory of the TLS client's files: its certificates, or keys.psk"},
	{blockgraph.ErrUnknownPool, "give the pool's XML with --pool-xml, or look it up in libvirt with --domain"},
	{blockgraph.ErrNoDescriptors, "use --unlock auto or --unlock qemu to open the disk in the VM's QEMU"},
	{hotplug.ErrIdentity, "use --qemu-pid to name the VM's process if --qmp is a proxy's"},
	{hotplug.ErrNeedsQEMU, "use --unlock qemu to give QEMU the passphrase, or --unlock external to open the disk in a qemu-storage-daemon"},
	{hotplug.ErrStall, "use --unlock external to open the disk without a stall, or --max-stall to allow a longer one"},
	{hotplug.ErrNoNode, "list --all shows the VM's nodes; --node takes the name of one"},
	{hotplug.ErrExternalWouldHelp, "--unlock external avoids that"},
}

// hintOf returns the hint against the cause of an error, "" for none.
func hintOf(err error) string {
	var lacking *hotplug.VersionError
	if errors.As(err, &lacking) && lacking.Feature.Element == "disk/source/encryption/header" {
		return "use --unlock external to open the disk in a qemu-storage-daemon"
	}
	for _, c := range causeHints {
		if errors.Is(err, c.cause) {
			return c.hint
		}
	}
	return ""
}

// hintFor returns a further hint against an error of a command, "" for none. It is
// printed on its own line. domain is the command's libvirt domain, if any.
func hintFor(err error, domain string) string {
	switch {
	case is[newlineError](err) && (errors.Is(err, qmp.ErrWrongPassphrase) || errors.Is(err, luks.ErrWrongPassphrase)):
		return "the passphrase ends in a newline, which is part of it: write the file without one (printf %s)"
	case errors.Is(err, libvirtvm.ErrNoPort):
		return "run 'luksplug hook enable " + domain + "', or use bus='scsi' with an existing controller"
	case hintOf(err) == "" && errors.Is(err, fs.ErrPermission) && !errors.Is(err, secrets.ErrDenied):
		return "run luksplug as a user who may open it, usually root"
	}
	return ""
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

// findingHint returns the hint against a finding, for the end of its text; "" for none.
func findingHint(cause libvirtvm.Cause) string {
	switch cause {
	case libvirtvm.CauseSecretNeeded:
		return ": use --prepare to give it to QEMU, and run 'luksplug repair' after the migration"
	case libvirtvm.CauseUnverified:
		return ": run 'luksplug --domain VM repair --adopt' as root on its host, which shows the record and signs it"
	case libvirtvm.CauseNoShell:
		return ": use --shell, or run 'luksplug hook check --domain-xml FILE' there"
	}
	return ""
}
