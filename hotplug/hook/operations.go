package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/coldstart"
	"github.com/luksplug/luksplug/hotplug/internal/access"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
)

// starting returns the domain as one that is about to start.
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

// cold reports whether QEMU has the disk from its start.
func (d *domain) cold(target string) bool { return slices.Contains(d.targets, target) }

// ErrNoWay reports that the domain has a disk of luksplug's, and no monitor to plug it
// through.
var ErrNoWay = errors.New("the domain has no monitor of luksplug's, through which the disk could be plugged when it starts: run 'luksplug hook enable' for it while it is off")

// cleaningUp bounds what is done after a failure.
const cleaningUp = 5 * time.Second

// prepare gets everything ready for QEMU, or says why it cannot start.
func (c call) prepare(ctx context.Context) error {
	s, err := c.starting()
	if err != nil {
		return err
	}
	arrival, err := s.Arrival(ctx)
	if err != nil {
		return err
	}
	if err := s.Gone(ctx); err != nil { // of a run that ended without our hearing of it
		return err
	}
	if err := s.Arrive(ctx, arrival); err != nil {
		return err
	}
	if err := c.makeMonitorDir(); err != nil {
		return err
	}
	for _, target := range c.targets {
		if c.record.Disk(target) == nil {
			return fmt.Errorf("disk %s: it is among QEMU's arguments in the domain's XML, but not in luksplug's record: run 'luksplug repair' for the domain", target)
		}
	}
	for _, d := range c.record.Disks {
		err := c.prepareDisk(ctx, s, d, arrival)
		if err != nil && d.Optional && !c.cold(d.Target) {
			c.Log.WithField("disk", d.Target).Warnf("the domain starts without it, since it is optional: %v", err)
			continue
		}
		if err != nil {
			after, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleaningUp)
			defer cancel()
			return errors.Join(err, s.Gone(after), s.GiveBack(after, coldstart.Return{}))
		}
	}
	return nil
}

func (c call) prepareDisk(ctx context.Context, s *coldstart.VM, d record.Disk, arrival coldstart.Arrival) error {
	disk, err := StartDisk(c.doc, d)
	switch {
	case err != nil:
		return err
	case c.cold(d.Target):
		return s.Prepare(ctx, disk, arrival, c.Store)
	case c.monitor == "":
		return fmt.Errorf("disk %s: %w", d.Target, ErrNoWay)
	}
	return s.Check(ctx, disk, arrival, c.Store)
}

// monitorDir returns the directory of our monitor's socket, "" for none. It is removed
// with everything in it, so a path in the XML that was changed must not make it a
// directory of the host's.
func (d *domain) monitorDir() string {
	if dir := filepath.Dir(d.monitor); filepath.Base(dir) == d.uuid {
		return dir
	}
	return ""
}

// makeMonitorDir makes the directory in which QEMU's user can make the socket of our
// monitor.
func (c call) makeMonitorDir() error {
	if c.monitor == "" {
		return nil
	}
	user, err := c.user()
	if err != nil {
		return err
	}
	dir := c.monitorDir()
	if dir == "" {
		return fmt.Errorf("the socket of luksplug's monitor is %s in the domain's XML, which is not in a directory named after the domain's UUID: run 'luksplug hook enable' for it", c.monitor)
	}
	if err := access.MakeFolder(filepath.Dir(dir)); err != nil {
		return fmt.Errorf("directory for the monitor's socket: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("directory for the monitor's socket: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("directory for the monitor's socket: %w", err)
	}
	if int(user.UID) == os.Geteuid() {
		return nil
	}
	if err := os.Lchown(dir, int(user.UID), int(user.GID)); err != nil {
		return fmt.Errorf("give the directory of the monitor's socket to QEMU's user: %w", err)
	}
	return nil
}

// started does what is left to do once QEMU runs.
func (c call) started(ctx context.Context) error {
	s, err := c.starting()
	if err != nil {
		return err
	}
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
		disk, err := StartDisk(c.doc, *d)
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
			failed = append(failed, fmt.Errorf("disk %s: its limits cannot be set: %w", target, ErrNoWay))
		}
		failed = append(failed, s.Note(ctx, disk, 0))
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

// onlyOptional reports whether the domain is complete without any disk of ours.
func (d *domain) onlyOptional() bool {
	return len(d.targets) == 0 && !slices.ContainsFunc(d.record.Disks, func(d record.Disk) bool { return !d.Optional })
}

// plug attaches a disk that is not among QEMU's arguments.
func (c call) plug(ctx context.Context, vm *hotplug.VM, d record.Disk) error {
	disk, err := StartDisk(c.doc, d)
	if err != nil {
		return err
	}
	_, err = vm.Attach(ctx, disk.Disk, c.Store, hotplug.AttachOptions{Spec: d.Spec})
	return err
}

// arrive adds the disks that the domain had to its arguments. It needs no key and no
// file, except for optional disks. What it cannot do is left to prepare, which may
// fail.
func (c call) arrive(ctx context.Context, arrival coldstart.Arrival) ([]byte, error) {
	s, err := c.starting()
	if err != nil {
		return nil, err
	}
	arguments := domainxml.Foreign(c.doc.Arguments())
	var failed []error
	for _, d := range c.record.Disks {
		disk, err := StartDisk(c.doc, d)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		if d.Optional {
			// The domain may have started without it, and its XML then still has it;
			// prepare can no longer leave it out.
			if err := s.Check(ctx, disk, arrival, c.Store); err != nil {
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

// giveBack gives images of the VM's QEMU back to their owners. A VM that has migrated
// continues with them on another host, and one whose migration to this host failed
// continues where it was: what this host did not give away then stays as it is.
func (c call) giveBack(ctx context.Context, s *coldstart.VM) error {
	var owners []access.Owner
	if c.Extra != ReasonFailed {
		for _, d := range c.record.Disks {
			owners = append(owners, d.Owners...)
		}
	}
	return s.GiveBack(ctx, coldstart.Return{Owners: owners, Stay: c.Extra == ReasonMigrated})
}

// gone removes all of the domain's from this host.
func (c call) gone(ctx context.Context) error {
	if c.uuid == "" {
		return nil
	}
	user, err := c.user()
	if err != nil {
		c.Log.Debug(err) // then nothing was given to it
	}
	s := c.coldstart(user)
	failed := []error{s.Gone(ctx)}
	if c.Operation == Release { // at Stopped it is not said whether the VM goes on elsewhere
		failed = append(failed, c.giveBack(ctx, s))
	}
	if dir := c.monitorDir(); dir != "" {
		failed = append(failed, os.RemoveAll(dir))
	}
	forget := c.Forget
	if forget == nil {
		forget = []string{ReasonMigrated, ReasonDestroyed}
	}
	if c.Operation == Release && slices.Contains(forget, c.Extra) && c.Gone != nil {
		failed = append(failed, c.Gone(ctx, c.uuid))
	}
	return errors.Join(failed...)
}
