package hotplug

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets/luks"
)

// tryLibRBD has Ceph's library in a storage daemon decrypt the image that r has open
// as it is. A wrong passphrase, or a library that is too old for the image, then
// does not cost the guest the seconds that the VM's QEMU stands still for.
func (a *attach) tryLibRBD(ctx context.Context, disk *blockgraph.Disk, r *remoteImage) error {
	graph, err := blockgraph.BuildDecrypted(disk.Target, disk.Image)
	if err != nil {
		return err
	}
	values, err := Resolve(ctx, graph, a.store, Unlocker{})
	if err != nil {
		return err
	}
	defer values.Wipe()
	h, headerErr := luks.ReadHeader(r) // while it shows what is stored
	same := r.daemon.Client().VersionString() == a.vm.client.VersionString()
	err = r.reopen(ctx, graph, values)
	a.closeRemote(ctx) // it is not what a.servers says any more
	if err == nil {
		return nil
	}
	enc, source := disk.Image.Encryption, disk.Image.Source
	switch {
	case errors.Is(err, qmp.ErrWrongPassphrase):
		return &SecretError{Target: disk.Target, Ref: enc.Secrets[0], Err: fmt.Errorf("%s not open %s: %w", namesOf(enc), source, err)}
	case errors.Is(err, qmp.ErrNotLUKS) && headerErr == nil:
		format := blockgraph.EncryptionLUKS
		if h.Version == 2 {
			format = blockgraph.EncryptionLUKS2
		}
		return &PreflightError{Target: disk.Target, Reason: fmt.Sprintf("%s has a header of LUKS%d, which Ceph's library does not open as %s: see whether it should be <encryption format='%s'>", source, h.Version, enc.Format, format), Err: err}
	case errors.Is(err, qmp.ErrNotLUKS):
		return &PreflightError{Target: disk.Target, Reason: source.String() + " has no LUKS header that Ceph's library knows: check the <source>'s name, or encrypt the image (rbd encryption format)", Err: err}
	case errors.Is(err, errNoAnswer):
		return serverError(disk.Target, source, err)
	case !same:
		// The VM's QEMU may have a newer library than the daemon.
		return nil
	case errors.Is(err, qmp.ErrEncryptionUnsupported):
		return &VersionError{Target: disk.Target, Feature: decrypting(graph, enc), Version: a.vm.client.VersionString(), Err: err}
	}
	return serverError(disk.Target, source, err)
}

// decrypting is what an image asks of Ceph's library that older ones lack.
func decrypting(graph *blockgraph.Graph, enc *blockgraph.Encryption) blockgraph.Feature {
	argument := "encrypt"
	switch {
	case enc.Format == blockgraph.EncryptionLUKSAny:
		argument += ".format"
	case len(enc.Secrets) > 1:
		argument += ".parent"
	}
	for _, s := range graph.Plan().Steps {
		if s.Kind == blockgraph.StepNode {
			return s.Do.Feature(argument)
		}
	}
	return blockgraph.Feature{Name: "decryption by Ceph's library"}
}

// namesOf names the secrets of an image as the subject of a sentence, up to its verb.
func namesOf(enc *blockgraph.Encryption) string {
	names := make([]string, len(enc.Secrets))
	for i, ref := range enc.Secrets {
		names[i] = ref.String()
	}
	if len(names) == 1 {
		return "the secret with " + names[0] + " does"
	}
	return "the secrets with " + strings.Join(names, " and ") + " do"
}

// reopen closes the image, and opens it again by another graph of the same node.
// Deriving keys may take as long as it does: the server has answered before.
func (r *remoteImage) reopen(ctx context.Context, graph *blockgraph.Graph, values *Values) error {
	c := r.daemon.Client()
	if _, err := c.Execute(ctx, qmp.Command{Execute: "blockdev-del", Arguments: qmp.Object{{Name: "node-name", Value: r.node}}}); err != nil {
		return err
	}
	for _, s := range graph.Plan().Steps {
		cmd, err := values.command(s.Do)
		if err != nil {
			return err
		}
		_, err = c.Execute(ctx, cmd)
		if err != nil && ctx.Err() != nil {
			return fmt.Errorf("%w (%w)", errNoAnswer, ctx.Err())
		}
		if err != nil {
			return fmt.Errorf("a storage daemon was to open it before the VM does (%s %s): %w", s.Do.Execute, s.Subject, err)
		}
	}
	return nil
}
