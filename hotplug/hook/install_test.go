package hook_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/hotplug/internal/record"
	"github.com/luksplug/luksplug/internal/must"
)

func TestInstall(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	site := filepath.Join(dir, "qemu")
	must.OK(t, os.WriteFile(site, []byte("#!/bin/sh\n"), 0o755))
	i := hook.Installation{Dir: dir, Program: "/opt/it's here/luksplug", Config: "/etc/other.yaml"}
	want := func(state hook.InstallationState) {
		t.Helper()
		if got, err := i.Check(); err != nil || got != state {
			t.Errorf("got %q %v, want %q", got, err, state)
		}
	}
	want(hook.Absent)
	for _, change := range []bool{true, false} {
		if changed, err := i.Install(); err != nil || changed != change {
			t.Errorf("install: %v %v", changed, err)
		}
		want(hook.Current)
	}
	if program, err := i.Installed(); err != nil || program != i.Program {
		t.Errorf("got %q %v", program, err)
	}
	if config := i.InstalledConfig(); config != i.Config {
		t.Errorf("got %q", config)
	}
	must.OK(t, os.Chmod(i.Path(), 0o644))
	want(hook.Disabled)
	if err := i.Effective(); !errors.Is(err, hook.ErrNotInstalled) {
		t.Errorf("not executable: %v", err)
	}
	if changed, err := i.Install(); err != nil || !changed {
		t.Errorf("install: %v %v", changed, err)
	}
	i.Config = ""
	want(hook.Other)
	if err := i.Effective(); !errors.Is(err, hook.ErrNotInstalled) { // there is no such program
		t.Errorf("another program: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".luksplug*")); err != nil || len(left) > 0 || !i.OtherHook() {
		t.Errorf("left %v %v", left, err)
	}
	for _, change := range []bool{true, false} {
		if changed, err := i.Uninstall(); err != nil || changed != change {
			t.Errorf("uninstall: %v %v", changed, err)
		}
		want(hook.Absent)
	}
	if _, err := os.Stat(site); err != nil {
		t.Error(err)
	}
}

func TestInstallKeepsWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	i := hook.Installation{Dir: t.TempDir(), Program: "/bin/luksplug"}
	must.OK(t, os.MkdirAll(filepath.Dir(i.Path()), 0o755))
	must.OK(t, os.WriteFile(i.Path(), []byte("#!/bin/sh\n"), 0o755))
	_, err1 := i.Install()
	_, err2 := i.Uninstall()
	_, err3 := i.Check()
	for _, err := range []error{err1, err2, err3} {
		if !errors.Is(err, hook.ErrForeignScript) {
			t.Errorf("got %v", err)
		}
	}
	if _, err := (hook.Installation{Dir: t.TempDir(), Program: "luksplug"}).Install(); err == nil {
		t.Error("a relative path")
	}
}

// TestScript runs the script, with a program that is there, fails, or is missing.
func TestScript(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := filepath.Join(dir, "it's luksplug")
	i := hook.Installation{Dir: dir, Program: program, Config: "/c.yaml"}
	script := filepath.Join(dir, "script")
	must.OK(t, os.WriteFile(script, []byte(i.Script()), 0o755))
	run := func(operation, xml string) (stdout string, code int) {
		t.Helper()
		cmd := exec.Command(script, "vm 1", operation, "begin", "-")
		cmd.Stdin = strings.NewReader(xml)
		out, err := cmd.Output()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	ours := "<metadata><x xmlns='" + record.Namespace + "'/></metadata>"
	for _, operation := range []string{"prepare", "started", "restore", "reconnect", "release"} {
		if _, code := run(operation, "<domain/>"); code != 0 {
			t.Errorf("without the program: %s of another's domain exits with %d", operation, code)
		}
		want := 0
		if operation == "prepare" {
			want = 1
		}
		if _, code := run(operation, ours); code != want {
			t.Errorf("without the program: %s exits with %d", operation, code)
		}
	}
	write := func(text string) {
		t.Helper()
		must.OK(t, os.WriteFile(program, []byte("#!/bin/sh\n"+text), 0o755))
	}
	write(`printf '%s|' "$@"; cat`)
	for _, operation := range []string{"prepare", "restore"} {
		want := "--config|/c.yaml|hook|--|vm 1|" + operation + "|begin|-|" + ours
		if out, code := run(operation, ours); code != 0 || out != want {
			t.Errorf("%s: got %q, %d", operation, out, code)
		}
	}
	for _, end := range []string{"exit 3", "kill -9 $$"} {
		write(end)
		for operation, succeeds := range map[string]bool{"prepare": false, "started": false, "restore": true, "reconnect": true} {
			if _, code := run(operation, ours); (code == 0) != succeeds {
				t.Errorf("%s: %s exits with %d", end, operation, code)
			}
		}
	}
}

// TestInstallAgain: a libvirtd that has found the hook of an earlier luksplug need not be restarted for the new one.
func TestInstallAgain(t *testing.T) {
	t.Parallel()
	i := hook.Installation{Dir: t.TempDir(), Program: "/bin/luksplug"}
	must.Get(i.Install())(t)
	before := time.Now().Add(-time.Hour).Truncate(time.Second)
	must.OK(t, os.Chtimes(i.Path(), time.Time{}, before))
	i.Program = must.Get(os.Executable())(t)
	must.Get(i.Install())(t)
	if info := must.Get(os.Stat(i.Path()))(t); !info.ModTime().Equal(before) {
		t.Errorf("modified at %s, want %s", info.ModTime(), before)
	}
	if err := (hook.Installation{Dir: t.TempDir(), Program: i.Program}).Effective(); !errors.Is(err, hook.ErrNotInstalled) {
		t.Errorf("got %v", err)
	}
}
