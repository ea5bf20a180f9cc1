package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

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
path of its image. If no secret has that path, find looks for one whose path leads to
the same image through links and "..". A secret without a uuid is printed as
TYPE:USAGE. The exit code is 4 if there is no such secret.`,
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
	return withStores(ctx, a, func(ctx context.Context, stores []secrets.Store) error {
		f, err := locate(ctx, stores, name)
		if path, volume := strings.CutPrefix(name, string(secrets.UsageVolume)+":"); volume && errors.Is(err, secrets.ErrNotFound) {
			f, err = locateVolume(ctx, stores, path, err)
			name = string(secrets.UsageVolume) + ":" + f.document.Usage
		}
		if err != nil {
			return err
		}
		if f.document.UUID != uuid.Nil {
			name = f.document.UUID.String()
		}
		return a.show(printable.Line(name)+"\n", secretToJSON(f))
	})
}

// locateVolume finds the secret of a volume by another path of the same file. missing is
// the error for none.
func locateVolume(ctx context.Context, stores []secrets.Store, path string, missing error) (found, error) {
	all, err := listAll(ctx, stores, func(secrets.Store) {})
	if err != nil {
		return found{}, err // a damaged document could be that of the secret
	}
	same := slices.DeleteFunc(all, func(f found) bool {
		return f.document.UsageType != secrets.UsageVolume || !filepath.IsAbs(f.document.Usage) || !samePath(f.document.Usage, path)
	})
	// A secret with the path itself, after its ".." and its working directory, comes first.
	if i := slices.IndexFunc(same, func(f found) bool { return f.document.Usage == absolute(path) }); i >= 0 {
		return same[i], nil
	}
	switch len(same) {
	case 0:
		return found{}, missing
	case 1:
		return same[0], nil
	}
	var texts []string
	for _, f := range same {
		texts = append(texts, fmt.Sprintf("%s:%s in %s", secrets.UsageVolume, f.document.Usage, f.store))
	}
	slices.Sort(texts)
	return found{}, &usageError{fmt.Errorf("several secrets are those of this volume: %s: give the path of one of them", strings.Join(texts, ", "))}
}

// samePath reports whether two paths lead to the same file, which need not exist.
func samePath(a, b string) bool {
	a, b = absolute(a), absolute(b)
	return a == b || resolved(a) == resolved(b)
}

// absolute returns an absolute path without "..", path itself if there is none.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// resolved returns a path without links, as far as it exists.
func resolved(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		return filepath.Join(dir, filepath.Base(path))
	}
	return path
}
