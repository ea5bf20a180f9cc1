package hotplug

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/qmp"
)

// StepReport says how a step went.
type StepReport struct {
	Step     blockgraph.Step
	Duration time.Duration
	// Err is QEMU's refusal, nil when the step was done.
	Err error
	// Settled is true when no answer came and QEMU had to be asked what
	// became of the step.
	Settled bool
}

// Apply executes a plan. It returns when every step is done, or when what was
// done has been taken back: the error is then a [*RolledBackError], or a
// [*LeftBehindError] where that did not work out. The plan's names must be free
// in the VM; Attach makes sure of it.
func (vm *VM) Apply(ctx context.Context, plan *blockgraph.Plan, values Values) ([]StepReport, error) {
	r := &run{vm: vm, plan: plan, values: values}
	if err := r.steps(ctx); err != nil {
		return r.reports, r.fail(ctx, err)
	}
	return r.reports, nil
}

// run is one execution of a plan.
type run struct {
	vm      *VM
	plan    *blockgraph.Plan
	values  Values
	done    []blockgraph.Step // what a failure must take back, in order
	reports []StepReport
}

// steps executes the steps in order, up to the first that is not done.
func (r *run) steps(ctx context.Context) error {
	for _, s := range r.plan.Steps {
		if err := r.step(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// step executes one step and takes note of it. An error means that the step was
// not done.
func (r *run) step(ctx context.Context, s blockgraph.Step) error {
	cmd, err := r.values.command(s.Do)
	if err != nil {
		return err
	}
	begin := time.Now()
	_, err = r.vm.client.Execute(ctx, cmd)
	settled := false
	var unknown *qmp.UnknownOutcomeError
	if errors.As(err, &unknown) {
		err = r.settle(ctx, s, err)
		settled = true
	}
	report := StepReport{Step: s, Duration: time.Since(begin), Err: err, Settled: settled}
	r.reports = append(r.reports, report)
	if err == nil {
		r.note(s)
		r.vm.log.WithField("disk", r.plan.Graph.Target).WithField("step", s.Do.Execute+" "+s.Subject).
			WithField("duration", report.Duration.String()).Debug("step done")
	}
	if r.vm.opts.OnStep != nil {
		r.vm.opts.OnStep(report)
	}
	if err != nil {
		return fmt.Errorf("step %d of %d (%s %s): %w", len(r.reports), len(r.plan.Steps), s.Do.Execute, s.Subject, err)
	}
	return nil
}

// note records that a step was done: it has to be taken back, or, for a
// release, nothing is left of what it releases.
func (r *run) note(s blockgraph.Step) {
	if s.Kind != blockgraph.StepRelease {
		r.done = append(r.done, s)
		return
	}
	for i, d := range r.done {
		if d.Subject == s.Subject {
			r.done = append(r.done[:i:i], r.done[i+1:]...)
			return
		}
	}
}

// settle finds out what became of a step that got no answer: QEMU is asked what
// exists. It returns nil when the step was done and the caller still wants the
// plan to go on.
func (r *run) settle(ctx context.Context, s blockgraph.Step, cause error) error {
	vm := r.vm
	after, cancel := vm.recovery(ctx)
	defer cancel()
	vm.log.WithField("disk", r.plan.Graph.Target).WithField("step", s.Do.Execute+" "+s.Subject).
		Warnf("no answer (%v): asking QEMU what became of it", cause)
	exists, err := vm.exists(after, s)
	if err != nil {
		// Not known, and so possibly there: rolling back will ask again.
		r.done = append(r.done, s)
		return errors.Join(cause, err)
	}
	if exists == (s.Kind == blockgraph.StepRelease) {
		return cause // not done
	}
	if ctx.Err() != nil {
		r.note(s) // done, but nobody wants the rest
		return cause
	}
	return nil
}

// exists tells whether what the step makes or releases is there. It waits for
// nothing: QEMU executes the commands of a monitor in order, and the question
// comes after the step on the same connection, or on a new one after QEMU has
// finished with the old one.
func (vm *VM) exists(ctx context.Context, s blockgraph.Step) (bool, error) {
	if err := vm.reconnect(ctx); err != nil {
		return false, err
	}
	state, err := vm.State(ctx)
	if err != nil {
		return false, fmt.Errorf("ask QEMU what exists: %w", err)
	}
	switch s.Kind {
	case blockgraph.StepNode:
		return state.Node(s.Subject) != nil, nil
	case blockgraph.StepDevice:
		_, ok := state.Devices[s.Subject]
		return ok, nil
	}
	_, ok := state.Objects[s.Subject]
	return ok, nil
}

// fail takes back what was done and returns the error that tells how that went.
func (r *run) fail(ctx context.Context, cause error) error {
	vm, target := r.vm, r.plan.Graph.Target
	after, cancel := vm.recovery(ctx)
	defer cancel()
	if err := vm.reconnect(after); err != nil {
		return &LeftBehindError{Target: target, Left: r.names(), Unverified: true, Err: errors.Join(cause, err)}
	}
	for i := len(r.done) - 1; i >= 0; i-- {
		s := r.done[i]
		if err := vm.undo(after, s); err != nil {
			// What cannot be taken back is named below, after a look at what
			// is really there; the first error stays the one that is reported.
			vm.log.WithField("disk", target).WithField("step", s.Undo.Execute+" "+s.Subject).Warnf("cannot be taken back: %v", err)
		}
	}
	state, err := vm.State(after)
	if err != nil {
		return &LeftBehindError{Target: target, Left: r.names(), Unverified: true, Err: errors.Join(cause, err)}
	}
	if h := state.Holding(target); h != nil {
		return &LeftBehindError{Target: target, Left: h.Left(), Err: cause}
	}
	return &RolledBackError{Target: target, Err: cause}
}

// names names what the run has made, for the case that nobody can look.
func (r *run) names() []string {
	var out []string
	for _, s := range r.done {
		out = append(out, string(s.Kind)+" "+s.Subject)
	}
	if len(out) == 0 {
		return []string{"nothing that is known of"}
	}
	return out
}

// undo takes one step back. What is not there any more counts as taken back.
func (vm *VM) undo(ctx context.Context, s blockgraph.Step) error {
	switch s.Kind {
	case blockgraph.StepNode:
		return vm.deleteNode(ctx, s.Subject)
	case blockgraph.StepDevice:
		return vm.unplug(ctx, s.Subject)
	}
	return vm.deleteObject(ctx, s.Subject)
}
