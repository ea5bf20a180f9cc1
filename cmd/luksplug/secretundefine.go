package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/internal/printable"
	"github.com/luksplug/luksplug/secrets"
)

func newSecretUndefine(a *app) *cobra.Command {
	force := false
	cmd := &cobra.Command{
		Use:   "undefine SECRET",
		Short: "Remove a secret and its value",
		Long: `undefine removes a secret and its value from its key store. What only this secret
opens is then lost. The secret of a disk that luksplug holds in a VM of this host is
removed with --force only.`,
		Example: `  luksplug secret undefine 0a81f5b2-8403-4b23-88d6-21ccc2f80d6f`,
		Args:    arguments("SECRET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSecretUndefine(cmd.Context(), a, args[0], force)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "remove the secret even if an attached disk needs it")
	return cmd
}

func runSecretUndefine(ctx context.Context, a *app, name string, force bool) error {
	return withSecret(ctx, a, name, func(ctx context.Context, f found) error { return undefine(ctx, a, f, force) })
}

// undefine removes a secret. Without force it refuses one that is in use.
func undefine(ctx context.Context, a *app, f found, force bool) error {
	keeper, err := f.keeper()
	if err != nil {
		return err
	}
	known, err := a.uses()
	if err != nil && !force {
		return fmt.Errorf("check whether the secret is in use: %w: --force removes it without this check", err)
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
	return a.show(printable.Line(fmt.Sprintf("secret with %s removed from %s", f.document, f.store))+"\n", secretToJSON(f))
}

// inUseError reports that attached disks need a secret.
type inUseError struct {
	secret secrets.Document
	uses   []hotplug.Use
}

func (e *inUseError) Error() string {
	return fmt.Sprintf("the secret with %s is in use: %s: detach first, or use --force: without the secret the disk cannot be attached again", e.secret, usesText(e.uses))
}

func usesText(uses []hotplug.Use) string {
	var texts []string
	for _, u := range uses {
		texts = append(texts, fmt.Sprintf("disk %s of VM %s (%s)", u.Target, u.VM, u.Payload))
	}
	return strings.Join(texts, ", ")
}

// usesOf returns the disks that were unlocked with a secret or whose path is its usage.
func usesOf(d secrets.Document, uses []hotplug.Use) []hotplug.Use {
	var out []hotplug.Use
	for _, u := range uses {
		same := d.UsageType == secrets.UsageVolume && (sameVolume(d.Usage, u.Payload) || sameVolume(d.Usage, u.Header))
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

// sameVolume reports whether a usage is the path of an image, perhaps through links. An
// image of a server has no path, and equals only itself.
func sameVolume(usage, image string) bool {
	return usage == image || filepath.IsAbs(usage) && filepath.IsAbs(image) && samePath(usage, image)
}
