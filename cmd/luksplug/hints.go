package main

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/hotplug/reencrypt"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/dialing"
	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/internal/shell"
	"github.com/luksplug/luksplug/internal/similar"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
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
	{libvirtvm.ErrOff, "attach --persistent, list, detach and repair also work on a domain that is off; plan takes --domain-xml"},
	{libvirtvm.ErrKeyFile, "correct the file, and run 'luksplug hook check'"},
	{libvirtvm.ErrNotHere, "run 'luksplug --domain VM repair --adopt' there"},
	{libvirtvm.ErrUnverified, "run 'luksplug --domain VM repair --adopt' as root on its host, which shows the record and signs it"},
	{libvirtvm.ErrDisks, "detach the disks with --persistent first"},
	{secrets.ErrOtherNode, "run luksplug on the VM's host (ssh HOST luksplug), with a key store there"},
	{secrets.ErrUnknownNode, "use --qemu-pid to name the VM's process if it is on this host, or run luksplug on the VM's host"},
	{secrets.ErrNoKeyring, "allow this container add_key and keyctl, or decrypt the identity into a tmpfs at boot and name it with ?identity=PATH"},
	{hook.ErrRenamed, "if it is the same domain, renamed, run 'luksplug secret renamed' with its name; otherwise remove the keys by 'luksplug secret prune --force --vm' with the UUID"},
	{secrets.ErrOtherVolume, "hook, any-volume: true in " + configPath + " lets the hook use bound secrets for any disk"},
	{hotplug.ErrIncomplete, "'luksplug volume jobs' shows the re-encryption"},
	{hotplug.ErrCopying, "'luksplug volume jobs' shows the re-encryption, waits for it, or cancels it"},
	{hotplug.ErrNoCopy, "'luksplug volume jobs' shows the re-encryptions of this host"},
	{hotplug.ErrNotInStep, "'luksplug volume jobs JOB --wait' waits, and switches then"},
	{reencrypt.ErrNotSwitched, "'luksplug volume jobs JOB --wait' waits, and switches to the new one"},
	{hotplug.ErrSwitched, "'luksplug volume jobs JOB --discard-old' destroys the old volume"},
	{hotplug.ErrHeaderInUse, "attach with --allow-shared-header to use the header of another disk"},
	{hotplug.ErrGuestHeader, "attach with --allow-guest-header if the guest has written the header into its own disk"},
	{hotplug.ErrPayloadSignature, "attach with --allow-signature if this is ciphertext that looks so by chance, or with --recover if it has overwritten the volume's own header and <header> is a backup of that"},
	{hotplug.ErrHeaderDamaged, "if you have a backup of the header, name it in <header> and attach with --recover"},
	{hotplug.ErrTwoHeaders, "attach with --recover if the header in the image is damaged and <header> is a backup of it"},
	{hotplug.ErrBackupUnproven, "use --recover alone, which is read-only"},
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
	{hotplug.ErrMounted, "use --force to detach it all the same: the guest gets I/O errors and loses what it has not written"},
	{hotplug.ErrNoNode, "list --all shows the VM's nodes; --node takes the name of one"},
	{volume.ErrNoSpareSlot, "'luksplug volume passphrase remove' frees a key slot"},
	{volume.ErrLastPassphrase, "name a passphrase that stays with --secret or --passphrase-file"},
	{volume.ErrShared, "'luksplug volume passphrase change --all' changes every volume that uses a secret"},
	{volume.ErrUnfinished, "run 'luksplug volume passphrase change' without --new-passphrase-file"},
	{volume.ErrNotStaged, "use --phase stage first"},
	{volume.ErrShrink, "use --shrink if nothing needs what is beyond"},
	{volume.ErrPassphrase, "name its secret with --secret, or give --passphrase-file"},
	{volume.ErrSignature, "use --force with the exact size in bytes to overwrite it"},
	{hotplug.ErrExternalWouldHelp, "--unlock external avoids that"},
}

// hintOf returns the hint against the cause of an error, "" for none.
func hintOf(err error) string {
	var store *secrets.StoreError
	if errors.Is(err, secrets.ErrPassphrase) && errors.As(err, &store) {
		return "run 'luksplug secret unlock " + shell.Word(store.Store) + "'"
	}
	var lacking *hotplug.VersionError
	if errors.As(err, &lacking) && lacking.Feature.Element == "disk/source/encryption/header" {
		return "use --unlock external to open the disk in a qemu-storage-daemon"
	}
	if is[*reencrypt.RoomError](err) {
		return "use --to for another place, or --force-room to begin all the same"
	}
	for _, c := range causeHints {
		if errors.Is(err, c.cause) {
			return c.hint
		}
	}
	return ""
}

// withHint returns the text of an error with the hint against its cause.
func withHint(err error) string {
	text := err.Error()
	if hint := hintOf(err); hint != "" {
		text += " (" + hint + ")"
	}
	return text
}

// flagHint returns the hint against an error of a command with those flags: that of its
// cause, else one that depends on the flags; "" for none.
func flagHint(err error, f *flags) string {
	if hint := hintOf(err); hint != "" {
		return hint
	}
	var missing *hotplug.NotHeldError
	var limit *ending.Error
	switch {
	case errors.As(err, &missing) && similar.Misspelt(missing.Target, missing.Held) != "":
		return "did you mean " + similar.Misspelt(missing.Target, missing.Held) + "?"
	case errors.Is(err, fs.ErrNotExist) && is[*dialing.Error](err) && f.qmp != "" && !strings.ContainsAny(f.qmp, "/:."):
		return "use --domain " + f.qmp + " if " + f.qmp + " is a libvirt domain"
	case errors.As(err, &limit) && limit.Limit == f.limit() && !errors.Is(err, qmp.ErrNoGreeting):
		return "use --timeout for more time"
	}
	return ""
}

// hintFor returns a further hint against an error of a command, "" for none. It is
// printed on its own line.
func hintFor(err error, f *flags) string {
	switch {
	case errors.Is(err, libvirtvm.ErrNoPort):
		return "run 'luksplug hook enable " + f.domain + "', or use bus='scsi' with an existing controller"
	case flagHint(err, f) == "" && errors.Is(err, fs.ErrPermission) && !errors.Is(err, secrets.ErrDenied):
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
