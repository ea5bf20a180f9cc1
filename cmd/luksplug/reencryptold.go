package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/hotplug/reencrypt"
	"github.com/luksplug/luksplug/hotplug/volume"
)

// oldDisk is an attached disk whose data key is old.
type oldDisk struct {
	at        vmAddress
	target    string
	birth     volume.Birth
	size      int64
	prepared  *reencrypt.Prepared // of a dry run
	err       error
	entry     *reencrypt.Entry // once it is re-encrypted
	discarded bool             // its old volume
}

// runReencryptOld re-encrypts the disks with old data keys, one at a time.
func runReencryptOld(ctx context.Context, a *app, o reencryptOptions) error {
	limit, err := reencrypt.ParseAge(o.olderThan)
	if err != nil {
		return &usageError{fmt.Errorf("--older-than %w", err)}
	}
	var window reencrypt.Window
	if o.window != "" {
		if window, err = reencrypt.ParseWindow(o.window); err != nil {
			return &usageError{fmt.Errorf("--window %w", err)}
		}
	}
	if !o.all {
		if _, err := a.address(); err != nil {
			return err
		}
	} else { // and not the one that the environment names
		a.flags.qmp, a.flags.domain, a.flags.qemuPID = "", "", 0
	}
	var failed []error
	if !o.dryRun {
		if failed = finishBegun(ctx, a); ctx.Err() != nil {
			return errors.Join(failed...)
		}
	}
	disks, err := findOld(ctx, a, o.all, limit)
	if err != nil {
		failed = append(failed, err)
	}
	r := oldRun{options: o, window: window}
	for i := range disks {
		if ctx.Err() != nil {
			break
		}
		d := &disks[i]
		if o.dryRun {
			d.prepared, d.err = d.prepare(ctx, a, o)
		} else if end, err := r.next(ctx, a, d); err != nil || end {
			if err != nil {
				return err
			}
			disks = disks[:i]
			break
		}
		if d.err != nil {
			failed = append(failed, d.err)
			if err := a.note("%s of %s is left out: %v", d.target, d.at.text(), withHint(d.err)); err != nil {
				return err
			}
		}
	}
	return errors.Join(append([]error{showOld(a, disks, o.dryRun)}, failed...)...)
}

// text names the VM.
func (v vmAddress) text() string {
	if v.domain != "" {
		return v.domain
	}
	return v.qmp
}

// finishBegun goes on with what earlier runs have begun.
func finishBegun(ctx context.Context, a *app) (failed []error) {
	j, err := a.journal()
	if err != nil {
		return []error{err}
	}
	entries, err := j.List()
	if err != nil {
		failed = append(failed, err)
	}
	if entries, err = a.ofVM(ctx, entries); err != nil {
		return append(failed, err)
	}
	for _, e := range entries {
		if e.Phase.Switched() || ctx.Err() != nil {
			continue
		}
		if err := finishOne(ctx, a, e); err != nil && !errors.Is(err, errDropped) { // which is begun again
			failed = append(failed, err)
		}
	}
	return failed
}

// finishOne goes on with an entry.
func finishOne(ctx context.Context, a *app, e reencrypt.Entry) error {
	if err := a.note("going on with the re-encryption %s of %s of %s", shortID(e), e.Disk, e.VM.Name); err != nil {
		return err
	}
	s, err := a.setting(e)
	if err != nil {
		return err
	}
	e, outcome, err := resume(ctx, a, s, e)
	if err != nil || outcome != reencrypt.OutcomeCopying {
		return err
	}
	_, _, err = drive(ctx, a, e, true)
	return err
}

// findOld returns the attached disks whose data keys are older than a limit or of unknown age, the oldest first. With an error there may be more.
func findOld(ctx context.Context, a *app, all bool, limit time.Duration) ([]oldDisk, error) {
	vms, failed := []vmAddress{}, []error{}
	if all {
		var err error
		if vms, err = allVMs(ctx, a); err != nil {
			return nil, err
		}
	} else {
		at, err := a.address()
		if err != nil {
			return nil, err
		}
		vms = append(vms, at)
	}
	claims, err := storedSecrets(ctx, a)
	if err != nil {
		failed = append(failed, err)
	}
	now := time.Now()
	var out []oldDisk
	for _, at := range vms {
		found, err := oldDisksOf(ctx, a, at, claims, now)
		if err != nil && (!all || !hasEnded(err)) {
			failed = append(failed, fmt.Errorf("VM %s: %w", at.text(), err))
		}
		out = append(out, found...)
	}
	out = slices.DeleteFunc(out, func(d oldDisk) bool { return d.birth.Known() && d.birth.Age(now) <= limit })
	slices.SortStableFunc(out, func(x, y oldDisk) int {
		switch {
		case x.birth.Known() && y.birth.Known():
			return x.birth.Time.Compare(y.birth.Time)
		case x.birth.Known():
			return 1 // of unknown age may be the oldest
		case y.birth.Known():
			return -1
		}
		return 0
	})
	return out, errors.Join(failed...)
}

// oldDisksOf returns the encrypted disks of a VM, with the ages of their data keys.
func oldDisksOf(ctx context.Context, a *app, at vmAddress, claims []volume.Claim, now time.Time) (out []oldDisk, err error) {
	err = at.with(ctx, a, a.flags.limit(), func(ctx context.Context, m virtualMachine) error {
		list, err := m.List(ctx)
		if err != nil {
			return err
		}
		for _, d := range list.Disks {
			if d.Leftover() || d.Unlock == "" || d.ReadOnly {
				continue
			}
			found := oldDisk{at: at, target: d.Target, size: d.Size}
			info, err := volume.Inspect(ctx, d.Payload, d.Header, nil)
			if err != nil {
				a.log.Warnf("the age of the data key of %s of %s is not known: %v", d.Target, at.text(), err)
			} else {
				found.birth = volume.BirthOf(info.LUKS, documents(claims), now)
			}
			out = append(out, found)
		}
		return nil
	})
	return out, err
}

// allVMs returns the VMs of this host: the domains of libvirt, and the bare QEMUs to which luksplug has attached disks.
func allVMs(ctx context.Context, a *app) ([]vmAddress, error) {
	uri, err := a.libvirtURI()
	if err != nil {
		return nil, err
	}
	within, cancel := context.WithTimeout(ctx, askingLibvirt)
	defer cancel()
	names, err := libvirtvm.Names(within, uri.text)
	if errors.Is(err, libvirtvm.ErrNotConnected) && uri.text == defaultConnect {
		a.log.Infof("no domains of libvirt: %v", err) // it may not be installed
	} else if err != nil {
		return nil, uri.explain(err)
	}
	var out []vmAddress
	for _, name := range names {
		out = append(out, vmAddress{uri: uri, domain: name})
	}
	uses, err := a.uses()
	if err != nil {
		return nil, err
	}
	for _, u := range uses {
		known := slices.Contains(names, u.VM) || slices.ContainsFunc(out, func(v vmAddress) bool { return v.qmp == u.VM })
		if known || !strings.ContainsAny(u.VM, "/:") {
			continue // a domain, perhaps of another libvirt
		}
		out = append(out, vmAddress{qmp: u.VM})
	}
	return out, nil
}

// prepare makes the checks for the disk.
func (d *oldDisk) prepare(ctx context.Context, a *app, o reencryptOptions) (*reencrypt.Prepared, error) {
	disk, err := findInVM(ctx, a, d.at, d.target)
	if err != nil {
		return nil, err
	}
	if disk.idle {
		return nil, libvirtvm.ErrOff // since it was listed
	}
	p, err := prepareDisk(ctx, a, o, disk)
	if err == nil && !p.RecordsBirth() {
		err = &hotplug.PreflightError{Target: d.target, Cause: errNoBirth, Reason: "the age of its new data key would not be known, so that every run would re-encrypt it again: the key store of its secret cannot be written to, and a LUKS1 header has no place for it"}
	}
	return p, err
}

// errNoBirth reports that the age of a new data key would not be known.
var errNoBirth = errors.New("the birth of the data key cannot be recorded")

// oldRun is a run of re-encryptions within a window.
type oldRun struct {
	options reencryptOptions
	window  reencrypt.Window
	begun   bool
	rate    float64 // bytes a second of the last copy, 0 if it is not known
}

// next re-encrypts a disk. end is true if none is to be begun any more. The error ends the run; that of the disk is in it.
func (r *oldRun) next(ctx context.Context, a *app, d *oldDisk) (end bool, err error) {
	now := time.Now()
	if !r.window.Contains(now) {
		return true, a.note("no more copies are begun before %s, when the window %s opens", r.window.NextStart(now).Format(time.RFC3339), r.window)
	}
	p, err := d.prepare(ctx, a, r.options)
	if err != nil {
		d.err = err
		return false, nil
	}
	expected := p.Cost.Time
	if r.rate > 0 && expected == 0 {
		expected = time.Duration(float64(p.Cost.Copied) / r.rate * float64(time.Second))
	}
	if left := r.window.Remaining(now); r.begun && expected > left {
		return true, a.note("%s of %s is not begun: it is expected to take %s, and the window closes in %s", d.target, d.at.text(), expected.Round(time.Second), left.Round(time.Second))
	}
	r.begun = true
	e, _, err := reencryptDisk(ctx, a, r.options, p)
	if err != nil {
		if is[*leftRunningError](err) || ctx.Err() != nil {
			return true, err
		}
		d.err = err
		return false, nil
	}
	if took := time.Since(now).Seconds(); took > 1 {
		r.rate = float64(p.Cost.Copied) / took
	}
	d.entry = &e
	if r.options.discardOld {
		d.err = discardOld(ctx, a, e)
		d.discarded = d.err == nil
	}
	return false, a.note("%s of %s uses %s", e.Disk, e.VM.Name, e.Target.Payload)
}

// oldDiskJSON is a disk of a run in JSON.
type oldDiskJSON struct {
	VM     string `json:"vm"`
	Target string `json:"target"`
	keyJSON
	Reencryption *reencryptionJSON `json:"reencryption,omitempty"`
	Error        string            `json:"error,omitempty"`
}

// showOld prints the disks of a run: of one that was re-encrypted its new <disk>.
func showOld(a *app, disks []oldDisk, dry bool) error {
	now := time.Now()
	out := []oldDiskJSON{}
	rows := [][]string{{"VM", "DISK", "KEY AGE", "SIZE", "COPIES", "TAKES", "NEW"}}
	xml := ""
	for _, d := range disks {
		j := oldDiskJSON{VM: d.at.text(), Target: d.target, keyJSON: keyToJSON(d.birth, now), Error: errorText(d.err)}
		row := []string{d.at.text(), d.target, keyAgeCell(d.birth, now), size(d.size), "-", "-", "-"}
		switch {
		case d.prepared != nil:
			planned := reencryptionToJSON(d.prepared.Entry, &d.prepared.Cost, nil, true)
			j.Reencryption = &planned
			row[4], row[5], row[6] = size(d.prepared.Cost.Copied), size(d.prepared.Cost.Allocation+d.prepared.Cost.Metadata), d.prepared.Entry.Target.Payload
		case d.entry != nil:
			done := reencryptionToJSON(*d.entry, nil, nil, false)
			done.Discarded = d.discarded
			j.Reencryption = &done
			xml += d.entry.Target.XML
		}
		rows, out = append(rows, row), append(out, j)
	}
	text := xml
	switch {
	case len(disks) == 0:
		text = ""
	case dry:
		text = table(rows)
	}
	return a.show(text, struct {
		Disks []oldDiskJSON `json:"disks"`
	}{out})
}
