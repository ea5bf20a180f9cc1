package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keystore"
)

// fromFlag is the source of the key stores of the flag.
const fromFlag = "--keystore"

// storeNames are the URIs of the key stores, in the order in which they are searched, and
// their source.
type storeNames struct {
	uris     []string
	from     string
	thisRun  bool           // they are not configured
	defaults *defaultStores // set if no store is configured; uris are then those of them that exist
}

// storeNames returns the key stores of --keystore or the environment, else those of the configuration, else
// the default ones.
func (a *app) storeNames() (storeNames, error) {
	if len(a.flags.keystores) > 0 {
		return storeNames{uris: a.flags.keystores, from: a.flags.keystoresFrom, thisRun: true}, nil
	}
	c, _, err := readConfig(a.flags.config)
	if err != nil {
		return storeNames{}, err
	}
	if len(c.Keystores) > 0 {
		return storeNames{uris: c.Keystores, from: "configuration, keystores"}, nil
	}
	defaults := &defaultStores{c.State, cmp.Or(c.Ephemeral, ephemeralDir(os.Geteuid(), os.Getenv))}
	if defaults.state == "" {
		defaults.state, err = stateDir(os.Geteuid(), os.Getenv)
	}
	return storeNames{uris: defaults.existing(), from: "default key store", defaults: defaults}, err
}

// defaultStores are the directories of the default key stores: an age: store, and a dir:
// store for ephemeral secrets.
type defaultStores struct {
	state, ephemeral string
}

// existing returns the URIs of the stores that exist.
func (d *defaultStores) existing() []string {
	var out []string
	for _, s := range []struct{ kind, path string }{{"age", d.state}, {"dir", d.ephemeral}} {
		if _, err := os.Lstat(s.path); !errors.Is(err, fs.ErrNotExist) {
			out = append(out, s.kind+":"+(&url.URL{Path: s.path}).EscapedPath())
		}
	}
	return out
}

// create makes the directory of one of the stores.
func (d *defaultStores) create(ephemeral bool) error {
	path := d.state
	if ephemeral {
		path = d.ephemeral
	}
	if path == secretDir {
		// QEMU's user passes through /run/luksplug.
		if err := fsutil.MakeDir(filepath.Dir(path), 0o711); err != nil {
			return err
		}
	}
	return fsutil.MakeDir(path, 0o700)
}

// stateDir is the default directory of a user's secrets: see file-hierarchy(7) and the
// XDG Base Directory Specification.
func stateDir(uid int, env func(string) string) (string, error) {
	if uid == 0 {
		return "/var/lib/luksplug/secrets", nil
	}
	// The specification wants relative paths to be ignored.
	if state := env("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, "luksplug", "secrets"), nil
	}
	if home := env("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "luksplug", "secrets"), nil
	}
	return "", &usageError{errors.New("there is no directory for secrets: set HOME or XDG_STATE_HOME, or give --keystore URI")}
}

// secretDir is root's default directory of ephemeral secrets, on tmpfs.
const secretDir = "/run/luksplug/secrets"

// ephemeralDir is the default directory of a user's ephemeral secrets.
func ephemeralDir(uid int, env func(string) string) string {
	if uid == 0 {
		return secretDir
	}
	if runtime := env("XDG_RUNTIME_DIR"); filepath.IsAbs(runtime) {
		return filepath.Join(runtime, "luksplug", "secrets")
	}
	return fmt.Sprintf("/run/user/%d/luksplug/secrets", uid)
}

// exportedDir is root's directory of secrets that are exported for a QEMU, on tmpfs. No key
// store is there: their directories are closed to QEMU's user.
const exportedDir = "/run/luksplug/exported"

// exportDir is a user's directory of exported secrets.
func exportDir(uid int, env func(string) string) string {
	return filepath.Join(filepath.Dir(ephemeralDir(uid, env)), filepath.Base(exportedDir))
}

// storeOptions returns the options of a command's key stores; the hook changes them.
func (a *app) storeOptions() keystore.Options {
	return keystore.Options{Prompt: prompter(), ReadPassphrase: a.readSource, Stderr: raw(a.err), VM: func() string { return a.vm }}
}

// openStores opens the key stores without accessing any. The result may be empty.
func openStores(a *app, options keystore.Options) ([]secrets.Store, error) {
	names, err := a.storeNames()
	if err != nil {
		return nil, err
	}
	var out []secrets.Store
	for _, uri := range names.uris {
		s, err := keystore.Open(uri, options)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", names.from, err)
		}
		out = append(out, s)
	}
	return out, nil
}

// openDiskStore returns the store of the disk's secrets: the given passphrase, or the
// key stores in their order.
func openDiskStore(a *app, disk *blockgraph.Disk) (secrets.Store, error) {
	n := len(disk.Secrets())
	switch {
	case a.flags.passphrase != "" && n > 1:
		return nil, &usageError{fmt.Errorf("disk %s has %d secrets, and --passphrase-file gives one: use --keystore", disk.Target, n)}
	case a.flags.passphrase != "":
		return &given{app: a}, nil
	case n == 0:
		return secrets.Chain(), nil
	}
	stores, err := openStores(a, a.storeOptions())
	if err != nil {
		return nil, err
	}
	if len(stores) == 0 {
		return nil, &usageError{errors.New("no passphrase and no key store is given: use --passphrase-file FILE (- for standard input, or fd:N), or --keystore dir:PATH, or define the secret with 'luksplug secret define'")}
	}
	return secrets.Chain(stores...), nil
}

// given is the store of the passphrase of --passphrase-file, which it returns for every
// reference.
type given struct{ app *app }

func (g *given) String() string { return "--passphrase-file " + g.app.flags.passphrase }

func (g *given) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	secret, err := g.app.readPassphrase(ctx, g.app.flags.passphrase)
	if err != nil {
		return nil, &secrets.StoreError{Store: g.String(), Ref: ref, Err: err}
	}
	return secret, nil
}
