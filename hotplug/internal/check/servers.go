package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/remoteimage"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets/luks"
)

// LooksAtServers reports whether the disk has images that a storage daemon checks before
// the VM opens them.
func LooksAtServers(h *host.Host, disk *blockgraph.Disk) bool {
	return h.Local && haveDaemon() && slices.ContainsFunc(disk.Images(), func(i *blockgraph.Image) bool { return byDaemon(*i) })
}

// byDaemon reports whether reading an image needs a storage daemon, which can open it:
// images of servers, and formats that package image does not read. Drives that QEMU
// drives itself, and servers that the guest talks to, are excluded.
func byDaemon(i blockgraph.Image) bool {
	switch i.Source.Kind {
	case blockgraph.SourceNetwork, blockgraph.SourceFile, blockgraph.SourceBlock:
		return !unlock.ReadsHere(i)
	}
	return false
}

// servers checks the images of a layer that need a storage daemon. It refuses what the
// checks of local images refuse, and returns the LUKS header that it has found, nil if
// the header is not among them. local is a detached header of this host, nil for none.
func (l *layerCheck) servers(ctx context.Context, local *luks.Header) (*luks.Header, Findings, error) {
	var found Findings
	layer, h := &l.disk.Image, local
	if header := l.disk.Header(); header != nil && byDaemon(*header) {
		err := l.writable(header.Source, l.headerUse() == writes)
		if err == nil {
			h, found, err = l.headerOnServer(ctx, *header)
		}
		if err != nil {
			return nil, found, err
		}
	}
	if store := layer.DataStore; store != nil && byDaemon(*store) {
		if err := l.store(ctx, *store); err != nil {
			return nil, found, err
		}
	}
	if !byDaemon(*layer) {
		return h, found, nil
	}
	if err := l.writable(layer.Source, true); err != nil {
		return nil, found, err
	}
	embedded, warnings, err := l.payloadOnServer(ctx, h)
	found.Warnings = append(found.Warnings, warnings...)
	if embedded != nil {
		h = embedded
	}
	return h, found, err
}

// headerOnServer checks a detached header, which no other disk may use.
func (l *layerCheck) headerOnServer(ctx context.Context, header blockgraph.Image) (*luks.Header, Findings, error) {
	var found Findings
	names, err := l.remoteHeader(ctx, header)
	if err == nil {
		err = l.alone(header.Source, names.refs)
	}
	if err != nil {
		return nil, found, err
	}
	r, err := l.Images.OpenRemote(ctx, header)
	if err != nil {
		return nil, found, outcome.ServerError(l.disk.Target, header.Source, err)
	}
	name := header.Source.String()
	h, err := luks.ReadHeader(r)
	if err != nil {
		return nil, found, l.headerError(ctx, header.Source, r, err)
	}
	user, err := l.headerUser(ctx, name, h.UUID)
	if err != nil || user == "" {
		return h, found, err
	}
	found.Warnings, err = l.shared(name, user, l.headerUse())
	return h, found, err
}

// payloadOnServer opens the layer's image and checks its content. detached is its detached
// header, nil if it has none or it is not known.
func (l *layerCheck) payloadOnServer(ctx context.Context, detached *luks.Header) (*luks.Header, []string, error) {
	layer := l.disk.Image
	if layer.Encryption != nil && layer.Encryption.Engine == blockgraph.EngineLibRBD {
		layer.Format = blockgraph.FormatRaw // as it is stored
		r, err := l.Images.OpenRemote(ctx, layer)
		if err != nil {
			return nil, nil, outcome.ServerError(l.disk.Target, layer.Source, err)
		}
		return nil, nil, l.tryLibRBD(ctx, r)
	}
	names, err := l.remoteHeader(ctx, layer)
	if err == nil {
		err = l.inHeader(ctx, names)
	}
	switch {
	case err != nil:
		return nil, nil, err
	case layer.Encryption != nil && l.disk.Header() == nil && names.qcow2 != nil:
		return names.qcow2.LUKS, nil, nil
	}
	r, err := l.Images.OpenRemote(ctx, layer)
	switch {
	case err != nil:
		return nil, nil, outcome.ServerError(l.disk.Target, layer.Source, err)
	case layer.Encryption == nil && layer.Format != blockgraph.FormatRaw: // what the guest sees is the guest's
		return nil, nil, nil
	}
	d := everything
	if l.disk.Header() != nil {
		d = start
	}
	h, err := l.content(ctx, r, d)
	var warnings []string
	if err == nil && l.disk.Header() != nil && !l.recovers() {
		warnings, err = l.plainPayload(ctx, r, detached)
	}
	if refused := (*outcome.PreflightError)(nil); err != nil && !errors.As(err, &refused) {
		return nil, nil, outcome.ServerError(l.disk.Target, layer.Source, err)
	}
	return h, warnings, err
}

// writable refuses an image that QEMU can only read, under a writable disk: QEMU would
// open the image and refuse the device.
func (l *layerCheck) writable(s blockgraph.Source, writes bool) error {
	if !writes || l.disk.ReadOnly {
		return nil
	}
	why := ""
	switch n := s.Network.(type) {
	case *blockgraph.Curl:
		why = "as QEMU writes to no " + n.Protocol() + " server"
	case *blockgraph.RBD:
		if n.Snapshot != "" {
			why = "as it is a snapshot"
		}
	}
	if why == "" {
		return nil
	}
	return l.refuse(outcome.ErrReadOnlyImage, nil, "%s can only be read, %s: add <readonly/>", s, why)
}

// inHeader checks what the header of the layer's image says.
func (l *layerCheck) inHeader(ctx context.Context, n named) error {
	if err := l.chain(ctx, l.disk.Image, n.refs); err != nil || n.qcow2 == nil {
		return err
	}
	return l.qcow2(n.qcow2)
}

// decrypted checks the header of the image inside of one that r shows decrypted.
func (l *layerCheck) decrypted(ctx context.Context, r *remoteimage.Image) error {
	if !canName(l.disk.Image.Format) {
		return nil
	}
	names, err := l.readNamed(r, l.disk.Image)
	if err != nil {
		return err
	}
	return l.inHeader(ctx, names)
}

// tryLibRBD has Ceph's library in a storage daemon decrypt the image that r has open as
// it is stored, and checks what it then shows. A wrong passphrase, or a library that is too
// old, then does not stall the guest.
func (l *layerCheck) tryLibRBD(ctx context.Context, r *remoteimage.Image) error {
	raw := l.disk.Image
	raw.Format, raw.DataStore, raw.MetadataCache = blockgraph.FormatRaw, nil, 0
	graph, err := blockgraph.BuildDecrypted(l.disk.Target, raw)
	if err != nil {
		return err
	}
	values, err := unlock.Resolve(ctx, graph, l.Store, unlock.ToStorageDaemon(), unlock.Unlocker{})
	if err != nil {
		return err
	}
	defer values.Wipe()
	h, headerErr := luks.ReadHeader(r) // while it shows the stored bytes
	stored := ""
	if headerErr != nil {
		stored = contains(ctx, r).withoutHeader()
	}
	// The VM's QEMU may have a newer library than the daemon.
	same := l.VM != nil && r.Version() == l.VM.version()
	begin := time.Now()
	defer l.Images.Close(ctx) // it then shows the decrypted image
	err = r.Reopen(ctx, graph, values)
	took := time.Since(begin)
	if err == nil && l.VM != nil && l.inQEMU() {
		// It is going to take about as long.
		if err := l.tooLong(took, "the key slots of "+l.disk.Image.Source.String()); err != nil {
			return err
		}
	}
	if err == nil {
		return l.decrypted(ctx, r)
	}
	enc, source := l.disk.Image.Encryption, l.disk.Image.Source
	switch {
	case errors.Is(err, qmp.ErrWrongPassphrase):
		return &outcome.SecretError{Target: l.disk.Target, Ref: enc.Secrets[0], Err: fmt.Errorf("%s not open %s: %w", namesOf(enc), source, err)}
	case errors.Is(err, qmp.ErrNotLUKS) && headerErr == nil:
		format := blockgraph.EncryptionLUKS
		if h.Version == 2 {
			format = blockgraph.EncryptionLUKS2
		}
		return l.refuse(outcome.ErrHeaderUnusable, err, "%s has a header of LUKS%d, which Ceph's library does not open as %s: see whether it should be <encryption format='%s'>", source, h.Version, enc.Format, format)
	case errors.Is(err, qmp.ErrNotLUKS):
		return l.refuse(outcome.ErrHeaderUnusable, err, "%s has no LUKS header that Ceph's library knows: check the <source>'s name; %s", source, stored)
	case errors.Is(err, outcome.ErrNoAnswer):
		return outcome.ServerError(l.disk.Target, source, err)
	case !same:
		return nil
	case errors.Is(err, qmp.ErrEncryptionUnsupported):
		return &outcome.VersionError{Target: l.disk.Target, Feature: decrypting(graph, enc), Version: l.VM.version(), Err: err}
	}
	return outcome.ServerError(l.disk.Target, source, err)
}

// decrypting names the feature that decrypting an image needs and older versions of Ceph's library lack.
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

// namesOf names the secrets of an image as the subject of a sentence, with its verb.
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
