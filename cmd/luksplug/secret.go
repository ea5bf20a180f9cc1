package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/document"
)

func newSecret(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secret",
		Short: "Define secrets and look after them in the key stores",
		Long: `secret defines secrets in the key stores and looks after them, with the habits of
virsh secret-define and its relatives. The stores are those of --keystore, else
those of the configuration, else one in luksplug's own folder, encrypted with age.

SECRET is a uuid, or TYPE:USAGE with a usage type of the <secret> document, such
as volume:/var/lib/images/vm1.img.`,
		Example: `  luksplug secret define vm1-vdb-secret.xml
  luksplug secret set-value 0a81f5b2-8403-4b23-88d6-21ccc2f80d6f
  luksplug secret list`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newSecretDefine(a), newSecretList(a), newSecretDump(a), newSecretSet(a), newSecretGet(a), newSecretUndefine(a), newSecretFind(a))
	return cmd
}

// secretJSON is a secret in JSON output. Members are only added.
type secretJSON struct {
	UUID        string `json:"uuid,omitempty"`
	UsageType   string `json:"usage_type,omitempty"`
	Usage       string `json:"usage,omitempty"`
	Description string `json:"description,omitempty"`
	Ephemeral   bool   `json:"ephemeral"`
	Private     bool   `json:"private"`
	Store       string `json:"store"`
}

func secretToJSON(f found) secretJSON {
	out := secretJSON{
		UsageType: string(f.document.UsageType), Usage: f.document.Usage, Description: f.document.Description,
		Ephemeral: f.document.Ephemeral, Private: f.document.Private, Store: f.store.String(),
	}
	if f.document.UUID != uuid.Nil {
		out.UUID = f.document.UUID.String()
	}
	return out
}

func newSecretDefine(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "define FILE",
		Short: "Define a secret, or change one, from a <secret> document",
		Long: `define reads libvirt's <secret> document from FILE (- for standard input) and
defines the secret in the first key store that can keep it; a secret that is
defined already is changed where it is, and keeps its value. A document without
uuid gets one, which is printed. An ephemeral secret needs a store in memory.`,
		Example: `  luksplug secret define vm1-vdb-secret.xml
  luksplug secret --keystore dir:/run/keys define - < secret.xml`,
		Args: argument("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := a.readInput(args[0])
			if err != nil {
				return &usageError{fmt.Errorf("read the <secret> document: %w", err)}
			}
			d, err := document.Parse(text)
			if err != nil {
				return err
			}
			if d.UUID == uuid.Nil {
				d.UUID = uuid.New()
			}
			if err := a.makeDefaults(d.Ephemeral); err != nil {
				return err
			}
			return a.withStores(cmd, func(ctx context.Context, stores []secrets.Store) error {
				keeper, err := placeFor(ctx, stores, d)
				if err != nil {
					return err
				}
				if a.flags.output == "json" {
					return a.printJSON(secretToJSON(found{keeper, d}))
				}
				return a.print(fmt.Sprintf("secret %s defined in %s\n", d.UUID, keeper))
			})
		},
	}
}

func newSecretList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the secrets of the key stores",
		Long:    "list shows what the key stores hold, in their order, without reading any value.",
		Example: "  luksplug secret list\n  luksplug secret --keystore dir:/run/keys list --output json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withStores(cmd, func(ctx context.Context, stores []secrets.Store) error {
				all, err := listAll(ctx, stores, func(s secrets.Store) { a.log.Warnf("key store %s cannot say what it holds", s) })
				if len(all) == 0 && err != nil {
					return err
				}
				// What can be read is worth seeing where something else cannot.
				return errors.Join(a.printSecrets(all), err)
			})
		},
	}
}

func (a *app) printSecrets(all []found) error {
	if a.flags.output == "json" {
		out := []secretJSON{}
		for _, f := range all {
			out = append(out, secretToJSON(f))
		}
		return a.printJSON(struct {
			Secrets []secretJSON `json:"secrets"`
		}{out})
	}
	if len(all) == 0 {
		return a.print("no secret is defined\n")
	}
	rows := [][]string{{"UUID", "USAGE", "FLAGS", "STORE"}}
	for _, f := range all {
		j := secretToJSON(f)
		var flags []string
		if j.Ephemeral {
			flags = append(flags, "ephemeral")
		}
		if j.Private {
			flags = append(flags, "private")
		}
		rows = append(rows, []string{dash(j.UUID), dash(strings.TrimSpace(j.UsageType + " " + printable(j.Usage))), dash(strings.Join(flags, ",")), j.Store})
	}
	return a.print(table(rows))
}

// printable keeps a text to one line and one column.
func printable(s string) string {
	if q := fmt.Sprintf("%q", s); q != `"`+s+`"` && strings.ContainsAny(s, "\n\t") {
		return q
	}
	return s
}

func newSecretDump(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "dumpxml SECRET",
		Short:   "Print the <secret> document of a secret",
		Long:    "dumpxml prints a secret's document, which holds no value.",
		Example: "  luksplug secret dumpxml 0a81f5b2-8403-4b23-88d6-21ccc2f80d6f",
		Args:    argument("SECRET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withSecret(cmd, args[0], func(_ context.Context, f found) error {
				if a.flags.output == "json" {
					return a.printJSON(secretToJSON(f))
				}
				return a.print(string(document.Format(f.document)))
			})
		},
	}
}

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
			return a.withSecret(cmd, wanted[0], func(_ context.Context, f found) error {
				switch {
				case a.flags.output == "json":
					return a.printJSON(secretToJSON(f))
				case f.document.UUID == uuid.Nil:
					return a.print(wanted[0] + "\n")
				}
				return a.print(f.document.UUID.String() + "\n")
			})
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

// inUseError says that a secret is still needed.
type inUseError struct {
	secret secrets.Document
	uses   []hotplug.Use
}

func (e *inUseError) Error() string {
	return fmt.Sprintf("the secret with %s is in use: %s: detach first, or undefine with --force, after which nothing can attach it again", e.secret, usesText(e.uses))
}

func usesText(uses []hotplug.Use) string {
	var texts []string
	for _, u := range uses {
		texts = append(texts, fmt.Sprintf("disk %s of VM %s (%s)", u.Target, u.VM, u.Payload))
	}
	return strings.Join(texts, ", ")
}

// usesOf returns the disks that have been unlocked with a secret, or have its
// usage as their path.
func usesOf(d secrets.Document, uses []hotplug.Use) []hotplug.Use {
	var out []hotplug.Use
	for _, u := range uses {
		same := d.UsageType == secrets.UsageVolume && (d.Usage == u.Payload || d.Usage == u.Header)
		for _, ref := range u.Secrets {
			answers, err := d.Answers(ref)
			same = same || answers && err == nil
		}
		if same {
			out = append(out, u)
		}
	}
	return out
}

func newSecretUndefine(a *app) *cobra.Command {
	force := false
	cmd := &cobra.Command{
		Use:   "undefine SECRET",
		Short: "Remove a secret and its value",
		Long: `undefine removes a secret and its value from its key store: what is encrypted with
it and nothing else cannot be opened again. A secret of a disk that luksplug holds
in a VM of this host is removed with --force only.`,
		Example: `  luksplug secret undefine 0a81f5b2-8403-4b23-88d6-21ccc2f80d6f`,
		Args:    argument("SECRET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withSecret(cmd, args[0], func(ctx context.Context, f found) error {
				return a.undefine(ctx, f, force)
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "also when a disk is attached that needs it")
	return cmd
}

// undefine removes a secret, by force also one that is in use.
func (a *app) undefine(ctx context.Context, f found, force bool) error {
	keeper, err := f.keeper()
	if err != nil {
		return err
	}
	known, err := a.uses()
	if err != nil && !force {
		return fmt.Errorf("see whether the secret is in use: %w: --force removes it all the same", err)
	}
	uses := usesOf(f.document, known)
	if len(uses) > 0 && !force {
		return &inUseError{f.document, uses}
	}
	if err := keeper.Remove(ctx, f.document.Reference()); err != nil {
		return err
	}
	if len(uses) > 0 {
		a.log.Warnf("the secret was in use: %s", usesText(uses))
	}
	if a.flags.output == "json" {
		return a.printJSON(secretToJSON(f))
	}
	return a.print(fmt.Sprintf("secret with %s removed from %s\n", f.document, f.store))
}
