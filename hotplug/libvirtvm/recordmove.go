package libvirtvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/coldstart"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/record"
)

var (
	// ErrNoRecord reports that neither the domain nor this host has the record of a disk.
	ErrNoRecord = errors.New("the disk is not recorded")
	// ErrOtherDevice reports that the document of a disk's new volume describes another device than the disk's record.
	ErrOtherDevice = errors.New("the new document describes another device")
	// ErrOtherVolume reports that a record is of a volume that is neither the old nor the new one.
	ErrOtherVolume = errors.New("the disk is recorded with another volume")
)

// Recorded is what luksplug has recorded of a disk.
type Recorded struct {
	// XML is the <disk> as the user wrote it, which Reading tells how to read.
	XML     []byte
	Reading Reading
	// Spec is that by which it was attached, with its devices in the guest.
	Spec hotplug.Spec
	// Persistent is true if the disk belongs to the domain when it starts, and Optional if the domain may start without it.
	Persistent, Optional bool
}

// Recorded returns the record of a disk that is attached, or, if at is nil, that belongs to the domain by its definition. An
// attached disk that is not in the metadata is returned as its attach on this host has recorded it.
//
// A [*hotplug.PreflightError] has the cause [ErrNoRecord]. Other errors wrap [ErrUnverified].
func (d *Domain) Recorded(ctx context.Context, target string, at *hotplug.AttachedDisk) (*Recorded, error) {
	return recorded(ctx, d, target, at)
}

func recorded(ctx context.Context, at descriptions, target string, disk *hotplug.AttachedDisk) (*Recorded, error) {
	live, persistent, err := readBoth(ctx, at)
	if err != nil {
		return nil, err
	}
	from, one := live, live.Disk(target)
	if disk == nil {
		from, one = persistent, persistent.Disk(target)
	}
	switch {
	case one != nil:
		if err := verify(at, from); err != nil {
			return nil, err
		}
	case disk != nil:
		one = keptRecord(disk)
	}
	if one == nil {
		return nil, &hotplug.PreflightError{Target: target, Cause: ErrNoRecord, Reason: "neither the domain nor this host has its record: detach it, and attach it again"}
	}
	out := &Recorded{XML: []byte(one.XML), Reading: one.Reading, Spec: one.Spec, Optional: one.Optional}
	if p := persistent.Disk(target); p != nil && sameVolume(*p, *one) {
		out.Persistent = true
	}
	return out, nil
}

// sameVolume reports whether two records are of the same images.
func sameVolume(a, b record.Disk) bool {
	if a.XML == b.XML {
		return true
	}
	x, errX := a.Parsed()
	y, errY := b.Parsed()
	return errX == nil && errY == nil && sameImages(x, y)
}

// sameImages reports whether two disks have the same image, with the same header.
func sameImages(x, y *blockgraph.Disk) bool {
	header := func(d *blockgraph.Disk) string {
		if h := d.Header(); h != nil {
			return h.Source.String()
		}
		return ""
	}
	return sameSource(x.Image.Source.String(), y.Image.Source.String()) && sameSource(header(x), header(y))
}

// sameSource compares two sources. Those that are files may have several names.
func sameSource(a, b string) bool { return a == b || a != "" && b != "" && image.SameFile(a, b) }

// RecordMove moves the records of a disk from one volume to another, for a disk whose content is on both. What the records say of
// the device stays as it is, because the guest has the same one.
//
// The live record is moved first, and last when it is moved back. It counts while this host is up, and then both volumes are the
// same; the definition also counts after a loss of power, which the old volume alone has survived for certain until the disk uses
// the new one: QEMU does not pass the guest's flushes on to the target of a copy.
type RecordMove struct {
	at     descriptions
	target string
	kept   string
	scopes []scopeMove
}

// scopeMove are the records of a disk before and after its move in one scope.
type scopeMove struct {
	scope    Scope
	old, now record.Disk
}

// MoveRecords prepares the move of a disk's records from the volume of one <disk> document to that of another one with the same
// device. Records that are moved already, by a run that was interrupted, belong to it: disk, which may be nil, is the attached
// disk, whose record on this host then gives the old one. Nothing is changed.
//
// A disk without a record has nothing to move. A [*hotplug.PreflightError] has the cause [ErrOtherDevice] or [ErrOtherVolume]. The
// other errors are those of [ParseDisk], and wrap [ErrUnverified] and [ErrSecretInXML].
func (d *Domain) MoveRecords(ctx context.Context, disk *hotplug.AttachedDisk, from, to []byte) (*RecordMove, error) {
	return moveRecords(ctx, d, disk, from, to)
}

func moveRecords(ctx context.Context, at descriptions, disk *hotplug.AttachedDisk, from, to []byte) (*RecordMove, error) {
	live, persistent, err := readBoth(ctx, at)
	if err != nil {
		return nil, err
	}
	old, err := ParseDisk(from, Reading{IgnoreUnknown: true})
	if err != nil {
		return nil, err
	}
	p := movePreparation{target: old.Target, from: from, to: to}
	if disk != nil {
		p.kept = append(p.kept, keptRecord(disk))
		if disk.Copy != nil {
			p.kept = append(p.kept, keptRecord(disk.Copy))
		}
	}
	out := &RecordMove{at: at, target: p.target}
	for _, one := range []struct {
		scope  Scope
		record record.Record
	}{{Live, live}, {Persistent, persistent}} {
		have := one.record.Disk(p.target)
		if have == nil {
			continue
		}
		if err := verify(at, one.record); err != nil {
			return nil, err
		}
		m, err := p.scope(*have)
		if errors.Is(err, ErrOtherVolume) && one.scope == Persistent && len(out.scopes) > 0 {
			continue // another disk that belongs to the domain at its next start
		}
		if err != nil {
			return nil, err
		}
		m.scope = one.scope
		out.scopes = append(out.scopes, m)
	}
	if err := out.keep(p); err != nil {
		return nil, err
	}
	return out, nil
}

// keep sets the text that is kept on the host: that of the live record, of the definition's, or of an attach that could not be
// recorded in the domain.
func (m *RecordMove) keep(p movePreparation) error {
	var now *record.Disk
	if len(m.scopes) > 0 {
		now = &m.scopes[0].now
	} else if i := slices.IndexFunc(p.kept, func(k *record.Disk) bool { return k != nil }); i >= 0 {
		one, err := p.scope(*p.kept[i])
		if err != nil {
			return err
		}
		now = &one.now
	}
	if now == nil {
		return nil
	}
	text, err := json.Marshal(*now)
	m.kept = string(text)
	return err
}

// Kept returns the text to keep on this host for the new volume, see [hotplug.CopyOptions]; "" for a disk that is not recorded.
func (m *RecordMove) Kept() string { return m.kept }

// Move makes the records those of the new volume. It may be repeated. After an error some may be moved: see [RecordMove.MoveBack].
func (m *RecordMove) Move(ctx context.Context) error {
	for _, s := range m.scopes {
		if err := m.put(ctx, s.scope, s.now); err != nil {
			return err
		}
	}
	return nil
}

// MoveBack makes the records those of the old volume, as they were. It may be repeated.
func (m *RecordMove) MoveBack(ctx context.Context) error {
	for _, s := range slices.Backward(m.scopes) {
		if err := m.put(ctx, s.scope, s.old); err != nil {
			return err
		}
	}
	return nil
}

// put writes a record of the disk in one scope, if it is another one. A live record that is gone with its VM is not written.
func (m *RecordMove) put(ctx context.Context, scope Scope, disk record.Disk) error {
	r, err := m.at.read(ctx, scope)
	if err != nil {
		return fmt.Errorf("disk %s: %w", m.target, err)
	}
	if have := r.Disk(m.target); have == nil || reflect.DeepEqual(*have, disk) {
		return nil
	}
	if err := rewrite(ctx, m.at, scope, func(old record.Record) record.Record { return old.With(disk) }); err != nil {
		return fmt.Errorf("disk %s: move its %s record: %w", m.target, scope, err)
	}
	return nil
}

// movePreparation derives the records of both volumes.
type movePreparation struct {
	target   string
	from, to []byte
	kept     []*record.Disk // what this host has kept of both volumes; a nil one is not known
}

// scope returns the records for both volumes, of which the scope has one.
func (p movePreparation) scope(have record.Disk) (scopeMove, error) {
	now, err := p.withVolume(have, p.to)
	if err != nil {
		return scopeMove{}, err
	}
	old := have
	if have.XML != string(p.from) {
		if old, err = p.withVolume(have, p.from); err != nil {
			return scopeMove{}, err
		}
	}
	switch {
	case sameVolume(have, old):
		return scopeMove{old: have, now: now}, nil
	case !sameVolume(have, now):
		return scopeMove{}, &hotplug.PreflightError{Target: p.target, Cause: ErrOtherVolume, Reason: "the domain has recorded it with neither the old nor the new volume: run luksplug repair"}
	}
	for _, kept := range p.kept { // by a run that was interrupted
		if kept != nil && sameVolume(*kept, old) {
			old.XML, old.Pools, old.Start, old.Reading, old.Devices = kept.XML, kept.Pools, kept.Start, kept.Reading, kept.Devices
		}
	}
	return scopeMove{old: old, now: have}, nil
}

// withVolume returns a record with the volume of another document.
func (p movePreparation) withVolume(have record.Disk, text []byte) (record.Disk, error) {
	reading := have.Reading
	reading.Recovery = blockgraph.NoRecovery // of the other volume
	next, err := record.New(text, nil, reading)
	if err != nil {
		return have, err
	}
	disk, err := next.Parsed()
	if err != nil {
		return have, err
	}
	was, err := have.Parse([]byte(have.XML))
	if err != nil {
		return have, err
	}
	if differs := differsInDevice(was, disk); differs != "" {
		return have, otherDevice(have.Target, "its "+differs+" differs", nil)
	}
	running := blockgraph.MethodEphemeralHeader
	if have.Unlock == string(hotplug.UnlockQEMU) {
		running = blockgraph.MethodQEMU
	}
	start, devices := coldstart.Method(disk, running), slices.Clone(have.Devices)
	if last := len(devices) - 1; last >= 0 {
		graph, err := blockgraph.BuildCopy(disk, disk.Target, blockgraph.Unlock{Method: start})
		if err != nil {
			return have, err
		}
		if devices[last].Has("drive") { // the top node has another name in another layout
			devices[last] = devices[last].With("drive", graph.Top().Name)
		}
		if _, err := blockgraph.Build(disk, blockgraph.Machine{Devices: devices}, blockgraph.Unlock{Method: start}); err != nil {
			return have, otherDevice(have.Target, "the recorded device does not fit", err)
		}
	}
	have.XML, have.Pools, have.Reading, have.Start, have.Devices = next.XML, next.Pools, reading, start, devices
	return have, nil
}

func otherDevice(target, differs string, err error) error {
	return &hotplug.PreflightError{Target: target, Cause: ErrOtherDevice, Reason: "the document of the new volume describes another device: " + differs, Err: err}
}

// ofVolume are the fields of a disk that are not the device's.
var ofVolume = []string{"Image", "FormatAssumed", "CopyOnRead", "DiscardNoUnref", "Ignored"}

// differsInDevice returns the name of a part of the device in which two disks differ, "" for none.
func differsInDevice(a, b *blockgraph.Disk) string {
	x, y := *a, *b
	for _, d := range []*blockgraph.Disk{&x, &y} {
		d.Driver.Cache, d.Driver.IO, d.Driver.Discard, d.Driver.DetectZeroes = "", "", "", ""
	}
	v, w := reflect.ValueOf(x), reflect.ValueOf(y)
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if !v.Type().Field(i).IsExported() || slices.Contains(ofVolume, name) {
			continue
		}
		if !reflect.DeepEqual(v.Field(i).Interface(), w.Field(i).Interface()) {
			return name
		}
	}
	return ""
}
