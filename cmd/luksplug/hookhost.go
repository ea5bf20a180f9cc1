package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keystore"
)

// onInstallation makes cmd run f on the hook installation that the flags describe.
func onInstallation(a *app, f func(context.Context, *app, hook.Installation) error, cmd *cobra.Command) *cobra.Command {
	dir := cmd.Flags().String("hooks-dir", hook.Dir, "libvirt's hooks directory")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		program, err := os.Executable()
		if err == nil {
			program, err = filepath.EvalSymlinks(program)
		}
		if err != nil {
			return fmt.Errorf("find the path of this program: %w", err)
		}
		i := hook.Installation{Dir: *dir, Program: program}
		if a.flags.config != "" {
			if i.Config, err = filepath.Abs(a.flags.config); err != nil {
				return err
			}
		}
		return f(cmd.Context(), a, i)
	}
	return cmd
}

// hookStore is the hook's store: the key stores except libvirt's. It opens them at the
// first look-up, which most calls of the hook do not need.
type hookStore struct {
	app     *app
	options keystore.Options
	chain   secrets.Store // nil before the first look-up
	names   string
}

// store returns the stores as one.
func (s *hookStore) store() secrets.Store {
	return secrets.Lazy("the key stores of the configuration", func() (secrets.Store, error) {
		err := s.open()
		return s.chain, err
	})
}

// errNoHookStore reports that all key stores are libvirt's.
var errNoHookStore = errors.New("no key store that a hook can use is configured: libvirt's own secrets are out of reach, because libvirt waits for its hook; name another key store in " + configPath)

// open opens the stores without accessing any.
func (s *hookStore) open() error {
	if s.chain != nil {
		return nil
	}
	stores, err := openStores(s.app, s.options)
	if err != nil {
		return err
	}
	var usable []secrets.Store
	var names []string
	for _, store := range stores {
		if !strings.HasPrefix(store.String(), "libvirt") {
			usable, names = append(usable, store), append(names, store.String())
		}
	}
	if len(usable) == 0 {
		return errNoHookStore
	}
	s.chain, s.names = secrets.Chain(usable...), strings.Join(names, ", ")
	return nil
}
