package hotplug

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/qmp"
)

// checkElsewhere checks what can be known of a disk whose files are on another
// host: whether the VM has one of them open already, by their paths. The rest is
// left to QEMU, see [attach.checkInQEMU].
func (a *attach) checkElsewhere(state *State) error {
	a.vm.log.WithField("disk", a.disk.Target).Warn("the VM runs on another machine: whether others use the disk's files, and whether they may be used, is not checked here")
	for _, image := range a.disk.Images() {
		if !image.Source.Local() {
			continue
		}
		for _, n := range state.Nodes {
			if n.isStorage() && n.File == image.Source.Path {
				return &PreflightError{Target: a.disk.Target, Reason: fmt.Sprintf("the file %s is in use by %s", image.Source, state.user(n))}
			}
		}
	}
	return nil
}

// checkInQEMU has the VM's QEMU tell what this process cannot look at, when the
// nodes are there and before the guest sees anything of them: that an image which
// is taken as it is holds no LUKS header, and that no other disk of the VM has the
// disk's header. Nobody else may have found out, and the guest would destroy data.
func (a *attach) checkInQEMU(ctx context.Context, r *run) error {
	for i, layer := range a.disk.Layers() {
		plain := layer.Encryption == nil && layer.Format == blockgraph.FormatRaw
		if !plain && !detached(*layer) {
			continue // QEMU itself compares what is there with what the XML says
		}
		node := payloadNode(r.plan.Graph, i)
		if node == "" {
			continue // an empty drive, or a vhost-user disk
		}
		if err := r.wantNoHeader(ctx, node, *layer); err != nil {
			return err
		}
	}
	return a.checkVolumes(ctx)
}

func detached(image blockgraph.Image) bool {
	return image.Encryption != nil && image.Encryption.Header != nil
}

// payloadNode returns the name of the node that shows what is in a layer's image,
// encrypted or not.
func payloadNode(graph *blockgraph.Graph, layer int) string {
	name := ""
	for _, n := range graph.Nodes { // from the file upwards
		switch role, number := n.Role.Base(); role {
		case blockgraph.RolePayloadStorage, blockgraph.RolePayloadSlice, blockgraph.RolePayloadFormat:
			if number == layer {
				name = n.Name
			}
		}
	}
	return name
}

// wantNoHeader has QEMU try to open a node as a LUKS volume, and wants it to say
// that it is none. The passphrase is a random one: a volume that there is costs as
// long as it takes to try that, and the disk is refused then.
func (r *run) wantNoHeader(ctx context.Context, node string, image blockgraph.Image) error {
	target := r.plan.Graph.Target
	secret, probe := blockgraph.Name(target, "probe-secret"), blockgraph.Name(target, "probe")
	steps := []blockgraph.Step{
		{Kind: blockgraph.StepObject, Subject: secret, Do: blockgraph.Command{Execute: "object-add", Arguments: blockgraph.Object{
			{Name: "qom-type", Value: "secret"}, {Name: "id", Value: secret}, {Name: "data", Value: rand.Text()}}}},
		{Kind: blockgraph.StepNode, Subject: probe, Do: blockgraph.Command{Execute: "blockdev-add", Arguments: blockgraph.Object{
			{Name: "driver", Value: "luks"}, {Name: "node-name", Value: probe}, {Name: "read-only", Value: true}, {Name: "key-secret", Value: secret}, {Name: "file", Value: node}}}},
	}
	var err error
	for _, s := range steps {
		r.done = append(r.done, s) // whatever becomes of it, rolling back looks for it
		var cmd qmp.Command
		if cmd, err = r.values.command(s.Do); err == nil {
			_, err = r.vm.client.Execute(ctx, cmd)
		}
		if err != nil {
			break
		}
	}
	var refusal *qmp.Error
	switch {
	case errors.Is(err, qmp.ErrNotLUKS):
	case err == nil, errors.Is(err, qmp.ErrWrongPassphrase):
		return hasHeader(target, image, nil)
	case errors.As(err, &refusal):
		return hasHeader(target, image, err)
	default:
		return fmt.Errorf("ask QEMU whether %s holds a LUKS header: %w", image.Source, err)
	}
	r.done = r.done[:len(r.done)-len(steps)]
	if err := r.vm.deleteObject(ctx, secret); err != nil {
		r.done = append(r.done, steps[0])
		return err
	}
	return nil
}

// hasHeader refuses an image that holds a LUKS header, or, with an error of QEMU's,
// perhaps does.
func hasHeader(target string, image blockgraph.Image, err error) error {
	reason := fmt.Sprintf("the image %s is encrypted with LUKS, and the XML has no <encryption>: the guest would see ciphertext and could destroy the header, so add <encryption format='luks'>", image.Source)
	switch {
	case err != nil:
		reason = fmt.Sprintf("the VM's QEMU cannot tell whether the image %s holds a LUKS header", image.Source)
	case detached(image):
		reason = fmt.Sprintf("the payload %s begins with a LUKS header of its own: leave <header> out to use that one", image.Source)
	}
	return &PreflightError{Target: target, Reason: reason, Err: err}
}

// checkVolumes refuses a volume that another disk of the VM has, by the UUID in
// its header.
func (a *attach) checkVolumes(ctx context.Context) error {
	values, err := a.vm.queryAll(ctx, queryNodes)
	if err != nil {
		return fmt.Errorf("ask which volumes there are: %w", err)
	}
	state := &State{}
	if err := decode(values[0], &state.Nodes, queryNodes); err != nil {
		return err
	}
	var ours []string
	for _, n := range state.Nodes {
		if target, _, ok := blockgraph.ParseName(n.Name); ok && target == a.disk.Target && n.Image.Specific.Data.UUID != "" {
			ours = append(ours, n.Image.Specific.Data.UUID)
		}
	}
	for _, n := range state.Nodes {
		target, _, ok := blockgraph.ParseName(n.Name)
		if ok && target == a.disk.Target || !slices.Contains(ours, n.Image.Specific.Data.UUID) {
			continue
		}
		if err := a.checkShared(a.disk, "of LUKS volume "+n.Image.Specific.Data.UUID, state.user(n), a.headerUse(blockgraph.ByHeader)); err != nil {
			return err
		}
		a.vm.log.WithField("disk", a.disk.Target).Warn(a.shared)
	}
	return nil
}
