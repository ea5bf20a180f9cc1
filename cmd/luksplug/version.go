package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  luksplug version\n  luksplug version --output json",
		Args:    arguments(),
		RunE:    func(*cobra.Command, []string) error { return a.showVersion() },
	}
}

func (a *app) showVersion() error {
	platform := runtime.GOOS + "/" + runtime.GOARCH
	return a.show(fmt.Sprintf("luksplug %s (%s, %s)\n", version, runtime.Version(), platform),
		map[string]string{"version": version, "go": runtime.Version(), "platform": platform})
}
