package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

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
		{"an unsigned record", false, fmt.Errorf("refused: %w", libvirtvm.ErrUnsigned), "luksplug --domain VM repair --adopt"},
		{"no key", false, fmt.Errorf("refused: %w", libvirtvm.ErrNoKey), "luksplug --domain VM repair --adopt"},
		{"a damaged key", false, fmt.Errorf("refused: %w", libvirtvm.ErrKeyFile), "hook check"},
		{"no port", false, fmt.Errorf("refused: %w", libvirtvm.ErrNoPort), "hook enable vm1"},
		{"no permission", false, fmt.Errorf("open: %w", fs.ErrPermission), "root"},
		{"a key store that denies access", false, fmt.Errorf("%w: %w", secrets.ErrDenied, fs.ErrPermission), ""},
	}
	for _, c := range cases {
		err := withNewline(c.err, &given{newline: c.newline})
		got := hintOf(err) + hintFor(err, "vm1")
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestFindingHint: the hint against a cause names the flag that helps.
func TestFindingHint(t *testing.T) {
	t.Parallel()
	for cause, want := range map[libvirtvm.Cause]string{libvirtvm.CauseSecretNeeded: "--prepare", libvirtvm.CauseNoShell: "--shell", libvirtvm.CauseUnverified: "--adopt"} {
		if got := findingHint(cause); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", cause, got, want)
		}
	}
	if got := findingHint(""); got != "" {
		t.Errorf("a hint for nothing: %q", got)
	}
}

// TestSecretHint: a bound secret has a hint with the setting that lifts it.
func TestSecretHint(t *testing.T) {
	t.Parallel()
	err := &secrets.StoreError{Store: "dir:/x", Err: fmt.Errorf("%w: so", secrets.ErrOtherVolume)}
	if hint := hintOf(err); !strings.Contains(hint, "any-volume: true") {
		t.Errorf("the hint is %q", hint)
	}
}

// unhinted are the causes of refusals against which no flag helps.
var unhinted = []error{
	hotplug.ErrTargetTaken, hotplug.ErrNameTaken, hotplug.ErrImageInUse, hotplug.ErrImageUnusable, hotplug.ErrReadOnlyImage,
	hotplug.ErrHeaderUnusable, hotplug.ErrUnexpectedEncryption, hotplug.ErrSystemFile, hotplug.ErrPermission, hotplug.ErrServer, hotplug.ErrRemoteVM,
	hotplug.ErrHelperProcess, hotplug.ErrHostDevice, hotplug.ErrOverlay, hotplug.ErrReservations, hotplug.ErrNotRecorded,
	hotplug.ErrNotLUKS, hotplug.ErrNoDevice, hotplug.ErrNodeShared, hotplug.ErrManaged, hotplug.ErrForeignLayout,
}

// TestCauses: every cause of a refusal either has a hint or is in unhinted.
func TestCauses(t *testing.T) {
	t.Parallel()
	for _, cause := range hotplug.Causes() {
		refused := &hotplug.PreflightError{Target: "vdb", Cause: cause, Reason: "so it is"}
		if !errors.Is(refused, cause) {
			t.Errorf("%v: errors.Is does not find it", cause)
		}
		hint, without := hintOf(refused), slices.Contains(unhinted, cause)
		if (hint == "") != without {
			t.Errorf("%v: the hint is %q, and without one: %t", cause, hint, without)
		}
		if hint != "" && !strings.Contains(hint, "--") {
			t.Errorf("%v: the hint %q names no flag", cause, hint)
		}
		if strings.Contains(refused.Error(), "--") || strings.Contains(cause.Error(), "--") {
			t.Errorf("%v names a flag", refused)
		}
	}
	for _, cause := range unhinted {
		if !slices.Contains(hotplug.Causes(), cause) {
			t.Errorf("%v is no cause any more", cause)
		}
	}
}

// TestHintedLog: a warning has the hint of its cause, and not the cause twice.
func TestHintedLog(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	log := logrus.New()
	log.SetOutput(&out)
	log.AddHook(hintedLog{})
	log.WithField(hotplug.CauseField, fmt.Errorf("so: %w", hotplug.ErrExternalWouldHelp)).Warn("the guest stalls")
	if got := out.String(); !strings.Contains(got, "the guest stalls (--unlock external avoids that)") || strings.Contains(got, "so: ") {
		t.Errorf("got %s", got)
	}
}
