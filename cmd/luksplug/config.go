package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keystore"
)

// configPath is where the configuration is read from when neither --config nor
// the environment says where. It need not be there.
const (
	configPath     = "/etc/luksplug/config.yaml"
	configVariable = "LUKSPLUG_CONFIG"
)

// configuration is what the file holds; docs/keystores.md explains it.
type configuration struct {
	Connect   string   `yaml:"connect"`   // the URI of the libvirt that has the domains
	Keystores []string `yaml:"keystores"` // URIs, in the order in which they are asked
	State     string   `yaml:"state"`     // the directory of the store that there is without keystores
	Ephemeral string   `yaml:"ephemeral"` // and the directory of its ephemeral secrets
	Hook      struct {
		Timeout duration `yaml:"timeout"` // bound of one call of libvirt's hook, such as 20s
		Log     string   `yaml:"log"`     // where it writes what the user of virsh does not see
		Forget  []string `yaml:"forget"`  // after what end of a domain its keys on this host go
	} `yaml:"hook"`
}

// duration is a time in the words of [time.ParseDuration].
type duration time.Duration

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *duration) UnmarshalYAML(node *yaml.Node) error {
	v, err := time.ParseDuration(node.Value)
	if err == nil && v <= 0 {
		err = fmt.Errorf("the time %s is not positive", node.Value)
	}
	*d = duration(v)
	return err
}

// configError says what is wrong with the configuration.
type configError struct {
	path string
	err  error
}

func (e *configError) Error() string { return fmt.Sprintf("configuration %s: %v", e.path, e.err) }
func (e *configError) Unwrap() error { return e.err }

// readConfig reads the configuration of the path that --config gives, or for ""
// that of the environment, or the usual one. The answer is nil where that is not there.
func readConfig(path string) (*configuration, error) {
	if path == "" {
		path = os.Getenv(configVariable)
	}
	given := path != ""
	if !given {
		path = configPath
	}
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && !given {
		return nil, nil
	}
	if err != nil {
		return nil, &configError{path, err}
	}
	defer func() { _ = file.Close() }() // only read
	if err := onlyOwners(file); err != nil {
		return nil, &configError{path, err}
	}
	text, err := readAll(file, path)
	if err != nil {
		return nil, &configError{path, err}
	}
	c := &configuration{}
	loader, err := yaml.NewLoader(bytes.NewReader(text), yaml.WithKnownFields())
	if err == nil {
		err = loader.Load(c)
	}
	if err != nil && !errors.Is(err, io.EOF) { // a file of comments is one without settings
		return nil, &configError{path, err}
	}
	if err == nil && !errors.Is(loader.Load(&configuration{}), io.EOF) {
		return nil, &configError{path, errors.New("it holds more than one document")}
	}
	if len(c.Keystores) > 0 && (c.State != "" || c.Ephemeral != "") {
		return nil, &configError{path, errors.New("state and ephemeral are about the store that there is without keystores: give the one or the other")}
	}
	for name, directory := range map[string]string{"state": c.State, "ephemeral": c.Ephemeral, "hook, log": c.Hook.Log} {
		if directory != "" && !filepath.IsAbs(directory) {
			return nil, &configError{path, fmt.Errorf("%s: %q is not an absolute path", name, directory)}
		}
	}
	for _, reason := range c.Hook.Forget {
		if !slices.Contains(hook.Reasons(), reason) {
			return nil, &configError{path, fmt.Errorf("hook, forget: %q is not an end of a domain: known are %s", reason, strings.Join(hook.Reasons(), ", "))}
		}
	}
	return c, nil
}

// onlyOwners refuses a file that others may change: who names the key stores
// names where passphrases go and, with exec:, which programs are run.
func onlyOwners(file *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("it is not a regular file")
	case st.Mode&0o022 != 0:
		return fmt.Errorf("others may write to it (mode %04o): chmod go-w it", st.Mode&0o7777)
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("it belongs to user %d: it must belong to root or to the caller, user %d", st.Uid, os.Geteuid())
	}
	return nil
}

// fromFlag says that key stores were named for this one run.
const fromFlag = "--keystore"

// keystoreURIs returns the key stores in the order in which they are asked: those
// of --keystore, else those of the configuration. There are none where the
// default stores are meant, which are the second answer then. from says where
// they were named.
func (a *app) keystoreURIs() (uris []string, defaults *defaultStores, from string, err error) {
	if len(a.flags.keystores) > 0 {
		return a.flags.keystores, nil, fromFlag, nil
	}
	c, err := readConfig(a.flags.config)
	if err != nil {
		return nil, nil, "", err
	}
	if c == nil {
		c = &configuration{}
	}
	if len(c.Keystores) > 0 {
		return c.Keystores, nil, "configuration, keystores", nil
	}
	defaults, err = c.defaults()
	return nil, defaults, "", err
}

// stores opens the key stores, of which none is looked at. Of the default stores
// only those are among them that are there: there may be none.
func (a *app) stores() ([]secrets.Store, error) {
	uris, defaults, from, err := a.keystoreURIs()
	if err != nil {
		return nil, err
	}
	if defaults != nil {
		uris, from = defaults.existing(), "default key store"
	}
	var out []secrets.Store
	for _, uri := range uris {
		s, err := keystore.Open(uri, keystore.Options{Prompt: a.prompter(), ReadPassphrase: a.readPassphrase, Stderr: a.messages(), VM: func() string { return a.vm }})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", from, err)
		}
		out = append(out, s)
	}
	return out, nil
}

// makeDefaults makes the directory in which a secret is to be defined, where nobody
// has named a key store.
func (a *app) makeDefaults(ephemeral bool) error {
	_, defaults, _, err := a.keystoreURIs()
	if err != nil || defaults == nil {
		return err
	}
	path := defaults.state
	if ephemeral {
		path = defaults.ephemeral
	}
	if path == secretDir {
		// QEMU's user passes through /run/luksplug.
		if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
			return err
		}
	}
	return os.MkdirAll(path, 0o700)
}

// defaultStores are the directorys of the stores that there are where nobody has
// named one: an age: store, and a dir: store for what must not last.
type defaultStores struct {
	state, ephemeral string
}

// existing returns the URIs of those that are there.
func (d *defaultStores) existing() []string {
	var out []string
	for _, s := range []struct{ kind, path string }{{"age", d.state}, {"dir", d.ephemeral}} {
		if _, err := os.Lstat(s.path); !errors.Is(err, fs.ErrNotExist) {
			out = append(out, s.kind+":"+(&url.URL{Path: s.path}).EscapedPath())
		}
	}
	return out
}

// defaults returns the directorys of the default stores.
func (c *configuration) defaults() (*defaultStores, error) {
	d := &defaultStores{c.State, c.Ephemeral}
	if d.state == "" {
		var err error
		if d.state, err = stateDir(os.Geteuid(), os.Getenv); err != nil {
			return nil, err
		}
	}
	if d.ephemeral == "" {
		d.ephemeral = ephemeralDir(os.Geteuid(), os.Getenv)
	}
	return d, nil
}

// stateDir is where a user's secrets are when nobody has said where: see
// file-hierarchy(7) and the XDG Base Directory Specification.
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
	return "", &usageError{errors.New("where are secrets kept? set HOME or XDG_STATE_HOME, or give --keystore URI")}
}

// ephemeralDir is where ephemeral secrets are.
func ephemeralDir(uid int, env func(string) string) string {
	if runtime := env("XDG_RUNTIME_DIR"); uid != 0 && filepath.IsAbs(runtime) {
		return filepath.Join(runtime, "luksplug", "secrets")
	}
	if uid != 0 {
		return fmt.Sprintf("/run/user/%d/luksplug/secrets", uid)
	}
	return secretDir
}
