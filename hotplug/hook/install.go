package hook

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug/internal/record"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/shell"
)

// Dir is the directory of libvirt's hooks.
const Dir = "/etc/libvirt/hooks"

// scriptName orders the script among those of the site in qemu.d, which libvirt
// runs by name.
const scriptName = "50-luksplug"

// Installation is luksplug as a hook of this host's libvirt: one script in qemu.d.
type Installation struct {
	Dir     string // "" is [Dir]
	Program string // absolute path of luksplug
	// Config is the absolute path of the configuration that the hook uses, "" for the
	// usual one: libvirt gives a hook no environment.
	Config string
}

// Path returns the path of the script.
func (i Installation) Path() string {
	dir := i.Dir
	if dir == "" {
		dir = Dir
	}
	return filepath.Join(dir, "qemu.d", scriptName)
}

// mark is in every script that Install has written.
const mark = "# Written by 'luksplug hook install', and removed by 'luksplug hook uninstall'."

// Script returns the text of the script. It keeps the promise of the package's comment
// also if the program is missing or broken.
func (i Installation) Script() string {
	run := shell.Quote(i.Program)
	if i.Config != "" {
		run += " --config " + shell.Quote(i.Config)
	}
	return `#!/bin/sh
` + mark + `
# libvirt kills a running VM whose hook fails at reconnect, and deletes the saved state of one whose hook fails at restore.
if [ -x ` + shell.Quote(i.Program) + ` ]; then case $2 in restore | reconnect) ` + run + ` hook -- "$@" || exit 0 ;; *) exec ` + run + ` hook -- "$@" ;; esac; elif [ "$2" = prepare ] && grep -q '` + record.Namespace + `'; then echo "luksplug: disks of its belong to domain $1, and the program is not there:" ` + shell.Quote(i.Program) + ` >&2; exit 1; fi
`
}

// ErrForeignScript reports that luksplug did not write the file at [Installation.Path].
var ErrForeignScript = errors.New("this file was not written by luksplug: move it away")

// Install writes the script. changed is false if it was installed already. The errors are
// those of [Installation.Check].
func (i Installation) Install() (changed bool, err error) {
	if !filepath.IsAbs(i.Program) || i.Config != "" && !filepath.IsAbs(i.Config) {
		return false, errors.New("the paths in a hook must be absolute")
	}
	state, err := i.Check()
	if err != nil || state == Current {
		return false, err
	}
	path := i.Path()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, fmt.Errorf("install the hook: %w", err)
	}
	// Not in the directory itself, where libvirt would run the temporary file.
	temporary := filepath.Join(filepath.Dir(filepath.Dir(path)), ".luksplug-"+rand.Text())
	o := fsutil.Options{Mode: 0o755, Durable: true, Temporary: temporary}
	before, statErr := os.Stat(path)
	if err := fsutil.Replace(nil, path, []byte(i.Script()), o); err != nil {
		return false, fmt.Errorf("install the hook: %w", err)
	}
	if state == Other && statErr == nil { // libvirtd has found a hook if it was started after that time
		if err := os.Chtimes(path, time.Time{}, before.ModTime()); err != nil {
			return false, fmt.Errorf("install the hook: %w", err)
		}
	}
	return true, nil
}

// Uninstall removes the script. changed is false if it was not installed.
func (i Installation) Uninstall() (changed bool, err error) {
	state, err := i.Check()
	if err != nil || state == Absent {
		return false, err
	}
	if err := os.Remove(i.Path()); err != nil {
		return false, fmt.Errorf("uninstall the hook: %w", err)
	}
	return true, nil
}

// InstallationState is the result of [Installation.Check].
type InstallationState string

// States of an installation.
const (
	Absent  InstallationState = "not installed"
	Current InstallationState = "installed"
	Other   InstallationState = "installed by another luksplug, or with another configuration"
	// Disabled: libvirt silently skips a file that is not executable.
	Disabled InstallationState = "not executable"
)

// Check returns the state of the installation. The error wraps [ErrForeignScript] if
// luksplug did not write the file.
func (i Installation) Check() (InstallationState, error) {
	path := i.Path()
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Absent, nil
	}
	if err != nil {
		return "", fmt.Errorf("read the hook: %w", err)
	}
	if !bytes.Contains(text, []byte(mark)) {
		return "", fmt.Errorf("%s: %w", path, ErrForeignScript)
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "", fmt.Errorf("read the hook: %w", err)
	case info.Mode()&0o111 != 0o111:
		return Disabled, nil
	case string(text) != i.Script():
		return Other, nil
	}
	return Current, nil
}

// Installed returns the program that the installed script runs, "" if that is unknown.
func (i Installation) Installed() (program string, err error) {
	text, err := os.ReadFile(i.Path())
	if err != nil {
		return "", err
	}
	_, rest, _ := strings.Cut(string(text), "[ -x '")
	program, _, _ = strings.Cut(rest, "' ]")
	return strings.ReplaceAll(program, `'\''`, "'"), nil
}

// InstalledConfig returns the configuration that the installed script uses, "" for the
// usual one or if that is unknown.
func (i Installation) InstalledConfig() string {
	text, err := os.ReadFile(i.Path())
	if err != nil {
		return ""
	}
	_, rest, found := strings.Cut(string(text), " --config ")
	path, _, _ := strings.Cut(rest, "' hook -- ")
	if !found {
		return ""
	}
	return strings.ReplaceAll(strings.TrimPrefix(path, "'"), `'\''`, "'")
}

// Errors of [Installation.Effective].
var (
	// ErrNotInstalled reports that libvirt has no hook of luksplug's that it can run.
	ErrNotInstalled = errors.New("luksplug's hook is not installed on this host: run 'luksplug hook install'")
	// ErrSkipped reports that libvirtd has found no hook when it started, as far as this can be seen.
	ErrSkipped = errors.New("libvirtd was started when it had no hook, and runs none until it is restarted, also no other one that was added since: restart it once, VMs keep running")
)

// Effective returns nil if this host's libvirt runs luksplug as its hook, as far as this can
// be seen. The errors wrap [ErrNotInstalled], [ErrSkipped] and [ErrForeignScript].
func (i Installation) Effective() error {
	state, err := i.Check()
	switch {
	case err != nil:
		return err
	case state == Absent:
		return ErrNotInstalled
	case state == Disabled:
		return fmt.Errorf("%w (%s is %s)", ErrNotInstalled, i.Path(), state)
	case state == Other:
		program, err := i.Installed()
		if err != nil {
			return err
		}
		if info, err := os.Stat(program); err != nil || info.Mode()&0o111 == 0 {
			return fmt.Errorf("%w (%s calls %s, which is not there)", ErrNotInstalled, i.Path(), program)
		}
	}
	if i.Skipped() {
		return ErrSkipped
	}
	return nil
}

// Skipped reports whether the running libvirtd may run no hook: it looks for hooks only when it starts, and none that is
// here is known to have been here then.
func (i Installation) Skipped() bool {
	started, known := LibvirtdStart()
	if !known {
		return false
	}
	if _, err := os.Stat(i.Path()); err != nil {
		return false
	}
	return !i.foundAt(started)
}

// foundAt reports whether a libvirtd that started at that time has certainly found a hook.
func (i Installation) foundAt(started time.Time) bool {
	// Install sets this time: it is that of the first installation.
	if own, err := os.Stat(i.Path()); err == nil && started.After(own.ModTime()) {
		return true
	}
	for _, path := range i.otherHooks() {
		// Unlike the time of modification, which an archive or a package can set, this is when the file got this name and
		// its present mode, or later.
		if changed, err := changeTime(path); err == nil && started.After(changed) {
			return true
		}
	}
	return false
}

// changeTime returns when the inode of a file, or of a link to it, was last changed.
func changeTime(path string) (time.Time, error) {
	var newest time.Time
	for _, stat := range []func(string, *unix.Stat_t) error{unix.Stat, unix.Lstat} {
		var s unix.Stat_t
		if err := stat(path, &s); err != nil {
			return time.Time{}, err
		}
		if t := time.Unix(s.Ctim.Unix()); t.After(newest) {
			newest = t
		}
	}
	return newest, nil
}

// OtherHook reports whether libvirt has another hook of QEMU's now. A libvirtd that was started before it does not run it.
func (i Installation) OtherHook() bool { return len(i.otherHooks()) > 0 }

// otherHooks returns the paths of the other hooks of QEMU's.
func (i Installation) otherHooks() []string {
	dir := filepath.Dir(filepath.Dir(i.Path()))
	paths, _ := filepath.Glob(filepath.Join(dir, "qemu.d", "*")) // the pattern is right
	return slices.DeleteFunc(append(paths, filepath.Join(dir, "qemu")), func(path string) bool {
		info, err := os.Stat(path)
		return err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 || path == i.Path()
	})
}
