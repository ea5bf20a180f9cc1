package reencrypt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/volume"
)

// ErrEnded reports that QEMU has ended the copy: the disk stays on the old volume.
var ErrEnded = errors.New("the copy has ended before the volumes were in step")

// Waiting says how [Setting.Wait] waits.
type Waiting struct {
	// Poll is the time between two queries, 0 for half a second.
	Poll time.Duration
	// Report is called after each query; nil for nothing.
	Report func(*hotplug.Copy)
	// Retry is the time after which a copy that has no room is resumed, 0 for five seconds.
	Retry time.Duration
}

const (
	defaultPoll  = 500 * time.Millisecond
	defaultRetry = 5 * time.Second
	// firstPoll is the first wait, which is doubled from then on: a small disk is in step soon.
	firstPoll = 20 * time.Millisecond
	// nearEnd is how much may be left to copy when the guest's writes begin to go to both volumes, in bytes, or in shares of all.
	nearEnd      = 64 << 20
	nearEndShare = 20
)

// NearEnd reports whether so little is left to copy that [Setting.Wait] has the guest's writes go to both volumes.
func NearEnd(c *hotplug.Copy) bool {
	return c.Done > 0 && c.Total-c.Done <= max(nearEnd, c.Total/nearEndShare)
}

// Wait waits until the volumes of an entry are in step. When little is left to copy, it has the guest's writes go to both volumes, so
// that this is reached however much the guest writes. A copy without room is resumed again and again. ctx bounds it: the copy
// goes on without it.
//
// The error wraps [ErrEnded] with QEMU's error if the copy has failed or was canceled, and else is that of the query.
func (s Setting) Wait(ctx context.Context, w Waiting) error {
	longest, retry := max(cmp.Or(w.Poll, defaultPoll), firstPoll), cmp.Or(w.Retry, defaultRetry)
	var converging bool
	var paused time.Time
	for poll := firstPoll; ; poll = min(2*poll, longest) {
		c, err := s.Engine.Copy(ctx)
		if err != nil {
			return err
		}
		if w.Report != nil {
			w.Report(c)
		}
		switch c.Phase {
		case hotplug.CopyInStep:
			return nil
		case hotplug.CopyEnded:
			if c.Err != nil {
				return fmt.Errorf("%w: %w", ErrEnded, c.Err)
			}
			return ErrEnded
		case hotplug.CopyPaused:
			if now := time.Now(); paused.IsZero() {
				paused = now
			} else if now.Sub(paused) >= retry {
				paused = now
				err = s.Engine.Resume(ctx)
			}
		case hotplug.CopyRunning:
			paused = time.Time{}
			if !converging && NearEnd(c) {
				if err = s.Engine.Converge(ctx); err == nil {
					converging = true
				}
			}
		}
		if err != nil && !errors.Is(err, hotplug.ErrNoCopy) { // it has ended meanwhile: the next query tells how
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(poll):
		}
	}
}

// Finish has the disk of an entry use the new volume, once they are in step, and renames the files of the old one. The returned entry
// is that of the old volume, which is kept until [Setting.DiscardOld].
//
// The errors are those of [hotplug.VM.SwitchCopy], which tell on which volume the disk is, and of the journal. A further call, or
// [Setting.Resume], goes on from what was reached.
func (s Setting) Finish(ctx context.Context, e Entry) (Entry, *hotplug.Switched, error) {
	lock, err := s.Journal.Lock(ctx, e.ID, nil)
	if err != nil {
		return e, nil, err
	}
	defer lock.Release()
	refs, err := s.refer(ctx, e)
	if err != nil {
		return e, nil, err
	}
	switched, err := s.Engine.Switch(ctx, hotplug.Switch{
		Before: func(ctx context.Context) error { return s.commit(ctx, e, refs) },
		Undo:   func(ctx context.Context) error { return s.takeBack(ctx, e, refs) },
	})
	if err != nil {
		return e, nil, err
	}
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoing)
	defer cancel()
	e, err = s.switched(after, e)
	return e, switched, err
}

// commit makes the new volume the one that is found after a crash. The old one is marked first, so that at no time both can be
// attached: a guest that wrote to one of them would make them differ.
func (s Setting) commit(ctx context.Context, e Entry, refs References) error {
	if _, err := s.Journal.Update(e.ID, PhaseSwitching); err != nil {
		return err
	}
	if err := e.Source.mark(ctx, e.ID); err != nil && !errors.Is(err, volume.ErrNoAttributes) { // Prepare has warned
		return err
	}
	if err := refs.Move(ctx); err != nil {
		return err
	}
	return e.Target.complete(ctx)
}

// takeBack undoes commit, in the reverse order.
func (s Setting) takeBack(ctx context.Context, e Entry, refs References) error {
	if err := e.Target.mark(ctx, e.ID); err != nil {
		return err
	}
	if err := refs.MoveBack(ctx); err != nil {
		return err
	}
	if err := e.Source.complete(ctx); err != nil {
		return err
	}
	_, err := s.Journal.Update(e.ID, PhaseCopying)
	return err
}

// Cancel ends the copy of an entry, and removes the new volume, with its secret if that was made for it. The disk stays on the old
// one.
//
// The errors are those of [hotplug.VM.CancelCopy], of [volume.Destroy] and of the journal. It wraps [hotplug.ErrSwitched] if the
// disk uses the new volume already. A further call goes on.
func (s Setting) Cancel(ctx context.Context, e Entry) error {
	lock, err := s.Journal.Lock(ctx, e.ID, nil)
	if err != nil {
		return err
	}
	defer lock.Release()
	if e, err = s.Journal.Read(e.ID); err != nil {
		return err
	}
	if e.Phase.Switched() {
		return fmt.Errorf("re-encryption %s: %w", e.ID, hotplug.ErrSwitched)
	}
	if err := s.Engine.Cancel(ctx); err != nil && !errors.Is(err, hotplug.ErrNoCopy) {
		return err
	}
	refs, err := s.refer(ctx, e)
	if err != nil {
		return err
	}
	return s.drop(ctx, e, refs)
}

// ErrNotSwitched reports that the disk still uses the old volume.
var ErrNotSwitched = errors.New("the disk uses the old volume")

// DiscardOld destroys the old volume of an entry, and its secret if the new volume has another one. What a snapshot or a backup of the
// host has of it stays.
//
// The error wraps [ErrNotSwitched] before [Setting.Finish] has ended. The others are those of [volume.Destroy] and of the journal. A
// further call goes on.
func (s Setting) DiscardOld(ctx context.Context, e Entry) error {
	lock, err := s.Journal.Lock(ctx, e.ID, nil)
	if err != nil {
		return err
	}
	defer lock.Release()
	if e, err = s.Journal.Read(e.ID); err != nil {
		return err
	}
	if e.Phase != PhaseSourceKept {
		return fmt.Errorf("re-encryption %s: %w", e.ID, ErrNotSwitched)
	}
	if err := s.remove(ctx, e.Source, e.Target, ""); err != nil {
		return err
	}
	return s.Journal.Remove(e.ID)
}

// Outcome is what [Setting.Resume] has found.
type Outcome string

// The outcomes.
const (
	// OutcomeCopying: QEMU copies. [Setting.Wait] and [Setting.Finish] go on.
	OutcomeCopying Outcome = "copying"
	// OutcomeDone: the disk uses the new volume, also at its next start.
	OutcomeDone Outcome = "done"
	// OutcomeDropped: the disk uses the old volume, and nothing is left of the new one.
	OutcomeDropped Outcome = "dropped"
)

// Resume finds out how far an interrupted re-encryption is, and finishes what only this host has to do: it moves references to the
// volume that is complete, renames the old one, or removes the new one if it will not be completed. It asks the VM; of a VM that has
// ended (Engine is nil) or does not have the disk, the marks of both volumes tell.
//
// The errors are those of the query, of [volume.Destroy] and of the journal. Nothing is decided without an answer.
func (s Setting) Resume(ctx context.Context, e Entry) (Entry, Outcome, error) {
	lock, err := s.Journal.Lock(ctx, e.ID, nil)
	if err != nil {
		return e, "", err
	}
	defer lock.Release()
	if e, err = s.Journal.Read(e.ID); err != nil {
		return e, "", err
	}
	switch e.Phase {
	case PhaseSourceKept:
		return e, OutcomeDone, nil
	case PhaseSwitched:
		if err = s.end(ctx); err == nil {
			e, err = s.switched(ctx, e)
		}
		return e, OutcomeDone, err
	}
	found, err := s.find(ctx, e)
	if err != nil {
		return e, "", err
	}
	refs, err := s.refer(ctx, e)
	if err != nil {
		return e, "", err
	}
	switch found {
	case OutcomeCopying:
		if e.Phase == PhaseSwitching { // the run has ended before the switch
			if err := s.takeBack(ctx, e, refs); err != nil {
				return e, "", err
			}
		}
		e, err = s.Journal.Update(e.ID, PhaseCopying)
	case OutcomeDone:
		e, err = s.keep(ctx, e, refs)
	case OutcomeDropped:
		err = s.drop(ctx, e, refs)
	}
	return e, found, err
}

// keep finishes a re-encryption whose new volume is the disk's.
func (s Setting) keep(ctx context.Context, e Entry, refs References) (Entry, error) {
	if err := s.commit(ctx, e, refs); err != nil {
		return e, err
	}
	if err := s.end(ctx); err != nil {
		return e, err
	}
	return s.switched(ctx, e)
}

// drop removes the new volume of a copy that has ended.
func (s Setting) drop(ctx context.Context, e Entry, refs References) error {
	if err := s.end(ctx); err != nil {
		return err
	}
	if e.Phase == PhaseSwitching {
		if err := s.takeBack(ctx, e, refs); err != nil {
			return err
		}
	}
	return s.discardNew(ctx, e)
}

// end removes the parts of the volume that the disk does not use from the VM.
func (s Setting) end(ctx context.Context) error {
	if s.Engine == nil {
		return nil
	}
	err := s.Engine.End(ctx)
	if missing := (*hotplug.NotHeldError)(nil); errors.Is(err, hotplug.ErrNoCopy) || errors.As(err, &missing) {
		return nil
	}
	return err
}

// find asks which volume the disk uses.
func (s Setting) find(ctx context.Context, e Entry) (Outcome, error) {
	if s.Engine == nil {
		return findOffline(ctx, e)
	}
	c, err := s.Engine.Copy(ctx)
	if err == nil && c.Phase != hotplug.CopyEnded {
		return OutcomeCopying, nil
	}
	if err != nil && !errors.Is(err, hotplug.ErrNoCopy) {
		if missing := (*hotplug.NotHeldError)(nil); errors.As(err, &missing) {
			return findOffline(ctx, e)
		}
		return "", err
	}
	payload, err := s.Engine.Payload(ctx)
	switch {
	case err != nil:
		return "", err
	case image.SameFile(payload, e.Target.Payload):
		return OutcomeDone, nil
	}
	return OutcomeDropped, nil
}

// findOffline tells by the marks of the volumes, none of which a VM has. A new volume without its mark is complete once the switch has
// begun. If both are marked, the run has ended between the two marks, and both are equal.
func findOffline(ctx context.Context, e Entry) (Outcome, error) {
	if e.Phase != PhaseSwitching {
		return OutcomeDropped, nil
	}
	source, err := e.Source.state(ctx, "")
	if err != nil {
		return "", err
	}
	target, err := e.Target.state(ctx, e.ID)
	if err != nil {
		return "", err
	}
	if target == stateComplete || target == stateMarked && source == stateMarked {
		return OutcomeDone, nil
	}
	return OutcomeDropped, nil
}
