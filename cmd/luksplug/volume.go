package main

import "github.com/spf13/cobra"

func newVolume(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "volume",
		Short: "Make, show, change and destroy encrypted volumes",
		Long: `volume makes, shows and looks after the volumes that attach plugs into VMs: an image,
its LUKS header, and the passphrase in a key store.`,
		Example: `  luksplug volume create vm1-vdb --size 10G --path /var/lib/images/vm1-vdb.img > vdb.xml
  luksplug --domain vm1 attach vdb.xml`,
	}
	cmd.AddCommand(newVolumeCreate(a), newVolumeCmdline(a), newVolumeInfo(a), newVolumeList(a),
		newHeaderBackup(a), newHeaderRestore(a), newDetachHeader(a), newAttachHeader(a),
		newVolumePassphrase(a), newVolumeResize(a), newVolumeReencrypt(a), newVolumeJobs(a), newVolumeDestroy(a))
	return onlyWithCommand(cmd)
}
