package unlock

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/daemon"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/qmp"
)

// Policy selects the method by which a LUKS volume is opened.
type Policy string

const (
	// Auto unlocks the volume in this process. If the disk's XML or the VM's address makes
	// that impossible, QEMU unlocks it, with a warning; if anything else does, the disk is
	// refused with [outcome.ErrNeedsQEMU]. "" means the same.
	Auto Policy = "auto"
	// QEMU gives QEMU the passphrase. The guest stalls while QEMU derives the key,
	// usually for seconds.
	QEMU Policy = "qemu"
	// External has a storage daemon unlock the volume and export the disk to QEMU:
	// the only method without a stall for a LUKS volume inside of a qcow2 image.
	External Policy = "external"
)

// Choice is the selected method for a disk.
type Choice struct {
	blockgraph.Unlock
	// Because is why QEMU has to unlock the disk, or layers of it, although the policy is
	// [Auto]; nil otherwise.
	Because error
}

// ErrExternalWouldHelp reports that QEMU has to unlock the volume, and that the policy
// [External] would avoid the stall.
var ErrExternalWouldHelp = errors.New("a storage daemon could unlock the volume without a stall")

// reason is the reason why QEMU has to unlock a volume.
type reason struct {
	text  string
	cause error
}

func (r *reason) Error() string { return r.text }
func (r *reason) Unwrap() error { return r.cause }

// Choose selects the method by which the disk's volume is opened in this VM in its
// present state. It changes nothing. Errors in the disk's files are reported by the
// checks, not here.
//
// With [Auto], only what the caller has written gives QEMU the passphrase. What QEMU
// reports (its version, its schema) and what an image holds never does: the disk is then
// refused, with [outcome.ErrNeedsQEMU].
func Choose(ctx context.Context, c *monitor.Conn, h *host.Host, disk *blockgraph.Disk, state *inventory.State, policy Policy) (Choice, error) {
	out := Choice{Unlock: blockgraph.Unlock{Method: blockgraph.MethodQEMU}}
	if !disk.Encrypted() || policy == QEMU {
		return out, nil
	}
	var err error
	if policy == External {
		out.Method = blockgraph.MethodStorageDaemon
		if _, err := h.Process(ctx); err != nil {
			return out, &outcome.PreflightError{Target: disk.Target, Cause: outcome.ErrRemoteVM, Reason: "a storage daemon must run on the VM's host", Err: err}
		}
		out.Dir, err = handOver(ctx, h, disk.Target)
		return out, err
	}
	if out.Because = wantsQEMU(h, disk); out.Because != nil {
		return out, nil
	}
	why, err := whyNotHere(ctx, c, h, disk)
	if err != nil {
		return out, err
	}
	if why != nil {
		return out, &outcome.PreflightError{Target: disk.Target, Cause: outcome.ErrNeedsQEMU,
			Reason: "only QEMU itself could unlock it, which would give it the passphrase", Err: why}
	}
	out.Method = blockgraph.MethodEphemeralHeader
	out.Because = wantsQEMUFor(ByQEMU(disk, out.Method))
	out.Unlock, err = Passing(ctx, c, h, disk.Target, state, out.Unlock)
	return out, err
}

// Passing returns u with the way in which files that exist only in memory are passed to the VM: as descriptors, where the
// monitor passes them, otherwise as files in the directory of an instance of a disk.
func Passing(ctx context.Context, c *monitor.Conn, h *host.Host, instance string, state *inventory.State, u blockgraph.Unlock) (blockgraph.Unlock, error) {
	if c.Client().PassesFiles() {
		u.FDSet = state.FreeFDSet()
		return u, nil
	}
	var err error
	u.Dir, err = handOver(ctx, h, instance)
	return u, err
}

// handOver returns the directory of files that are handed to QEMU for a disk.
func handOver(ctx context.Context, h *host.Host, target string) (string, error) {
	disk, err := h.Disk(ctx, target)
	return disk.HandOver(), err
}

// rawHeaders returns the images that hold the LUKS headers of the disk that an ephemeral
// header can replace.
func rawHeaders(disk *blockgraph.Disk) []*blockgraph.Image {
	var out []*blockgraph.Image
	for _, layer := range disk.Layers() {
		if layer.RawLUKS() {
			out = append(out, layer.LUKSHeader())
		}
	}
	return out
}

// ByQEMU returns the encrypted layers of the disk that the VM's QEMU unlocks by a method.
func ByQEMU(disk *blockgraph.Disk, method blockgraph.Method) []*blockgraph.Image {
	var out []*blockgraph.Image
	for _, layer := range disk.Layers() {
		if layer.Encryption != nil && InQEMU(*layer, method) {
			out = append(out, layer)
		}
	}
	return out
}

// InQEMU reports whether the VM's QEMU unlocks an encrypted layer by a method: an ephemeral
// header only replaces one of a raw image, or a detached one.
func InQEMU(layer blockgraph.Image, method blockgraph.Method) bool {
	switch method {
	case blockgraph.MethodEphemeralHeader:
		return !layer.RawLUKS()
	case blockgraph.MethodStorageDaemon:
		return false
	}
	return true
}

// wantsQEMU returns why QEMU has to unlock all of the disk by what the caller has written:
// the disk's XML, and the address of the VM. It is nil if it has not.
func wantsQEMU(h *host.Host, disk *blockgraph.Disk) error {
	switch {
	case len(rawHeaders(disk)) == 0:
		return wantsQEMUFor(ByQEMU(disk, blockgraph.MethodEphemeralHeader))
	case !h.Local:
		return &reason{"the VM runs on another machine", nil}
	}
	return nil
}

// wantsQEMUFor returns why only QEMU can unlock these layers inside of the VM; nil for none.
func wantsQEMUFor(layers []*blockgraph.Image) error {
	if len(layers) == 0 {
		return nil
	}
	because := "the LUKS header is inside of a qcow2 image"
	if layers[0].Encryption.Engine == blockgraph.EngineLibRBD {
		because = "Ceph's library unlocks the image"
	}
	return &reason{because, ErrExternalWouldHelp}
}

// whyNotHere returns why a volume cannot be unlocked in this process, nil if it can. It
// ignores a header that cannot be read: the disk is refused later.
func whyNotHere(ctx context.Context, c *monitor.Conn, h *host.Host, disk *blockgraph.Disk) (why, err error) {
	for _, header := range rawHeaders(disk) {
		if !ReadsHere(*header) {
			if _, err := exec.LookPath(daemon.Program); err != nil {
				return fmt.Errorf("only a qemu-storage-daemon could read the LUKS header in %s, and there is none on this host: %w", header.Source, err), nil
			}
			continue // reading it reports errors
		}
		found, err := ReadHeader(ctx, *header)
		if err != nil {
			return nil, nil
		}
		if err := found.Usable(); err != nil {
			if found.QEMUOpens() == nil {
				return fmt.Errorf("the LUKS header in %s: %w", header.Source, err), nil
			}
			return nil, nil
		}
	}
	schema, err := c.Client().Schema(ctx)
	if err != nil {
		return nil, fmt.Errorf("query QEMU for its schema: %w", err)
	}
	if !TakesHeader(schema) {
		return errors.New("the VM's QEMU takes no other header than the volume's own, which QEMU does since 9.0"), nil
	}
	if !c.Client().PassesFiles() {
		if err := canWriteHeader(ctx, h); err != nil {
			return fmt.Errorf("no header can be handed to QEMU: %w", err), nil
		}
	}
	return nil, nil
}

// canWriteHeader returns an error if an ephemeral header cannot be handed over as a file.
func canWriteHeader(ctx context.Context, h *host.Host) error {
	if _, err := h.Process(ctx); err != nil {
		return err
	}
	base, err := rundir.BaseOf(h.Run)
	if err != nil {
		return err
	}
	return base.Check()
}

// TakesHeader reports whether a QEMU with that schema opens a LUKS volume by another header than its own.
func TakesHeader(schema *qmp.Schema) bool { return schema.Supports("blockdev-add", headerMember) }

// headerMember is the option of QEMU's LUKS driver for a detached header, since QEMU 9.0.
const headerMember = "luks.header"

// Stall is an estimate of how long a QEMU that unlocks volumes stalls its guest, see
// [luks.Header.QEMUUnlockTime].
type Stall struct{ First, All time.Duration }

// And returns the stall by the volumes of both; nil is a stall that is not known.
func (s *Stall) And(other *Stall) *Stall {
	switch {
	case s == nil:
		return other
	case other == nil:
		return s
	}
	return &Stall{s.First + other.First, s.All + other.All}
}

// WarnOfStall logs that the guest is about to stall, and for how long unless that is nil.
func (c Choice) WarnOfStall(h *host.Host, disk *blockgraph.Disk, d *Stall) {
	layers := ByQEMU(disk, c.Method)
	if len(layers) == 0 {
		return
	}
	log, what, because := h.Entry(disk.Target), "disk "+disk.Target, ""
	if c.Method != blockgraph.MethodQEMU {
		names := make([]string, len(layers))
		for i, layer := range layers {
			names[i] = layer.Source.String()
		}
		what = fmt.Sprintf("%s of disk %s", strings.Join(names, " and "), disk.Target)
	}
	if c.Because != nil {
		log, because = log.WithField(CauseField, c.Because), ", because "+c.Because.Error()
	}
	text := fmt.Sprintf("QEMU itself unlocks %s%s: the guest stalls meanwhile", what, because)
	if d != nil {
		text += fmt.Sprintf(", for about %.1f s (%.1f s if the passphrase is wrong)", d.First.Seconds(), d.All.Seconds())
	}
	if c.Because == nil {
		log.Info(text) // the policy is QEMU
		return
	}
	log.Warn(text)
}

// CauseField is the field of a log entry that holds its cause, an error, for programs
// that map causes to hints.
const CauseField = "cause"
