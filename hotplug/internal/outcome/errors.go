package outcome

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
)

// PreflightError reports that a disk was refused before anything was changed.
type PreflightError struct {
	// Target is the disk's target, such as "vdb"; "" if it is not about one disk.
	Target string
	// Cause is one of [Causes]. errors.Is finds it.
	Cause error
	// Reason tells what is wrong and how to fix it. The error's text has it in place of
	// the cause.
	Reason string
	// Err is the underlying error, nil for none.
	Err error
}

func (e *PreflightError) Error() string {
	text := "refused: " + e.Reason
	if e.Target != "" {
		text = "disk " + e.Target + " " + text
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the cause and the underlying error.
func (e *PreflightError) Unwrap() []error {
	var out []error
	for _, n := range narrower {
		if errors.Is(e.Cause, n.cause) {
			out = append(out, n.of)
		}
	}
	if e.Cause != nil {
		out = append(out, e.Cause)
	}
	if e.Err != nil {
		out = append(out, e.Err)
	}
	return out
}

// NotThatVM returns the refusal of a VM with [ErrIdentity].
func NotThatVM(format string, args ...any) error {
	return &PreflightError{Cause: ErrIdentity, Reason: ErrIdentity.Error() + ": " + fmt.Sprintf(format, args...)}
}

// VersionError reports that the VM's QEMU lacks a feature that the disk needs.
type VersionError struct {
	// Target is the disk's target.
	Target string
	// Feature is the missing feature.
	Feature blockgraph.Feature
	// Version is the version of the VM's QEMU.
	Version string
	// Err is QEMU's refusal, nil if QEMU was not queried.
	Err error
}

func (e *VersionError) Error() string {
	f := e.Feature
	text := fmt.Sprintf("unsupported by this VM's QEMU %s: disk %s needs %s", e.Version, e.Target, f.Describe())
	or := ""
	if f.Instead != "" {
		or = "; or " + f.Instead
	}
	switch {
	case f.Until != "" && !OlderThan(e.Version, f.Until):
		text += ", which QEMU removed in " + f.Until
		if f.Instead != "" {
			text += ": " + f.Instead
		}
	case f.Since != "" && OlderThan(e.Version, f.Since):
		text += ", which QEMU has since " + f.Since + ": restart or migrate the VM with a newer QEMU" + or
	case f.Library != "":
		text += ", which takes a QEMU that was built with " + f.Library + ": restart or migrate the VM with such a QEMU" + or
	case f.Instead != "":
		text += ", which it does not have: " + f.Instead
	default:
		text += ", which it does not have: restart or migrate the VM with another QEMU"
	}
	if e.Err != nil {
		text += " (" + e.Err.Error() + ")"
	}
	return text
}

// OlderThan reports whether one version of QEMU is older than another, such as "7.2.22
// (Debian ...)" and "9.0". It compares them number by number.
func OlderThan(version, than string) bool {
	version, _, _ = strings.Cut(version, " ")
	have, want := strings.Split(version, "."), strings.Split(than, ".")
	for i := range min(len(have), len(want)) {
		// An unknown form of version counts as old.
		h, _ := strconv.Atoi(have[i])
		w, _ := strconv.Atoi(want[i])
		if h != w {
			return h < w
		}
	}
	return len(have) < len(want)
}

func (e *VersionError) Unwrap() error { return e.Err }

// RolledBackError reports that an operation failed and that all its changes were undone: the
// VM is as it was before, which was verified by query.
type RolledBackError struct {
	// Target is the disk's target.
	Target string
	// Operation is what failed, such as "resized"; "" is "attached".
	Operation string
	// Err is the first error, which made the attach fail.
	Err error
}

func (e *RolledBackError) Error() string {
	return fmt.Sprintf("disk %s was not %s, and the VM is as it was before: %v", e.Target, cmp.Or(e.Operation, "attached"), e.Err)
}

func (e *RolledBackError) Unwrap() error { return e.Err }

// LeftBehindError reports that an operation failed and that something of luksplug's is
// still in the VM or on the host, or may be.
type LeftBehindError struct {
	// Target is the disk's target.
	Target string
	// Left names what is left, each with its kind: "node luksplug-vdb-luks", "note
	// /run/luksplug/vm/ID/vdb.json". It may be empty if Unverified is true.
	Left []string
	// Unverified is true if QEMU could not be queried: what Left names may then exist or
	// not.
	Unverified bool
	// Remedy is what to do about it, "" for a repair.
	Remedy string
	// Err is the first error.
	Err error
}

func (e *LeftBehindError) Error() string {
	is := "left behind"
	if e.Unverified {
		is = "possibly left behind (QEMU could not be queried)"
	}
	left := cmp.Or(strings.Join(e.Left, ", "), "nothing known")
	return fmt.Sprintf("disk %s: %v; %s: %s; %s", e.Target, e.Err, is, left, cmp.Or(e.Remedy, "run luksplug repair when the VM answers again"))
}

func (e *LeftBehindError) Unwrap() error { return e.Err }

// PendingError reports that the guest has not released a device yet after a request. The
// disk still works in the guest. Calling Detach again continues.
type PendingError struct {
	// Target is the disk's target.
	Target string
	// Device is the device's id in QEMU.
	Device string
	// Rejected is true if the guest has refused, rather than not answered.
	Rejected bool
	// Status is the VM's run state, such as "paused", which often is the reason.
	Status string
	// Err is set if the wait was interrupted before its end. The guest may then still
	// release the device, and Detach has to be called again in any case.
	Err error
}

// Unwrap returns e.Err.
func (e *PendingError) Unwrap() error { return e.Err }

func (e *PendingError) Error() string {
	if e.Err != nil && !e.Rejected {
		return fmt.Sprintf("disk %s: %v while the guest was to release device %s, which it still may: run detach again, which then removes what is left of the disk", e.Target, e.Err, e.Device)
	}
	what := "has not released"
	if e.Rejected {
		what = "refuses to release"
	}
	text := fmt.Sprintf("disk %s: the guest %s device %s yet", e.Target, what, e.Device)
	if e.Rejected {
		text = fmt.Sprintf("disk %s: the guest %s device %s", e.Target, what, e.Device)
	}
	if e.Status != "" && e.Status != "running" {
		text += fmt.Sprintf(" (the VM is %s: resume it)", e.Status)
	}
	return text + ": unmount the disk in the guest and run detach again"
}

// NotHeldError reports that luksplug has no disk with that target in the VM.
type NotHeldError struct {
	// Target is the target of the request.
	Target string
	// Held are the targets of the disks that it has there.
	Held []string
	// VM is the name of the VM, "" if it has none.
	VM string
	// Foreign is true if the VM's manager has given it a disk with the target.
	Foreign bool
}

func (e *NotHeldError) Error() string {
	vm := "this VM"
	if e.VM != "" {
		vm = "the VM " + e.VM
	}
	text := fmt.Sprintf("%s has no disk %s of luksplug's", vm, e.Target)
	switch {
	case e.Foreign:
		text += ", but one that was not attached by luksplug: detach it as it was attached, such as with virsh detach-disk"
	case len(e.Held) == 0:
		text += ", nor any other"
	default:
		text += ": it has " + strings.Join(e.Held, ", ")
	}
	return text
}

// LockedError reports that another luksplug has held the lock of the VM for longer than
// LockWait.
type LockedError struct {
	// Path is the lock file.
	Path string
	// Holder is the process id of the lock's holder, 0 if it is unknown.
	Holder int
	// Err is the reason why the wait ended.
	Err error
}

func (e *LockedError) Error() string {
	who := "another process"
	if e.Holder != 0 {
		who = fmt.Sprintf("process %d", e.Holder)
	}
	return fmt.Sprintf("the VM is locked by %s (%s), and %v: try again when that run has ended", who, e.Path, e.Err)
}

func (e *LockedError) Unwrap() error { return e.Err }

// ErrUnusableSecret reports that the secret was found, but QEMU cannot use its value.
var ErrUnusableSecret = errors.New("unusable passphrase")

// SecretError reports that the passphrase of a disk cannot be looked up or used. Nothing
// was changed in the VM.
type SecretError struct {
	// Target is the disk's target.
	Target string
	// Ref names the secret.
	Ref secrets.Reference
	// Err is the store's error.
	Err error
}

func (e *SecretError) Error() string { return "disk " + e.Target + ": " + e.Err.Error() }

func (e *SecretError) Unwrap() error { return e.Err }

// NoAnswerError reports that QEMU has not answered a query in time. The query changes
// nothing. Such a QEMU is usually stalled, and its guest with it: over NFS, for example,
// it queries the server for an image's size whenever its nodes are queried.
type NoAnswerError struct {
	Err error // names the query
}

func (e *NoAnswerError) Error() string {
	command := "a query"
	var unknown *qmp.UnknownOutcomeError
	if errors.As(e.Err, &unknown) {
		command = unknown.Command
	}
	why := "in time"
	if limit := (*ending.Error)(nil); errors.As(e.Err, &limit) {
		why = "before " + limit.Error()
	}
	return "the VM's QEMU does not answer " + command + " " + why + ": try again, and check whether a server of one of its disks hangs, since QEMU may stall until it is back"
}

func (e *NoAnswerError) Unwrap() error { return e.Err }
