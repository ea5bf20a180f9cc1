package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/secrets"
)

func newVolumePassphrase(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "passphrase",
		Short: "Change, add and remove passphrases of volumes",
		Long: `passphrase changes, adds and removes passphrases of volumes, which may be attached: a QEMU
that has a volume open does not read its header again. A new passphrase is stored and
read back before an old one is removed, so that no crash loses a volume.`,
		Example: `  luksplug volume passphrase change /var/lib/images/vm1-vdb.img
  luksplug volume passphrase add /var/lib/images/vm1-vdb.img --new-passphrase-file recovery.key`,
	}
	cmd.AddCommand(newPassphraseAdd(a), newPassphraseChange(a), newPassphraseRemove(a))
	return onlyWithCommand(cmd)
}

// The flags that name files with passphrases of this command.
const (
	newPassphraseFlag = "new-passphrase-file"
	oldPassphraseFlag = "old-passphrase-file"
)

// passphraseFlags are those of the commands that give a volume a passphrase.
type passphraseFlags struct {
	headerFlags
	file       string
	unlockTime time.Duration
	dryRun     bool
}

func (f *passphraseFlags) register(cmd *cobra.Command) {
	f.headerFlags.register(cmd)
	cmd.Flags().StringVar(&f.file, newPassphraseFlag, "", "the new passphrase: a file, - for standard input, or fd:N")
	cmd.Flags().DurationVar(&f.unlockTime, "unlock-time", 2*time.Second, "how long deriving a key from a passphrase that is not random takes")
	registerDryRun(cmd, &f.dryRun)
}

func registerDryRun(cmd *cobra.Command, dryRun *bool) {
	cmd.Flags().BoolVar(dryRun, "dry-run", false, "show what would be done, and change nothing")
}

// checkInput refuses two passphrases from standard input.
func (f *passphraseFlags) checkInput(a *app) error {
	if f.file == "-" && a.flags.passphrase == "-" {
		return &usageError{errors.New("--passphrase-file and --new-passphrase-file cannot both be standard input")}
	}
	return nil
}

// fresh returns the passphrase of --new-passphrase-file, nil if it is not given.
func (f *passphraseFlags) fresh(ctx context.Context, a *app) (*secrets.Secret, error) {
	if f.file == "" {
		return nil, nil
	}
	if in, ok := a.in.(*os.File); ok && f.file == "-" && isTerminal(in) {
		return askTwice(ctx, in, "new passphrase")
	}
	return a.readPassphrase(ctx, f.file)
}

// known returns a passphrase that opens the volume.
func (f headerFlags) known(ctx context.Context, a *app, path string) (*secrets.Secret, error) {
	passphrase, err := f.passphrase(ctx, a, path)
	if err == nil && passphrase == nil {
		err = &usageError{errors.New("no key store has a secret with this volume's path as usage: name the secret that opens it with --secret, or give --passphrase-file")}
	}
	return passphrase, err
}

// location returns where the volume is that an argument names.
func (f headerFlags) location(ctx context.Context, a *app, name string) (volume.Location, error) {
	path, header, err := f.volume(ctx, a, name)
	if err != nil {
		return volume.Location{}, err
	}
	l := volume.Location{Path: absolute(path)}
	if header != "" {
		l.Header = absolute(header)
	}
	return l, nil
}

// storedOf returns a secret that can be changed, and what uses it.
func storedOf(ctx context.Context, a *app, f found) (*volume.Stored, []hotplug.Use, error) {
	keeper, err := f.keeper()
	if err != nil {
		return nil, nil, err
	}
	uses, err := usesNow(ctx, a, f.document)
	if err != nil {
		return nil, nil, fmt.Errorf("find what else uses the secret: %w", err)
	}
	return &volume.Stored{Store: keeper, Document: f.document}, uses, nil
}

// slotsText names key slots: "key slot 0", "key slots 0 and 2".
func slotsText(slots []int) string {
	switch len(slots) {
	case 0:
		return "no key slot"
	case 1:
		return fmt.Sprintf("key slot %d", slots[0])
	}
	numbers := strings.Fields(strings.Trim(fmt.Sprint(slots), "[]"))
	last := len(numbers) - 1
	return "key slots " + strings.Join(numbers[:last], ", ") + " and " + numbers[last]
}
