package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keystore"
	"github.com/luksplug/luksplug/secrets/vmkeys"
)

// onInstallation makes cmd run f on the hook installation that the flags describe.
func onInstallation(a *app, f func(context.Context, *app, hook.Installation) error, cmd *cobra.Command) *cobra.Command {
	dir := cmd.Flags().String("hooks-dir", "", "libvirt's hooks directory (default: that of the configuration, else "+hook.Dir+")")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		i, err := installation(a, *dir)
		if err != nil {
			return err
		}
		return f(cmd.Context(), a, i)
	}
	return cmd
}

// installation returns the hook of this host's libvirt. dir is libvirt's hooks directory, ""
// for that of the configuration.
func installation(a *app, dir string) (hook.Installation, error) {
	program, err := os.Executable()
	if err == nil {
		program, err = filepath.EvalSymlinks(program)
	}
	if err != nil {
		return hook.Installation{}, fmt.Errorf("find the path of this program: %w", err)
	}
	c, _, _ := readConfig(a.flags.config) // hook check reports an error of it
	i := hook.Installation{Dir: cmp.Or(dir, c.Hook.Dir), Program: program}
	if a.flags.config != "" {
		i.Config, err = filepath.Abs(a.flags.config)
	}
	return i, err
}

// hookHost returns the hook of this host for an event.
func hookHost(a *app, e hook.Event, c configuration, store *hookStore) hook.Host {
	keys, _ := a.vmKeys() // opening the stores reports the error
	store.options.VM = e.UUID
	store.options.Owner = func() error { return keys.CheckOwner(e) }
	return hook.Host{Store: store.store(), AnyVolume: c.Hook.AnyVolume, Log: a.log, RecordKey: c.RecordKey}
}

// hookStore is the hook's store: the key stores except libvirt's. It opens them at the
// first look-up, which most calls of the hook do not need.
type hookStore struct {
	app     *app
	options keystore.Options
	chain   secrets.Store // nil before the first look-up
	names   string
	stores  []secrets.Store
	found   foundIn
}

// foundIn are the stores in which secrets were found, without those of VMs that were found on
// the disk.
type foundIn struct {
	mu     sync.Mutex
	stores []secrets.Store
}

// noting is a store that notes look-ups that succeed.
type noting struct {
	secrets.Store
	found *foundIn
}

// Describe implements [secrets.Describer].
func (n noting) Describe(ctx context.Context, ref secrets.Reference) (secrets.Document, error) {
	return secrets.Describe(ctx, n.Store, ref)
}

// Lookup implements [secrets.Store].
func (n noting) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	secret, err := n.Store.Lookup(ctx, ref)
	if keys, ok := keystore.Unencoded(n.Store).(*vmkeys.Store); ok && err == nil && !keys.InMemory(ctx, ref) {
		return secret, nil // it is on the disk
	}
	if err == nil {
		n.found.mu.Lock()
		defer n.found.mu.Unlock()
		if !slices.ContainsFunc(n.found.stores, func(s secrets.Store) bool { return s.String() == n.String() }) {
			n.found.stores = append(n.found.stores, n.Store)
		}
	}
	return secret, err
}

// inMemory returns those of the stores whose keys a reboot of the host takes.
func (f *foundIn) inMemory() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, store := range f.stores {
		name := store.String()
		kind, path, _ := strings.Cut(name, ":")
		path, _, _ = strings.Cut(path, "?")
		path, err := url.PathUnescape(path)
		switch {
		case kind == "keyring", err == nil && slices.Contains([]string{"dir", "age", "vm"}, kind) && fsutil.InMemory(path):
			out = append(out, name)
		}
	}
	return out
}

// unlocked returns warnings of those of the stores that are not unlocked for ever.
func (f *foundIn) unlocked(ctx context.Context) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, store := range f.stores {
		// A state that is unknown by now is reported at the start.
		if state, err := stateOf(ctx, store); err == nil && state.State == storeUnlocked {
			out = append(out, fmt.Sprintf("a secret is in the key store %s, which is unlocked %s: after that the domain does not start until 'luksplug secret unlock' has opened it again", state.Store, state.until()))
		}
	}
	return out
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
			usable, names = append(usable, noting{store, &s.found}), append(names, store.String())
		}
	}
	if len(usable) == 0 {
		return errNoHookStore
	}
	s.chain, s.names, s.stores = secrets.Chain(usable...), strings.Join(names, ", "), stores
	return nil
}
