package apply

import (
	"context"
	"crypto/rand"
	"errors"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/qmp"
)

// ErrCannotTell reports that QEMU refuses to open a node as a LUKS volume for another
// reason than a missing header.
var ErrCannotTell = errors.New("QEMU cannot tell whether it is a LUKS volume")

// HoldsHeader has the VM's QEMU try to open a node as a LUKS volume, and reports whether
// it is one. The passphrase is random: QEMU tries it on a volume, which takes as long as
// any passphrase. If QEMU refuses for another reason, the error wraps [ErrCannotTell].
func (r *Run) HoldsHeader(ctx context.Context, node string) (bool, error) {
	target := r.Plan.Graph.Target
	secret, probe := blockgraph.Name(target, "probe-secret"), blockgraph.Name(target, "probe")
	steps := []blockgraph.Step{
		{Kind: blockgraph.StepObject, Subject: secret, Do: blockgraph.Command{Execute: "object-add", Arguments: blockgraph.Object{
			{Name: "qom-type", Value: "secret"}, {Name: "id", Value: secret}, {Name: "data", Value: rand.Text()}}}},
		{Kind: blockgraph.StepNode, Subject: probe, Do: blockgraph.Command{Execute: "blockdev-add", Arguments: blockgraph.Object{
			{Name: "driver", Value: "luks"}, {Name: "node-name", Value: probe}, {Name: "read-only", Value: true}, {Name: "key-secret", Value: secret}, {Name: "file", Value: node}}}},
	}
	err := Steps(ctx, steps, func(ctx context.Context, s blockgraph.Step) error {
		r.done = append(r.done, s) // rolling back queries whether it exists
		return Send(ctx, r.Conn, s, r.Values)
	})
	var step *StepError
	if errors.As(err, &step) {
		err = step.Err
	}
	var refusal *qmp.Error
	switch {
	case errors.Is(err, qmp.ErrNotLUKS):
	case err == nil, errors.Is(err, qmp.ErrWrongPassphrase):
		return true, nil
	case errors.As(err, &refusal):
		return false, errors.Join(ErrCannotTell, err)
	default:
		return false, err
	}
	r.done = r.done[:len(r.done)-len(steps)]
	if err := DeleteObject(ctx, r.Conn, secret); err != nil {
		r.done = append(r.done, steps[0])
		return false, err
	}
	return false, nil
}
