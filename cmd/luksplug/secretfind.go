package main

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/internal/printable"
	"github.com/luksplug/luksplug/secrets"
)

func newSecretFind(a *app) *cobra.Command {
	usages := map[secrets.UsageType]*string{}
	cmd := &cobra.Command{
		Use:   "find --volume PATH",
		Short: "Find the secret of a volume, or of another usage",
		Long: `find prints the uuid of the secret with the given usage, which for a volume is the
path of its image. A secret without a uuid is printed as TYPE:USAGE. The exit code is
4 if there is no such secret.`,
		Example: `  luksplug secret find --volume /var/lib/images/vm1.img
  luksplug secret find --ceph 'client.admin secret'`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var wanted []string
			for usageType, usage := range usages {
				if cmd.Flags().Changed(string(usageType)) {
					wanted = append(wanted, string(usageType)+":"+*usage)
				}
			}
			if len(wanted) != 1 {
				return &usageError{errors.New("find needs one usage: give one of --volume PATH, --ceph, --iscsi, --tls or --vtpm NAME")}
			}
			return runSecretFind(cmd.Context(), a, wanted[0])
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

func runSecretFind(ctx context.Context, a *app, name string) error {
	return withSecret(ctx, a, name, func(_ context.Context, f found) error {
		if f.document.UUID != uuid.Nil {
			name = f.document.UUID.String()
		}
		return a.show(printable.Line(name)+"\n", secretToJSON(f))
	})
}
