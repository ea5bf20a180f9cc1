package main

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/secrets"
)

func newSecretFind(a *app) *cobra.Command {
	usages := map[secrets.UsageType]*string{}
	cmd := &cobra.Command{
		Use:   "find --volume PATH",
		Short: "Find the secret of a volume, or of another usage",
		Long: `find prints the uuid of the secret whose usage is the given one: for a volume the
path of its image. A secret that was put into a store without a uuid is printed
as TYPE:USAGE. Exit code 4 says that there is none.`,
		Example: `  luksplug secret find --volume /var/lib/images/vm1.img
  luksplug secret find --ceph 'client.admin secret'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var wanted []string
			for usageType, usage := range usages {
				if cmd.Flags().Changed(string(usageType)) {
					wanted = append(wanted, string(usageType)+":"+*usage)
				}
			}
			if len(wanted) != 1 {
				return &usageError{errors.New("find what? give one of --volume PATH, --ceph, --iscsi, --tls or --vtpm NAME")}
			}
			return a.runSecretFind(cmd.Context(), wanted[0])
		},
	}
	for usageType, what := range map[secrets.UsageType]string{
		secrets.UsageVolume: "the path of the volume", secrets.UsageCeph: "the name of the Ceph user", secrets.UsageISCSI: "the iSCSI target",
		secrets.UsageTLS: "the name of the TLS key", secrets.UsageVTPM: "the name of the emulated TPM",
	} {
		usages[usageType] = cmd.Flags().String(string(usageType), "", what)
	}
	return cmd
}

func (a *app) runSecretFind(ctx context.Context, name string) error {
	return a.withSecret(ctx, name, func(_ context.Context, f found) error {
		switch {
		case a.flags.output == "json":
			return a.printJSON(secretToJSON(f))
		case f.document.UUID == uuid.Nil:
			return a.print(name + "\n")
		}
		return a.print(f.document.UUID.String() + "\n")
	})
}
