package main

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
)

func TestHint(t *testing.T) {
	t.Parallel()
	wrong := &hotplug.RolledBackError{Target: "vdb", Err: qmp.ErrWrongPassphrase}
	cases := []struct {
		name    string
		newline bool
		err     error
		want    string // a part of it; "" for no hint
	}{
		{"wrong passphrase", false, wrong, ""},
		{"wrong passphrase with a newline", true, wrong, "newline"},
		{"another error with a newline", true, fs.ErrNotExist, ""},
		{"a disk that belongs to the domain", false, fmt.Errorf("refused: %w", libvirtvm.ErrRecorded), "--persistent"},
		{"a domain with disks", false, fmt.Errorf("refused: %w", libvirtvm.ErrDisks), "--persistent"},
		{"no port", false, fmt.Errorf("refused: %w", libvirtvm.ErrNoPort), "hook enable vm1"},
		{"no permission", false, fmt.Errorf("open: %w", fs.ErrPermission), "root"},
		{"a key store that tells by itself", false, fmt.Errorf("%w: %w", secrets.ErrDenied, fs.ErrPermission), ""},
	}
	for _, c := range cases {
		got := (&app{newline: c.newline, flags: flags{domain: "vm1"}}).hint(c.err)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestFindingHint: every cause that a flag changes has a hint with it.
func TestFindingHint(t *testing.T) {
	t.Parallel()
	for cause, want := range map[libvirtvm.Cause]string{libvirtvm.CauseSecretNeeded: "--prepare", libvirtvm.CauseNoShell: "--shell"} {
		if got := findingHint(cause); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", cause, got, want)
		}
	}
	if got := findingHint(""); got != "" {
		t.Errorf("a hint for nothing: %q", got)
	}
}
