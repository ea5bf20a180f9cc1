package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/internal/printable"
)

func newSecretRenamed(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "renamed DOMAIN",
		Short: "Let a domain that was renamed use its keys",
		Long: `renamed gives the keys that the host holds for a UUID, in the stores vm:, to the domain
DOMAIN, which has this UUID now. The hook gives the keys only to a domain of the name that
has used them before: another domain can be defined with the UUID of one that is gone.
DOMAIN is a name or UUID of a domain that is defined on this host.`,
		Example: "  luksplug secret renamed web1",
		Args:    arguments("DOMAIN"),
		RunE:    func(_ *cobra.Command, args []string) error { return runSecretRenamed(a, args[0]) },
	}
}

func runSecretRenamed(a *app, domain string) error {
	k, err := a.vmKeys()
	if err != nil {
		return err
	}
	name, id, err := k.VMs.Defined(domain)
	if err != nil {
		return err
	}
	n, err := k.Adopt(id, name)
	switch {
	case err != nil:
		return err
	case n == 0:
		return fmt.Errorf("this host holds no keys of domain %s (%s)", name, id)
	}
	return a.show(printable.Line(fmt.Sprintf("the keys of VM %s are those of domain %s", id, name))+"\n", struct {
		VM     string `json:"vm"`
		Domain string `json:"domain"`
	}{id, name})
}
