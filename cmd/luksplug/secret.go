package main

import "github.com/spf13/cobra"

func newSecret(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secret",
		Short: "Define, set, list and remove secrets in the key stores, and unlock the stores",
		Long: `secret manages the secrets in the key stores, with subcommands named after those of
virsh (secret-define and others). The key stores are those of --keystore, else those
of the configuration, else one in luksplug's own directory, encrypted with age.

SECRET is a uuid, or TYPE:USAGE with a usage type of the <secret> document, such as
volume:/var/lib/images/vm1.img. A key store that a passphrase protects is opened once by
unlock, and wiped from memory by lock. The commands prune and renamed are for the keys
that the host holds for single VMs, in the store vm:.`,
		Example: `  luksplug secret define vm1-vdb-secret.xml
  luksplug secret set-value 0a81f5b2-8403-4b23-88d6-21ccc2f80d6f
  luksplug secret list`,
	}
	cmd.AddCommand(newSecretDefine(a), newSecretList(a), newSecretDump(a), newSecretSet(a), newSecretGet(a), newSecretExport(a), newSecretUndefine(a), newSecretFind(a),
		newSecretUnlock(a), newSecretLock(a), newSecretStatus(a), newSecretPrune(a), newSecretRenamed(a))
	return onlyWithCommand(cmd)
}
