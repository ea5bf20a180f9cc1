package apply

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/qmp"
)

// StepReport is the result of a step.
type StepReport struct {
	Step     blockgraph.Step
	Duration time.Duration
	// Err is QEMU's refusal, nil if the step was done.
	Err error
	// Settled is true if no answer came and the outcome of the step was found by querying
	// QEMU.
	Settled bool
}

// Run is one execution of a plan in a VM, together with its changes of the host.
type Run struct {
	Conn   *monitor.Conn
	Host   *host.Host
	Plan   *blockgraph.Plan
	Values *unlock.Values
	// Changes are done before the first step.
	Changes []Change
	// Operation is what the plan is for, in the error of a rollback; "" for an attach.
	Operation string
	// Size is the size that the volume must have, in bytes; 0 for any size.
	Size int64
	// Look checks the nodes before the guest sees the disk; nil for nothing.
	Look func(context.Context, *Run) error
	// OnStep is called after each step; nil for nothing.
	OnStep func(StepReport)
	// OnUnfinished is called whenever that changes with the names of what would be left if
	// the program ended now; nil for nothing.
	OnUnfinished func(left []string)

	done    []blockgraph.Step // the steps to undo in the VM after a failure, in order
	reports []StepReport
}

// Do executes the plan. After a failure all changes have been undone, on the host as
// well, and the error reports whether that succeeded.
func (r *Run) Do(ctx context.Context) ([]StepReport, error) {
	defer r.tell(nil)
	return r.do(ctx)
}

func (r *Run) do(ctx context.Context) ([]StepReport, error) {
	r.tell(r.unfinished())
	if err := prepare(ctx, r.Host, blockgraph.TargetOf(r.Plan.Graph.Target), r.Changes); err != nil {
		return nil, err
	}
	err := r.steps(ctx)
	if err != nil {
		err = r.rollBack(ctx, err)
	}
	return r.reports, err
}

// DoThen is Do, and then calls then, whose failure is one of the plan.
func (r *Run) DoThen(ctx context.Context, then func(context.Context) error) error {
	defer r.tell(nil)
	if _, err := r.do(ctx); err != nil {
		return err
	}
	if err := then(ctx); err != nil {
		return r.rollBack(ctx, err)
	}
	return nil
}

// DoAndVerify is Do, and verifies that the VM has everything that the plan makes, which
// it returns.
func (r *Run) DoAndVerify(ctx context.Context) (*inventory.AttachedDisk, []StepReport, error) {
	defer r.tell(nil)
	if reports, err := r.do(ctx); err != nil {
		return nil, reports, err
	}
	disk, err := r.verify(ctx)
	if err != nil {
		err = r.rollBack(ctx, err)
	}
	return disk, r.reports, err
}

// steps executes the steps in order, up to the first that is not done. Headers that are
// handed over as files exist until the nodes that read them are open.
func (r *Run) steps(ctx context.Context) error {
	unread := r.files()
	var user hostproc.Credential
	if len(unread) > 0 {
		var err error
		if user, err = r.Host.User(ctx); err != nil {
			return err
		}
	}
	remove, err := r.Values.HandOver(r.Plan.Graph, user)
	defer remove()
	if err != nil {
		return err
	}
	return Steps(ctx, r.Plan.Steps, func(ctx context.Context, s blockgraph.Step) error {
		if s.Kind == blockgraph.StepDevice {
			if err := r.checkNodes(ctx); err != nil {
				return &unsentError{err}
			}
		}
		if err := withOverlay(ctx, r.Host, r.Conn, s, r.Values, func() error { return r.step(ctx, s) }); err != nil {
			return err
		}
		if s.Kind == blockgraph.StepNode && unread[s.Subject] {
			delete(unread, s.Subject)
			if len(unread) == 0 {
				remove()
			}
		}
		return nil
	})
}

// files returns the names of the nodes whose headers or images are handed over as files.
func (r *Run) files() map[string]bool {
	out := map[string]bool{}
	if g := r.Plan.Graph.Guard; g != nil && g.File != "" {
		out[g.Node] = true
	}
	for _, h := range r.Plan.Graph.Headers {
		if h.File != "" {
			out[h.Node] = true
		}
	}
	return out
}

// checkNodes checks the nodes when all of them exist, before the guest sees the disk.
func (r *Run) checkNodes(ctx context.Context) error {
	err := r.checkSize(ctx)
	if err == nil && r.Look != nil {
		err = r.Look(ctx, r)
	}
	return err
}

// checkSize compares the size of the volume in QEMU with the size by the original header,
// before the guest sees the disk: QEMU itself knows only the ephemeral header.
func (r *Run) checkSize(ctx context.Context) error {
	if r.Size == 0 {
		return nil
	}
	// Query only the nodes: QEMU takes 0.07 ms for each.
	state, err := inventory.Nodes(ctx, r.Conn)
	if err != nil {
		return fmt.Errorf("query the size of the volume: %w", err)
	}
	top, size := r.Plan.Graph.Top().Name, int64(0)
	if n := state.Node(top); n != nil {
		size = n.Image.VirtualSize
	}
	if size != r.Size {
		return fmt.Errorf("QEMU takes node %s for %d bytes, and by its LUKS header it has %d: %w", top, size, r.Size, errSize)
	}
	return nil
}

// errSize reports that the volume in QEMU is not the one that its header describes.
var errSize = errors.New("the volume has another size in QEMU than by its header")

// step executes one step and records it. An error means that the step was not done.
func (r *Run) step(ctx context.Context, s blockgraph.Step) error {
	if s.Kind != blockgraph.StepRelease && s.Kind != blockgraph.StepLimit {
		r.tell(append(r.unfinished(), nameOf(s)))
	}
	begin, settled := time.Now(), false
	err := Send(ctx, r.Conn, s, r.Values)
	if unknown := (*qmp.UnknownOutcomeError)(nil); errors.As(err, &unknown) {
		err, settled = r.settle(ctx, s, err), true
	}
	report := StepReport{Step: s, Duration: time.Since(begin), Err: err, Settled: settled}
	r.reports = append(r.reports, report)
	if err == nil {
		r.keep(s)
		r.tell(r.unfinished())
		r.log(s).WithField("duration", report.Duration.String()).Debug("step done")
	}
	if r.OnStep != nil {
		r.OnStep(report)
	}
	return err
}

// keep records that a step was done: it has to be undone, or, for a release, the released
// object need not be removed any more.
func (r *Run) keep(s blockgraph.Step) {
	switch s.Kind {
	case blockgraph.StepLimit: // goes with the device
	case blockgraph.StepRelease:
		if i := slices.IndexFunc(r.done, func(d blockgraph.Step) bool { return d.Subject == s.Subject }); i >= 0 {
			r.done = slices.Delete(slices.Clone(r.done), i, i+1)
		}
	default:
		r.done = append(r.done, s)
	}
}

// settle finds out whether a step without an answer was done, by what exists in QEMU. It
// returns nil if it was and ctx has not ended.
func (r *Run) settle(ctx context.Context, s blockgraph.Step, cause error) error {
	after, cancel := r.Host.Recovering(ctx)
	defer cancel()
	r.log(s).Warnf("no answer (%v): querying QEMU for the outcome", cause)
	exists, err := r.exists(after, s)
	if err != nil {
		// Unknown: rolling back queries again.
		r.done = append(r.done, s)
		return errors.Join(cause, err)
	}
	if exists == (s.Kind == blockgraph.StepRelease) {
		return cause // not done
	}
	if ctx.Err() != nil {
		r.keep(s) // done, but the caller has given up
		return cause
	}
	return nil
}

// exists reports whether the object that the step makes or releases exists. It need not
// wait: QEMU executes the commands of a monitor in order, and the query follows the step
// on the same connection, or on a new one after QEMU has finished with the old one.
func (r *Run) exists(ctx context.Context, s blockgraph.Step) (bool, error) {
	if err := r.Conn.Reconnect(ctx); err != nil {
		return false, err
	}
	if s.Kind == blockgraph.StepLimit { // it may be repeated, and is repeated here
		cmd, err := r.Values.Command(s.Do)
		if err == nil {
			_, err = r.Conn.Query(ctx, cmd)
		}
		return err == nil, err
	}
	state, err := inventory.Read(ctx, r.Conn)
	if err != nil {
		return false, fmt.Errorf("query QEMU for what exists: %w", err)
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
	return slices.ContainsFunc(state.FDSets, func(f inventory.FDSet) bool { return slices.Contains(f.Opaques, s.Subject) }), nil
}

// rollBack undoes the steps in the VM and then the changes of the host, and returns the
// error that reports whether that succeeded.
func (r *Run) rollBack(ctx context.Context, cause error) error {
	instance := r.Plan.Graph.Target
	target := blockgraph.TargetOf(instance)
	after, cancel := r.Host.Recovering(ctx)
	defer cancel()
	unverified := func(err error) error {
		return &outcome.LeftBehindError{Target: target, Left: r.unfinished(), Unverified: true, Err: errors.Join(cause, err)}
	}
	// The disk may still work in a VM that cannot be reached: keep what it needs on the
	// host.
	if err := r.Conn.Reconnect(after); err != nil {
		return unverified(err)
	}
	r.takeBack(after)
	var onHost []string
	for _, l := range undo(after, r.Changes) {
		r.Host.Entry(target).Warnf("cannot be undone: %v", l)
		onHost = append(onHost, l.Name)
	}
	state, err := State(after, r.Conn, r.Host)
	if err != nil {
		return unverified(err)
	}
	if left := slices.Concat(state.Instance(instance).Left(), onHost); len(left) > 0 {
		return &outcome.LeftBehindError{Target: target, Left: left, Err: cause}
	}
	return &outcome.RolledBackError{Target: target, Operation: r.Operation, Err: cause}
}

// Find returns one disk of the VM and the host, nil for none.
func Find(ctx context.Context, c *monitor.Conn, h *host.Host, target string) (*inventory.AttachedDisk, error) {
	state, err := State(ctx, c, h)
	if err != nil {
		return nil, err
	}
	return state.Disk(target), nil
}

// State returns what exists in the VM and, of its disks, on the host. It changes nothing.
func State(ctx context.Context, c *monitor.Conn, h *host.Host) (*inventory.State, error) {
	state, err := inventory.Read(ctx, c)
	if err != nil {
		return nil, err
	}
	state.Host, err = h.Contents(ctx)
	state.Rename()
	return state, err
}

// takeBack undoes the steps that were done. It only logs failures: the caller queries
// what is left, and reports the first error. The guard stays while anything that was made after it
// does: a job may still run.
func (r *Run) takeBack(ctx context.Context) {
	for i, s := range slices.Backward(r.done) {
		if s.Kind == blockgraph.StepNode && s.Guard != nil && len(r.done) > i+1 {
			continue
		}
		if err := takeBack(ctx, r.Conn, s); err != nil {
			r.Host.Entry(r.Plan.Graph.Target).WithField("step", s.Undo.Execute+" "+s.Subject).Warnf("cannot be undone: %v", err)
			continue
		}
		r.done = slices.Delete(r.done, i, i+1)
		r.tell(r.unfinished())
	}
}

// unfinished names what the run has made in the VM and, perhaps, on the host.
func (r *Run) unfinished() []string {
	var out []string
	for _, s := range r.done {
		out = append(out, nameOf(s))
	}
	for _, c := range r.Changes {
		out = append(out, c.Name)
	}
	return out
}

// nameOf names what a step makes.
func nameOf(s blockgraph.Step) string { return string(s.Kind) + " " + s.Subject }

// tell reports what would be left if the program ended now.
func (r *Run) tell(left []string) {
	if r.OnUnfinished != nil {
		r.OnUnfinished(left)
	}
}

func (r *Run) log(s blockgraph.Step) logrus.FieldLogger {
	return r.Host.Entry(r.Plan.Graph.Target).WithField("step", s.Do.Execute+" "+s.Subject)
}
