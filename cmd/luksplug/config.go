package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/internal/duration"
	"github.com/luksplug/luksplug/internal/fsutil"
)

// The configuration is read from configPath, which need not exist, unless --config or
// the environment variable names another file.
const (
	configPath     = "/etc/luksplug/config.yaml"
	configVariable = "LUKSPLUG_CONFIG"
)

// configuration is the content of the file; docs/keystores.md explains it.
type configuration struct {
	Connect   string   `yaml:"connect"`    // the URI of the domains' libvirt
	Keystores []string `yaml:"keystores"`  // URIs, in the order in which they are searched
	State     string   `yaml:"state"`      // the directory of the default store
	Ephemeral string   `yaml:"ephemeral"`  // the directory of the default store of ephemeral secrets
	RecordKey string   `yaml:"record-key"` // the path of the key that signs records in the metadata of domains
	Hook      struct {
		Timeout configTime `yaml:"timeout"` // time limit of one call of libvirt's hook, such as 20s
		Log     string     `yaml:"log"`     // the log file of the hook
		Dir     string     `yaml:"dir"`     // libvirt's hooks directory
		Forget  []string   `yaml:"forget"`  // the reasons of a domain's end after which its keys on this host are wiped
		// AnyVolume gives secrets that are bound to a volume to disks of other volumes.
		AnyVolume bool `yaml:"any-volume"`
	} `yaml:"hook"`
}

// recordKey returns the path of the key that signs records.
func (a *app) recordKey() (string, error) {
	c, _, err := readConfig(a.flags.config)
	if err != nil || c.RecordKey != "" {
		return c.RecordKey, err
	}
	return hook.KeyPath()
}

// configTime is a time in the configuration, as [duration.Parse] reads it.
type configTime time.Duration

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *configTime) UnmarshalYAML(node *yaml.Node) error {
	v, err := duration.Parse(node.Value)
	if err == nil && v <= 0 {
		err = fmt.Errorf("the time %s is not positive", node.Value)
	}
	*d = configTime(v)
	return err
}

// readConfig reads the configuration at path, the value of --config; for "" the file is
// that of the environment variable, or configPath. found is false, and the configuration
// is empty, if configPath does not exist. Errors are of type [*usageError].
func readConfig(path string) (c configuration, found bool, err error) {
	if path == "" {
		path = os.Getenv(configVariable)
	}
	given := path != ""
	if !given {
		path = configPath
	}
	file, err := fsutil.OpenLinked(path)
	if errors.Is(err, fs.ErrNotExist) && !given {
		return c, false, nil
	}
	if err == nil {
		defer func() { _ = file.Close() }() // only read
		c, err = parseConfig(file, path)
	}
	if err != nil {
		return configuration{}, true, &usageError{fmt.Errorf("configuration %s: %w", path, err)}
	}
	return c, true, nil
}

func parseConfig(file *os.File, path string) (c configuration, err error) {
	if err := checkWriters(file); err != nil {
		return c, err
	}
	text, err := readAll(file, path)
	if err != nil {
		return c, err
	}
	return loadConfig(text)
}

// loadConfig returns the configuration in a file's content.
func loadConfig(text []byte) (c configuration, err error) {
	loader, err := yaml.NewLoader(bytes.NewReader(text), yaml.WithKnownFields())
	if err != nil {
		return c, err
	}
	var document yaml.Node
	err = loader.Load(&document)
	if errors.Is(err, io.EOF) { // a file of comments
		return configuration{}, nil
	}
	if err != nil {
		return c, notYAML(err)
	}
	if !errors.Is(loader.Load(&yaml.Node{}), io.EOF) {
		return c, errors.New("it has more than one document")
	}
	if err := checkNode(&document, "", reflect.TypeFor[configuration]()); err != nil {
		return c, err
	}
	if err := document.Decode(&c); err != nil {
		return c, notYAML(err)
	}
	return c, c.check()
}

func (c *configuration) check() error {
	if len(c.Keystores) > 0 && (c.State != "" || c.Ephemeral != "") {
		return errors.New("state and ephemeral are the directories of the default stores, which keystores replaces: remove the one or the other")
	}
	for name, directory := range map[string]string{"state": c.State, "ephemeral": c.Ephemeral, "record-key": c.RecordKey, "hook, log": c.Hook.Log} {
		if directory != "" && !filepath.IsAbs(directory) {
			return fmt.Errorf("%s: %q is not an absolute path", name, directory)
		}
	}
	for _, reason := range c.Hook.Forget {
		if !slices.Contains(hook.Reasons(), reason) {
			return fmt.Errorf("hook, forget: %q is not an end of a domain: use %s", reason, strings.Join(hook.Reasons(), ", "))
		}
	}
	return nil
}

// checkWriters refuses a file that other users may change: the key stores in it receive
// passphrases, and those of the kind exec: are programs that run.
func checkWriters(file *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.New("it is not a regular file")
	case st.Mode&0o022 != 0:
		return fmt.Errorf("others may write to it (mode %04o): run chmod go-w", st.Mode&0o7777)
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("it belongs to user %d: it must belong to root or to the caller, user %d", st.Uid, os.Geteuid())
	}
	return nil
}
