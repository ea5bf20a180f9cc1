package hotplug

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
// in the VM, and a storage daemon that the plan needs must run; Attach makes sure
// of it.
func (vm *VM) Apply(ctx context.Context, plan *blockgraph.Plan, values *Values) ([]StepReport, error) {
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
	values  *Values
	size    int64                             // what the volume must have in bytes, 0 for whatever it has
	look    func(context.Context, *run) error // at the nodes, before the device; nil for nothing
	done    []blockgraph.Step                 // what a failure must take back, in order
	reports []StepReport
}

// steps executes the steps in order, up to the first that is not done. Headers
// that are handed over as files exist until the node is open that reads them.
func (r *run) steps(ctx context.Context) error {
	var owner *Process
	if files := r.files(); len(files) > 0 {
		var err error
		if owner, err = r.vm.process(ctx); err != nil {
			return err
		}
	}
	remove, err := r.values.handOver(r.plan.Graph, owner)
	defer remove()
	if err != nil {
		return err
	}
	unread := r.files()
	for _, s := range r.plan.Steps {
		if s.Kind == blockgraph.StepDevice {
			if err := r.checkNodes(ctx); err != nil {
				return err
			}
		}
		if err := r.vm.withOverlay(ctx, s, r.values, r.vm.queryAll, func() error { return r.step(ctx, s) }); err != nil {
			return err
		}
		if s.Kind == blockgraph.StepNode && unread[s.Subject] {
			delete(unread, s.Subject)
			if len(unread) == 0 {
				remove()
			}
		}
	}
	return nil
}

// files returns the names of the nodes whose headers are handed over as files.
func (r *run) files() map[string]bool {
	out := map[string]bool{}
	for _, h := range r.plan.Graph.Headers {
		if h.File != "" {
			out[h.Node] = true
		}
	}
	return out
}

// checkNodes looks at the nodes when they are all there, before the guest sees
// anything of them.
func (r *run) checkNodes(ctx context.Context) error {
	err := r.checkSize(ctx)
	if err == nil && r.look != nil {
		err = r.look(ctx, r)
	}
	return err
}

// checkSize compares the volume with what the original header makes of the
// payload, before the guest sees it: QEMU itself has only the ephemeral header to
// go by.
func (r *run) checkSize(ctx context.Context) error {
	if r.size == 0 {
		return nil
	}
	// Of all queries only this one: it takes QEMU 0.07 ms for each node.
	values, err := r.vm.queryAll(ctx, queryNodes)
	if err != nil {
		return fmt.Errorf("ask for the size of the volume: %w", err)
	}
	state := &State{}
	if err := decode(values[0], &state.Nodes, queryNodes); err != nil {
		return err
	}
	top := r.plan.Graph.Top().Name
	if n := state.Node(top); n == nil || n.Image.VirtualSize != r.size {
		size := int64(0)
		if n != nil {
			size = n.Image.VirtualSize
		}
		return fmt.Errorf("QEMU takes node %s for %d bytes, and by its LUKS header it has %d: %w", top, size, r.size, errSize)
	}
	return nil
}

// errSize: the volume in QEMU is not the one that its header describes.
var errSize = errors.New("the volume has another size in QEMU than by its header")

// step executes one step and takes note of it. An error means that the step was
// not done.
func (r *run) step(ctx context.Context, s blockgraph.Step) error {
	cmd, err := r.values.command(s.Do)
	if err != nil {
		return err
	}
	file, err := r.values.file(s)
	if err != nil {
		return err
	}
	if file != nil {
		cmd.File = file
		defer closeRead(file) // QEMU has a copy of the descriptor
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
		return fmt.Errorf("step %d of %d (%s %s)%s: %w", len(r.reports), len(r.plan.Steps), s.Do.Execute, s.Subject, because(s.Do, err), err)
	}
	return nil
}

// note records that a step was done: it has to be taken back, or, for a
// release, nothing is left of what it releases.
func (r *run) note(s blockgraph.Step) {
	if s.Kind == blockgraph.StepLimit {
		return // goes with the device
	}
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
	if s.Kind == blockgraph.StepLimit { // which may be done again, and is done then
		_, err := vm.query(ctx, qmp.Command{Execute: s.Do.Execute, Arguments: s.Do.Arguments}) // it holds no secret
		return err == nil, err
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
	case blockgraph.StepChardev:
		_, ok := state.Chardevs[s.Subject]
		return ok, nil
	}
	if _, ok := state.Objects[s.Subject]; ok {
		return true, nil
	}
	return slices.ContainsFunc(state.FDSets, func(f FDSet) bool { return slices.Contains(f.Opaques, s.Subject) }), nil
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
	if err := vm.tidy(after, target); err != nil {
		vm.log.WithField("disk", target).Warnf("cannot be removed from this host: %v", err)
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

// verify asks QEMU whether everything that the plan makes is there, and whether
// the device uses the top node.
func (r *run) verify(ctx context.Context, out *Attached) error {
	state, err := r.vm.State(ctx)
	if err != nil {
		return fmt.Errorf("verify what was attached: %w", err)
	}
	graph := r.plan.Graph
	for _, n := range graph.Nodes {
		if state.Node(n.Name) == nil {
			return fmt.Errorf("verify what was attached: QEMU has no node %s, which it said it had added", n.Name)
		}
	}
	if err := r.verifyObjects(state); err != nil {
		return err
	}
	h := state.Holding(graph.Target)
	if h == nil || h.Device != graph.Device().ID {
		return fmt.Errorf("verify what was attached: QEMU has no device %s, which it said it had added", graph.Device().ID)
	}
	// An empty drive and a vhost-user disk have no node.
	if top := graph.Top().Name; top != "" && state.deviceOf([]string{top}) != h.Device {
		return fmt.Errorf("verify what was attached: no device uses node %s", top)
	}
	if len(h.FDSets) > 0 || len(h.Files) > 0 {
		return fmt.Errorf("verify what was attached: the ephemeral header can still be had: %v", h.Left())
	}
	out.Holding = *h
	return nil
}

// verifyObjects compares the objects with the plan, which releases what is only
// needed while something opens.
func (r *run) verifyObjects(state *State) error {
	stays := map[string]bool{}
	for _, s := range r.plan.Steps {
		switch s.Kind {
		case blockgraph.StepObject:
			stays[s.Subject] = true
		case blockgraph.StepRelease:
			if _, object := stays[s.Subject]; object {
				stays[s.Subject] = false
			}
		}
	}
	for id, want := range stays {
		switch _, there := state.Objects[id]; {
		case there && !want:
			return fmt.Errorf("verify what was attached: the object %s is still there, which QEMU said it had deleted", id)
		case !there && want:
			return fmt.Errorf("verify what was attached: QEMU has no object %s, which it said it had added", id)
		}
	}
	return nil
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
	case blockgraph.StepChardev:
		return vm.removeChardev(ctx, s.Subject)
	case blockgraph.StepFDSet:
		id, _ := s.Undo.Arguments.Get("fdset-id").(int64) // package blockgraph's own type
		return vm.removeFDSet(ctx, id)
	}
	return vm.deleteObject(ctx, s.Subject)
}
