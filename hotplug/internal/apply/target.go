package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/daemon"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/qmp"
)

// Target is a QEMU that executes the steps of a plan: the VM's, by a [monitor.Conn], or a
// [StorageDaemon].
type Target interface {
	monitor.Querier
	// Execute sends one command, once.
	Execute(ctx context.Context, cmd qmp.Command) (json.RawMessage, error)
}

// StorageDaemon is the [Target] of a storage daemon.
type StorageDaemon struct{ Daemon *daemon.Daemon }

// Execute implements [Target].
func (t StorageDaemon) Execute(ctx context.Context, cmd qmp.Command) (json.RawMessage, error) {
	return t.Daemon.Client().Execute(ctx, cmd)
}

// Query implements [monitor.Querier].
func (t StorageDaemon) Query(ctx context.Context, commands ...qmp.Command) ([]json.RawMessage, error) {
	return monitor.Values(t.QueryEach(ctx, commands...))
}

// QueryEach implements [monitor.Querier].
func (t StorageDaemon) QueryEach(ctx context.Context, commands ...qmp.Command) []qmp.Result {
	return t.Daemon.Client().ExecuteAll(ctx, commands...)
}

// StepError is the failure of a step of a plan.
type StepError struct {
	Step blockgraph.Step
	// Number is the step's number, of Total, from 1 on.
	Number, Total int
	Err           error
}

func (e *StepError) Error() string {
	return fmt.Sprintf("step %d of %d (%s)%s: %v", e.Number, e.Total, e.Command(), outcome.Because(e.Step.Do, e.Err), e.Err)
}

func (e *StepError) Unwrap() error { return e.Err }

// Command names what was executed, and on what.
func (e *StepError) Command() string { return e.Step.Do.Execute + " " + e.Step.Subject }

// Steps executes the steps in order with do, up to the first that fails: the error is
// then a [*StepError].
func Steps(ctx context.Context, steps []blockgraph.Step, do func(context.Context, blockgraph.Step) error) error {
	for i, s := range steps {
		err := do(ctx, s)
		if unsent := (*unsentError)(nil); errors.As(err, &unsent) {
			return unsent.err
		}
		if err != nil {
			return &StepError{Step: s, Number: i + 1, Total: len(steps), Err: err}
		}
	}
	return nil
}

// unsentError is an error that occurred before a step was sent.
type unsentError struct{ err error }

func (e *unsentError) Error() string { return e.err.Error() }

// Send sends the command of one step, with its secret values and its descriptor.
func Send(ctx context.Context, t Target, s blockgraph.Step, values *unlock.Values) error {
	cmd, err := values.Command(s.Do)
	if err != nil {
		return err
	}
	if cmd.File, err = values.File(s); err != nil {
		return err
	}
	if cmd.File != nil {
		defer fsutil.CloseRead(cmd.File) // QEMU has a copy of the descriptor
	}
	_, err = t.Execute(ctx, cmd)
	return values.Explain(err)
}
