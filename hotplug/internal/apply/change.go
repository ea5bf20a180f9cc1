package apply

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/luksplug/luksplug/hotplug/internal/grant"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
)

// Change is a change of the host. It is made before the VM gets the disk, and undone
// after the disk is removed from the VM.
type Change struct {
	// Name names what is left if Undo fails: "the note of disk vdb".
	Name string
	Do   func(ctx context.Context) error
	// Undo undoes Do, also a Do that failed half-way, and one of an earlier run. It may be
	// repeated.
	Undo func(ctx context.Context) error
}

// Left is a change that could not be undone.
type Left struct {
	Name string
	Err  error
}

func (l Left) Error() string { return fmt.Sprintf("%s: %v", l.Name, l.Err) }

// undo undoes changes in reverse order. It tries all of them.
func undo(ctx context.Context, changes []Change) []Left {
	var left []Left
	for i := len(changes) - 1; i >= 0; i-- {
		if err := changes[i].Undo(ctx); err != nil {
			left = append(left, Left{changes[i].Name, err})
		}
	}
	return left
}

// prepare makes the changes of the host. After a failure it undoes them, also the failed
// one, which may be done half-way. The error is then the failure itself or, if something
// could not be undone, an [*outcome.LeftBehindError].
func prepare(ctx context.Context, h *host.Host, target string, changes []Change) error {
	for i, c := range changes {
		failed := c.Do(ctx)
		if failed == nil {
			continue
		}
		after, cancel := h.Recovering(ctx)
		defer cancel()
		left := joinLeft(undo(after, changes[:i+1]))
		if left == nil {
			return failed
		}
		return &outcome.LeftBehindError{Target: target, Left: LeftOnHost(left), Err: both(failed, left)}
	}
	return nil
}

// CleanUpHost undoes all changes of this host for a disk that the VM no longer has: its
// processes, grants of images to QEMU's user, and its note.
func CleanUpHost(ctx context.Context, h *host.Host, target string) error {
	if !h.Local {
		return nil
	}
	none := func(context.Context) error { return nil }
	left := undo(ctx, []Change{note(h, target, none), grants(h, target, none), process(h, target, none)})
	return joinLeft(left)
}

// LeftOnHost returns the names of the changes that could not be undone, from an error of
// [CleanUpHost].
func LeftOnHost(err error) []string {
	var left leftError
	if !errors.As(err, &left) {
		return nil
	}
	names := make([]string, len(left))
	for i, l := range left {
		names[i] = l.Name
	}
	return names
}

// leftError lists the changes that could not be undone.
type leftError []Left

func joinLeft(left []Left) error {
	if len(left) == 0 {
		return nil
	}
	return leftError(left)
}

func (e leftError) Error() string {
	texts := make([]string, len(e))
	for i, l := range e {
		texts[i] = l.Error()
	}
	return strings.Join(texts, "; ")
}

func (e leftError) Unwrap() []error {
	out := make([]error, len(e))
	for i, l := range e {
		out[i] = l.Err
	}
	return out
}

// note is the change that writes a disk's note.
func note(h *host.Host, target string, do func(context.Context) error) Change {
	return Change{Name: "the note of disk " + target, Do: do, Undo: func(ctx context.Context) error {
		return onDisk(ctx, h, target, func(d rundir.Disk) error { return d.Forget() })
	}}
}

// permits is the change that grants QEMU access to the images.
func grants(h *host.Host, target string, do func(context.Context) error) Change {
	return Change{Name: "the permissions of QEMU's user on the images of disk " + target, Do: do, Undo: func(ctx context.Context) error {
		_, err := grant.Revoke(ctx, h, grant.Revocation{Targets: func(t string) bool { return t == target }})
		return err
	}}
}

// process is the change that runs a process for the disk, or makes the directory for
// files that are handed to QEMU: a disk has at most one of them.
func process(h *host.Host, target string, do func(context.Context) error) Change {
	return Change{Name: "the process or files on the VM's host of disk " + target, Do: do, Undo: func(ctx context.Context) error {
		return onDisk(ctx, h, target, func(d rundir.Disk) error { return d.StopDaemons(ctx) })
	}}
}

func onDisk(ctx context.Context, h *host.Host, target string, f func(rundir.Disk) error) error {
	disk, err := h.Disk(ctx, target)
	if err != nil {
		return err
	}
	return f(disk)
}
