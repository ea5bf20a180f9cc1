package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/coldstart"
	"github.com/luksplug/luksplug/hotplug/internal/access"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/internal/hostproc"
)

// starting returns the VM that is about to start. Its record must be verified.
func (c call) starting() (*coldstart.VM, error) {
	user, err := c.user()
	if err != nil {
		return nil, err
	}
	return c.coldstart(user), nil
}

func (c call) coldstart(user *hotplug.Credential) *coldstart.VM {
	return coldstart.New(c.uuid, coldstart.Options{Name: c.Domain, Log: c.Log, RunDir: c.RunDir, LockDir: c.LockDir, User: user})
}

// cold reports whether the disk is among QEMU's arguments.
func (d *domain) cold(target string) bool { return slices.Contains(d.targets, target) }

// ErrNoMonitor reports that the domain has a disk of luksplug's, but no monitor to plug it
// through.
var ErrNoMonitor = errors.New("the domain has no monitor of luksplug's, through which the disk could be plugged when it starts: run 'luksplug hook enable' for it")

// cleaningUp bounds the clean-up after a failure.
const cleaningUp = 5 * time.Second

// prepare gives QEMU everything that it needs to start with the disks.
func (c call) prepare(ctx context.Context) error {
	if err := c.checkArguments(); err != nil {
		return err
	}
	s, err := c.starting()
	if err != nil {
		return err
	}
	arrival, err := s.Arrival(ctx)
	if err != nil {
		return err
	}
	if err := s.Gone(ctx); err != nil { // remains of a run whose end was not reported
		return err
	}
	if err := s.Arrive(ctx, arrival); err != nil {
		return err
	}
	if err := c.makeMonitorDir(); err != nil {
		return err
	}
	for _, d := range c.record.Disks {
		err := c.prepareDisk(ctx, s, d, arrival)
		if err != nil && d.Optional && !c.cold(d.Target) {
			c.Log.WithField("disk", d.Target).Warnf("the domain starts without it, since it is optional: %v", err)
			continue
		}
		if err != nil {
			after, cancel := ending.After(context.WithoutCancel(ctx), cleaningUp)
			defer cancel()
			return errors.Join(err, s.Gone(after), s.GiveBack(after, coldstart.Return{}))
		}
	}
	return nil
}

func (c call) prepareDisk(ctx context.Context, s *coldstart.VM, d record.Disk, arrival coldstart.Arrival) error {
	disk, err := c.startable(d)
	switch {
	case err != nil:
		return err
	case c.cold(d.Target):
		return s.Prepare(ctx, disk, arrival, c.bound(disk.Disk))
	}
	return s.Check(ctx, disk, arrival, c.bound(disk.Disk))
}

// startable returns a recorded disk, with which the domain can start: it is among QEMU's
// arguments, or there is a monitor to plug it through.
func (c call) startable(d record.Disk) (coldstart.Disk, error) {
	disk, err := coldstart.RecordedDisk(c.doc, d)
	if err == nil && !c.cold(d.Target) && c.monitor == "" {
		err = fmt.Errorf("disk %s: %w", d.Target, ErrNoMonitor)
	}
	return disk, err
}

// checkArguments refuses arguments of QEMU that do not agree with the record, or with what
// is luksplug's on this host.
func (c call) checkArguments() error {
	for _, target := range c.targets {
		if c.record.Disk(target) == nil {
			return fmt.Errorf("disk %s: it is among QEMU's arguments in the domain's XML, but not in luksplug's record: run 'luksplug repair' for the domain", target)
		}
	}
	return c.checkMonitor()
}

// monitors are the directories of the monitors' sockets on this host.
func (h Host) monitors() access.MonitorDirs {
	if h.MonitorDir != "" {
		return access.MonitorDirs(h.MonitorDir)
	}
	return MonitorDir
}

// checkMonitor refuses a monitor at another path than the domain's own. Nothing is done at
// the path in the XML, which is no word of this host's: only at the domain's own.
func (c call) checkMonitor() error {
	if own := c.monitors().Socket(c.uuid); c.monitor != "" && c.monitor != own {
		return fmt.Errorf("the socket of luksplug's monitor is %s in the domain's XML, and must be %s: run 'luksplug hook enable' for it", c.monitor, own)
	}
	return nil
}

// makeMonitorDir makes the directory in which QEMU's user creates the monitor's socket.
func (c call) makeMonitorDir() error {
	if c.monitor == "" {
		return nil
	}
	user, err := c.user()
	if err != nil {
		return err
	}
	return c.monitors().Make(c.uuid, access.User{Credential: *user})
}

// confine adds to the domain's AppArmor profile what its QEMU opens as it starts. Disks
// that are attached later add their own lines.
func (c call) confine(ctx context.Context) error {
	label := c.doc.Label("apparmor")
	if label == "" {
		return nil
	}
	var disks []coldstart.Disk
	for _, target := range c.targets {
		d := c.record.Disk(target)
		if d == nil {
			continue // refused at prepare
		}
		disk, err := coldstart.RecordedDisk(c.doc, *d)
		if err != nil {
			return err
		}
		disks = append(disks, disk)
	}
	s := coldstart.New(c.uuid, coldstart.Options{Name: c.Domain, Log: c.Log, RunDir: c.RunDir, LockDir: c.LockDir, Labels: hotplug.Labels{AppArmor: label}})
	return s.Confine(ctx, disks, c.monitor)
}

// started completes the start once QEMU runs.
func (c call) started(ctx context.Context) error {
	s := c.coldstart(nil) // its user is that of the process at the monitor
	arrival, err := s.Arrival(ctx)
	if err != nil {
		return err
	}
	return errors.Join(c.finish(ctx, s, arrival), s.Arrived(ctx))
}

func (c call) finish(ctx context.Context, s *coldstart.VM, arrival coldstart.Arrival) error {
	var failed []error
	var finished []hotplug.Started
	for _, target := range c.targets {
		failed = append(failed, s.Started(ctx, target))
		d := c.record.Disk(target)
		if d == nil {
			continue
		}
		disk, err := coldstart.RecordedDisk(c.doc, *d)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		with, err := s.Arguments(ctx, disk)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if with.Limits != nil && c.monitor == "" {
			failed = append(failed, fmt.Errorf("disk %s: its limits cannot be set: %w", target, ErrNoMonitor))
		}
		failed = append(failed, s.Note(ctx, disk, c.qemu()))
		one := hotplug.Started{Target: target, Limits: with.Limits}
		if arrival != coldstart.ArrivalBoot {
			one.Keep = with.Reopened
		}
		finished = append(finished, one)
	}
	if c.monitor == "" {
		return errors.Join(failed...)
	}
	vm, err := c.connect(ctx)
	if err != nil && c.onlyOptional() {
		c.Log.Warnf("the domain has started without its disks, all of which are optional: %v", err)
		return errors.Join(failed...)
	}
	if err != nil {
		return errors.Join(append(failed, err)...)
	}
	defer func() { _ = vm.Close() }() // nothing is lost with it
	failed = append(failed, vm.FinishStart(ctx, finished))
	for _, d := range c.record.Disks {
		if c.cold(d.Target) {
			continue
		}
		err := c.plug(ctx, vm, d)
		if err != nil && d.Optional {
			c.Log.WithField("disk", d.Target).Warnf("the domain has started without it, since it is optional: %v", err)
			continue
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// qemu returns the process id of the domain's QEMU, 0 if it is unknown.
func (c call) qemu() int {
	user, err := c.user()
	if err != nil {
		return 0
	}
	return hostproc.Domain{Name: c.Domain, UUID: c.uuid, UID: user.UID, Session: os.Geteuid() != 0}.QEMU()
}

// onlyOptional reports whether the domain can run without any of the disks.
func (d *domain) onlyOptional() bool {
	return len(d.targets) == 0 && !slices.ContainsFunc(d.record.Disks, func(d record.Disk) bool { return !d.Optional })
}

// plug attaches a disk that is not among QEMU's arguments.
func (c call) plug(ctx context.Context, vm *hotplug.VM, d record.Disk) error {
	disk, err := coldstart.RecordedDisk(c.doc, d)
	if err != nil {
		return err
	}
	options := hotplug.AttachOptions{Spec: d.Spec}
	if hotplug.UnlockPolicy(d.Unlock) == hotplug.UnlockQEMU {
		options.Unlock = hotplug.UnlockQEMU
	}
	if d.MaxStall != "" {
		if options.MaxStall, err = time.ParseDuration(d.MaxStall); err != nil {
			return fmt.Errorf("the record of disk %s: max-stall: %w", d.Target, err)
		}
	}
	_, err = vm.Attach(ctx, disk.Disk, c.bound(disk.Disk), options)
	return err
}

// arrive adds the disks that the domain had to its arguments. It needs no key and no
// file, except for optional disks: everything else that can fail is left to prepare.
func (c call) arrive(ctx context.Context, arrival coldstart.Arrival) ([]byte, error) {
	user, err := c.user()
	if err != nil {
		c.Log.Warn(err) // prepare refuses it
	}
	s := c.coldstart(user)
	arguments := domainxml.Foreign(c.doc.Arguments())
	var failed []error
	for _, d := range c.record.Disks {
		disk, err := coldstart.RecordedDisk(c.doc, d)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if d.Optional {
			// The domain may have started without it. prepare cannot leave it out.
			if err := s.Check(ctx, disk, arrival, c.bound(disk.Disk)); err != nil {
				c.Log.WithField("disk", d.Target).Warnf("it is left out, since it is optional: %v", err)
				continue
			}
		}
		ours, err := s.Arguments(ctx, disk)
		if err != nil {
			failed = append(failed, fmt.Errorf("disk %s: %w", d.Target, err))
			continue
		}
		arguments = append(arguments, ours.Arguments...)
	}
	doc, err := c.doc.WithArguments(arguments)
	if err != nil {
		return nil, errors.Join(append(failed, err)...)
	}
	return doc.Text(), errors.Join(append(failed, s.Arrive(ctx, arrival))...)
}

// gone removes everything of the domain from this host.
func (c call) gone(ctx context.Context) error {
	if c.uuid == "" {
		return nil
	}
	if err := c.verify(); err != nil {
		c.Log.Warnf("nothing is done on its word: %v", err)
	}
	s := c.coldstart(nil)
	failed := []error{s.Gone(ctx)}
	if c.Operation == Release { // at Stopped libvirt does not report whether the VM continues on another host
		// A VM that has migrated still uses its images on another host.
		failed = append(failed, s.GiveBack(ctx, coldstart.Return{Stay: c.Extra == ReasonMigrated}))
	}
	failed = append(failed, c.monitors().Remove(c.uuid))
	if c.Operation == Release {
		failed = append(failed, c.keys(ctx))
	}
	return errors.Join(failed...)
}
