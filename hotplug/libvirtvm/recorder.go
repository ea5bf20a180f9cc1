package libvirtvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/coldstart"
	"github.com/luksplug/luksplug/hotplug/internal/record"
	"github.com/luksplug/luksplug/internal/ending"
)

// ErrSecretInXML reports that the disk's XML has a secret in it, which may not be
// recorded.
var ErrSecretInXML = record.ErrSecretInXML

// recorder records one disk in the descriptions of a domain.
type recorder struct {
	at         descriptions
	source     *blockgraph.Disk
	disk       record.Disk
	persistent bool
	checkStart func(ctx context.Context, s NextStart) error // nil for no check
	// written are the scopes that have the disk because of this recorder.
	written []Scope
}

// newRecorder returns the recorder of an attach, nil if the disk is not to be
// recorded.
func newRecorder(at descriptions, disk *Disk, options AttachOptions, log logrus.FieldLogger) (*recorder, error) {
	log = log.WithField("disk", disk.Target)
	if disk.Transient {
		if options.Persistent {
			return nil, &blockgraph.UnsupportedError{Element: "disk/transient", Reason: "a transient disk cannot belong to a domain persistently"}
		}
		log.Warn("a transient disk is not recorded: detach it before the domain is saved or migrated, what was written to it cannot go along")
		return nil, nil
	}
	if options.Persistent && disk.Recovery() != blockgraph.NoRecovery {
		return nil, &blockgraph.UnsupportedError{Element: "disk/source/encryption/header@recover", Reason: "a disk that is recovered by a backup of its header cannot belong to a domain persistently: " +
			"restore the header (`cryptsetup luksHeaderRestore`), and attach the disk without recovery"}
	}
	d, err := record.New(disk.xml, disk.pools, disk.reading)
	if errors.Is(err, ErrSecretInXML) && !options.Persistent {
		log.Warnf("the disk is not recorded, and is lost when the domain is saved and restored, or migrated: %v", err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	d.Optional, d.AllowSharedHeader, d.Relabel = options.Optional, options.AllowSharedHeader, options.Relabel
	d.TrustImageChain, d.AllowGuestHeader, d.AllowPayloadSignature = options.TrustImageChain, options.AllowGuestHeader, options.AllowPayloadSignature
	if options.Unlock == hotplug.UnlockQEMU {
		d.Unlock = string(options.Unlock)
	}
	if options.MaxStall != 0 {
		d.MaxStall = options.MaxStall.String()
	}
	return &recorder{at: at, source: disk.Disk, disk: d, persistent: options.Persistent, checkStart: options.CheckStart}, nil
}

// before records a disk in the domain before it is attached, so that QEMU has no
// unrecorded disk. The returned text is kept on the host.
func (r *recorder) before(ctx context.Context, p hotplug.Prepared) (string, error) {
	r.disk.Devices, r.disk.Start = p.Devices, coldstart.Method(r.source, p.Method)
	if r.persistent {
		if err := r.checkNext(ctx); err != nil {
			return "", err
		}
	}
	if err := r.write(ctx, Live); err != nil {
		return "", err
	}
	if r.persistent {
		if err := r.write(ctx, Persistent); err != nil {
			return "", errors.Join(err, r.undo(ctx))
		}
	}
	text, err := json.Marshal(r.disk)
	return string(text), err
}

func (r *recorder) write(ctx context.Context, scope Scope) error {
	add, err := r.adding(ctx)
	if err == nil {
		err = rewrite(ctx, r.at, scope, add)
	}
	if err == nil {
		r.written = append(r.written, scope)
	}
	return err
}

// adding returns the change of a record that adds the disk.
func (r *recorder) adding(ctx context.Context) (func(record.Record) record.Record, error) {
	user, err := r.at.user(ctx)
	return func(old record.Record) record.Record {
		if user != "" {
			old.User = user
		}
		return old.With(r.disk)
	}, err
}

// checkNext refuses the disk if the domain would not start with the definition that is
// going to be written. A record that is written without a signature refuses the start
// itself, of which the user is warned.
func (r *recorder) checkNext(ctx context.Context) error {
	if r.checkStart == nil {
		return nil
	}
	if s, err := r.at.signer(); err != nil || s.Key == nil {
		return err
	}
	doc, err := r.at.definition(ctx)
	if err != nil {
		return err
	}
	old, err := record.FromDomain(doc)
	if err != nil {
		return err
	}
	add, err := r.adding(ctx)
	if err != nil {
		return err
	}
	next, err := changed(r.at, old, add)
	if err != nil {
		return err
	}
	if doc, err = withRecord(ctx, doc, next); err != nil {
		return err
	}
	if err := r.checkStart(ctx, NextStart{Domain: doc.Name(), XML: doc.Text(), Target: r.disk.Target}); err != nil {
		return &hotplug.PreflightError{Target: r.disk.Target, Cause: ErrNextStart, Reason: "the next start of domain " + doc.Name() + " would fail, or lack the disk", Err: err}
	}
	return nil
}

// undoing bounds the changes of records after a failure.
const undoing = 10 * time.Second

// undo removes the records of a disk whose attach failed, also if ctx has ended.
func (r *recorder) undo(ctx context.Context) error {
	ctx, cancel := ending.After(context.WithoutCancel(ctx), undoing)
	defer cancel()
	var failed []error
	for _, scope := range slices.Backward(r.written) {
		failed = append(failed, forget(ctx, r.at, scope, r.disk.Target))
	}
	r.written = nil
	return errors.Join(failed...)
}

// undoAfter is undo after a failed attach, and returns its error. A record that stays is
// reported as left behind: a refusal or a complete rollback would hide it.
func (r *recorder) undoAfter(ctx context.Context, failed error) error {
	err := r.undo(ctx)
	if err == nil {
		return failed
	}
	out := &hotplug.LeftBehindError{Target: r.disk.Target, Err: fmt.Errorf("%w; %w", failed, err)}
	if left := (*hotplug.LeftBehindError)(nil); errors.As(failed, &left) {
		out.Left, out.Unverified = left.Left, left.Unverified
	}
	out.Left = append(slices.Clone(out.Left), "the record of disk "+r.disk.Target+" in the domain's metadata")
	return out
}

// again records a disk that is attached already. It reports false if the disk
// cannot be recorded now: neither the domain nor this host knows its record.
func (r *recorder) again(ctx context.Context, h *hotplug.AttachedDisk) (recorded bool, err error) {
	live, persistent, err := readBoth(ctx, r.at)
	if err != nil {
		return false, err
	}
	known := live.Disk(h.Target)
	if known != nil {
		err = verify(r.at, live)
	} else {
		known = keptRecord(h)
	}
	if err != nil || known == nil {
		return false, err
	}
	r.disk.Devices, r.disk.Start, r.disk.Relabel, r.disk.Attach = known.Devices, known.Start, known.Relabel, known.Attach
	if r.persistent && persistent.Disk(h.Target) == nil {
		if err := r.checkNext(ctx); err != nil {
			return false, err
		}
	}
	if live.Disk(h.Target) == nil {
		if err := r.write(ctx, Live); err != nil {
			return false, err
		}
	}
	if r.persistent && persistent.Disk(h.Target) == nil {
		return true, r.write(ctx, Persistent)
	}
	return true, nil
}

// keptRecord returns the record that the attach of a disk has had kept on this host,
// nil if there is none.
func keptRecord(h *hotplug.AttachedDisk) *record.Disk {
	var d record.Disk
	if h.Kept == "" || json.Unmarshal([]byte(h.Kept), &d) != nil || d.Target != h.Target {
		return nil
	}
	d.Owners = nil // of an earlier version
	return &d
}
