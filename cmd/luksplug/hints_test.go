package main

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/internal/dialing"
	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
)

func TestHint(t *testing.T) {
	t.Parallel()
	wrong := &hotplug.RolledBackError{Target: "vdb", Err: qmp.ErrWrongPassphrase}
	cases := []struct {
		name string
		err  error
		want string // a part of it; "" for no hint
	}{
		{"wrong passphrase", wrong, ""},
		{"another error", fs.ErrNotExist, ""},
		{"a similar target", &hotplug.NotHeldError{Target: "vdb", Held: []string{"sda", "vdc"}}, "did you mean vdc?"},
		{"no similar target", &hotplug.NotHeldError{Target: "vdb", Held: []string{"sda"}}, ""},
		{"a socket that looks like a domain", fmt.Errorf("so: %w", &dialing.Error{Err: fs.ErrNotExist}), "--domain box"},
		{"the limit of the command", fmt.Errorf("so: %w", &ending.Error{Limit: time.Minute}), "--timeout"},
		{"another limit", fmt.Errorf("so: %w", &ending.Error{Limit: time.Second}), ""},
		{"a domain that is off", &hotplug.PreflightError{Cause: libvirtvm.ErrOff}, "--persistent"},
		{"a disk that belongs to the domain", fmt.Errorf("refused: %w", libvirtvm.ErrRecorded), "--persistent"},
		{"a domain with disks", fmt.Errorf("refused: %w", libvirtvm.ErrDisks), "--persistent"},
		{"an unsigned record", fmt.Errorf("refused: %w", libvirtvm.ErrUnsigned), "luksplug --domain VM repair --adopt"},
		{"no key", fmt.Errorf("refused: %w", libvirtvm.ErrNoKey), "luksplug --domain VM repair --adopt"},
		{"a damaged key", fmt.Errorf("refused: %w", libvirtvm.ErrKeyFile), "hook check"},
		{"no port", fmt.Errorf("refused: %w", libvirtvm.ErrNoPort), "hook enable vm1"},
		{"no permission", fmt.Errorf("open: %w", fs.ErrPermission), "root"},
		{"a key store that denies access", fmt.Errorf("%w: %w", secrets.ErrDenied, fs.ErrPermission), ""},
	}
	for _, c := range cases {
		f := &flags{domain: "vm1", qmp: "box"}
		got := flagHint(c.err, f) + hintFor(c.err, f)
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

// unhinted are the causes of refusals against which no flag and no command helps.
var unhinted = []error{
	hotplug.ErrTargetTaken, hotplug.ErrNameTaken, hotplug.ErrImageInUse, hotplug.ErrImageUnusable, hotplug.ErrReadOnlyImage,
	hotplug.ErrHeaderUnusable, hotplug.ErrUnexpectedEncryption, hotplug.ErrSystemFile, hotplug.ErrPermission, hotplug.ErrServer, hotplug.ErrRemoteVM,
	hotplug.ErrHelperProcess, hotplug.ErrHostDevice, hotplug.ErrOverlay, hotplug.ErrReservations, hotplug.ErrDiskInUse, hotplug.ErrNotRecorded,
	hotplug.ErrWrongBackup, hotplug.ErrNotDamaged,
	hotplug.ErrNotLUKS, hotplug.ErrNoDevice, hotplug.ErrNodeShared, hotplug.ErrManaged, hotplug.ErrForeignLayout,
	hotplug.ErrSize, hotplug.ErrShrink, hotplug.ErrFixedSize, hotplug.ErrUncopyable,
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
		if hint != "" && !strings.Contains(hint, "--") && !strings.Contains(hint, "'luksplug ") {
			t.Errorf("%v: the hint %q names no flag and no command", cause, hint)
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
