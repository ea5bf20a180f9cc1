package outcome

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
)

// PreflightError says that a disk was refused before anything was changed.
type PreflightError struct {
	// Target is the disk's target, such as "vdb"; "" where it is not about one disk.
	Target string
	// Cause is why: one of [Causes]. errors.Is finds it.
	Cause error
	// Reason says what is wrong and what to do about it. The error's text has it in place
	// of the cause.
	Reason string
	// Err is the error below, nil where the reason says it all.
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

// Unwrap returns the cause and the error below it.
func (e *PreflightError) Unwrap() []error {
	var out []error
	if errors.Is(e.Cause, ErrRelabelWouldHelp) || errors.Is(e.Cause, ErrRelabelNeedsRoot) {
		out = append(out, ErrPermission)
	}
	if e.Cause != nil {
		out = append(out, e.Cause)
	}
	if e.Err != nil {
		out = append(out, e.Err)
	}
	return out
}

// VersionError says that the VM's QEMU cannot do what the disk needs.
type VersionError struct {
	// Target is the disk's target.
	Target string
	// Feature is what the QEMU lacks.
	Feature blockgraph.Feature
	// Version is the version that the VM runs.
	Version string
	// Err is QEMU's refusal, nil where it was not queried.
	Err error
}

func (e *VersionError) Error() string {
	f := e.Feature
	text := fmt.Sprintf("unsupported by this VM's QEMU %s: disk %s needs %s", e.Version, e.Target, f.Describe())
	switch {
	case f.Until != "" && !OlderThan(e.Version, f.Until):
		text += ", which QEMU has no more since " + f.Until
	case f.Since != "" && OlderThan(e.Version, f.Since):
		text += ", which QEMU has since " + f.Since + ": restart or migrate the VM with a newer QEMU"
	case f.Library != "":
		text += ", which takes a QEMU that was built with " + f.Library + ": restart or migrate the VM with such a QEMU"
	case f.Instead != "":
		text += ", which it does not have: " + f.Instead
	default:
		text += ", which it does not have: restart or migrate the VM with another QEMU"
	}
	if f.Instead != "" && (f.Since != "" || f.Until != "" || f.Library != "") {
		text += "; or " + f.Instead
	}
	if e.Err != nil {
		text += " (" + e.Err.Error() + ")"
	}
	return text
}

// OlderThan reports whether one version of QEMU is older than another. It compares
// them number by number: "7.2.22 (Debian ...)" and "9.0".
func OlderThan(version, than string) bool {
	version, _, _ = strings.Cut(version, " ")
	have, want := strings.Split(version, "."), strings.Split(than, ".")
	for i := range min(len(have), len(want)) {
		// A QEMU that says something else of itself is taken for an old one.
		h, _ := strconv.Atoi(have[i])
		w, _ := strconv.Atoi(want[i])
		if h != w {
			return h < w
		}
	}
	return len(have) < len(want)
}

func (e *VersionError) Unwrap() error { return e.Err }

// RolledBackError says that an attach failed and that everything it had done
// was taken back: the VM is as it was before, which was verified by query.
type RolledBackError struct {
	// Target is the disk's target.
	Target string
	// Err is the first error, the one that made the attach fail.
	Err error
}

func (e *RolledBackError) Error() string {
	return fmt.Sprintf("disk %s was not attached, and the VM is as it was before: %v", e.Target, e.Err)
}

func (e *RolledBackError) Unwrap() error { return e.Err }

// LeftBehindError says that an operation failed and that something of ours is
// still in the VM or on the host, or may be.
type LeftBehindError struct {
	// Target is the disk's target.
	Target string
	// Left names what is left, each with its kind: "node luksplug-vdb-luks", "note
	// /run/luksplug/vm/ID/vdb.json".
	Left []string
	// Unverified is true where QEMU could not be queried any more: Left is then
	// what may be there.
	Unverified bool
	// Err is the first error.
	Err error
}

func (e *LeftBehindError) Error() string {
	is := "left behind"
	if e.Unverified {
		is = "possibly left behind (QEMU could not be asked)"
	}
	return fmt.Sprintf("disk %s: %v; %s: %s; run luksplug repair when the VM answers again", e.Target, e.Err, is, strings.Join(e.Left, ", "))
}

func (e *LeftBehindError) Unwrap() error { return e.Err }

// PendingError says that the guest has been asked to release a device and has
// not done so yet. The disk still works in the guest. Calling Detach again
// finishes the job.
type PendingError struct {
	// Target is the disk's target.
	Target string
	// Device is the device's id in QEMU.
	Device string
	// Rejected is true when the guest said no, rather than nothing.
	Rejected bool
	// Status is the VM's run state, such as "paused", which often explains it.
	Status string
}

func (e *PendingError) Error() string {
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

// NotHeldError says that luksplug holds no disk of that target in the VM.
type NotHeldError struct {
	// Target is the target of the request.
	Target string
	// Held are the targets that are there.
	Held []string
}

func (e *NotHeldError) Error() string {
	if len(e.Held) == 0 {
		return fmt.Sprintf("luksplug holds no disk %s in this VM, nor any other", e.Target)
	}
	return fmt.Sprintf("luksplug holds no disk %s in this VM: it holds %s", e.Target, strings.Join(e.Held, ", "))
}

// LockedError says that another luksplug has been working on the VM for longer
// than this one was willing to wait.
type LockedError struct {
	// Path is the lock file.
	Path string
	// Holder is the process id of the one that holds it, 0 when unknown.
	Holder int
	// Err is why the wait ended.
	Err error
}

func (e *LockedError) Error() string {
	who := "another process"
	if e.Holder != 0 {
		who = fmt.Sprintf("process %d", e.Holder)
	}
	return fmt.Sprintf("the VM is locked by %s (%s): try again when that run has ended: %v", who, e.Path, e.Err)
}

func (e *LockedError) Unwrap() error { return e.Err }

// ErrUnusableSecret: the secret was found, and QEMU cannot use its value.
var ErrUnusableSecret = errors.New("unusable passphrase")

// SecretError says that the passphrase of a disk is not to be had. Nothing was
// changed in the VM.
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

// NoAnswerError says that QEMU has not answered a question in time. The question
// changes nothing. Such a QEMU is usually stalled, and its guest with it: over NFS, for example, it
// queries the server for an image's size whenever its nodes are queried.
type NoAnswerError struct {
	Err error // names the question
}

func (e *NoAnswerError) Error() string {
	command := "a question"
	var unknown *qmp.UnknownOutcomeError
	if errors.As(e.Err, &unknown) {
		command = unknown.Command
	}
	return "the VM's QEMU does not answer " + command + " in time: see whether a server hangs that has one of its disks, as QEMU may stand still until that is back, and try again"
}

func (e *NoAnswerError) Unwrap() error { return e.Err }
