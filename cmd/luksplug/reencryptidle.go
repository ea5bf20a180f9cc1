package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/hotplug/reencrypt"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/secrets"
)

// findIdle returns the volume that an argument names, which no VM has.
func findIdle(ctx context.Context, a *app, argument string) (foundDisk, error) {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	out := foundDisk{idle: true}
	var err error
	if isDocument(argument) {
		if out.xml, err = a.readInput(ctx, argument); err != nil {
			return out, &usageError{fmt.Errorf("read the disk XML: %w", err)}
		}
	} else if out.xml, err = idleDocument(ctx, a, argument); err != nil {
		return out, err
	}
	parsed, err := diskxml.ParseDisk(out.xml)
	if err != nil {
		return out, err
	}
	out.target, out.serial = parsed.Target, parsed.Serial
	named, err := usesInLibvirt(ctx, a)
	if err != nil {
		return out, fmt.Errorf("check whether a document of libvirt names the volume: %w", err)
	}
	for _, u := range named {
		if sameVolume(parsed.Image.Source.Path, u.Payload) {
			return out, &hotplug.PreflightError{Target: parsed.Target, Cause: errNamed, Reason: fmt.Sprintf("the volume %s is named by %s, which would keep the old one: name its domain with --domain, and the disk by its target", u.Payload, useText(u))}
		}
	}
	out.size, err = reencrypt.SizeOf(ctx, out.xml)
	return out, err
}

// idleDocument returns the <disk> of an encrypted volume that is named by its path.
func idleDocument(ctx context.Context, a *app, name string) ([]byte, error) {
	path, header, err := volumeName(ctx, a, name)
	if err != nil {
		return nil, err
	}
	path = absolute(path)
	if header != "" {
		header = absolute(header)
	}
	info, err := volume.Inspect(ctx, path, header, nil)
	if errors.Is(err, volume.ErrNoVolume) {
		return nil, fmt.Errorf("%w: name a volume without encryption, or with its header elsewhere, by the XML of its disk", err)
	}
	if err != nil {
		return nil, err
	}
	all, err := secretsOf(ctx, a, cmp.Or(info.Path, path))
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, &usageError{fmt.Errorf("no key store has a secret with the path of %s as usage: name the volume by the XML of its disk, which names the secret", path)}
	}
	return diskxml.LocalDisk{
		Target: "vdb", Bus: blockgraph.BusVirtio, Format: blockgraph.Format(info.Format), Payload: diskxml.LocalImage{Path: path, Block: info.Block}, Header: diskxml.LocalImage{Path: header},
		Secret: secrets.Reference{Type: secrets.Passphrase, UUID: all[0].document.UUID}, Serial: filepath.Base(path), Discard: "unmap",
	}.XML(), nil
}

// describeOff returns a disk that belongs to a domain which is off.
func describeOff(ctx context.Context, a *app, at vmAddress, d *libvirtvm.Domain, target string) (foundDisk, error) {
	out := foundDisk{at: at, vm: at.vmOf(a.vm), target: target, idle: true}
	recorded, err := d.Recorded(ctx, target, nil)
	if err != nil {
		return out, err
	}
	out.xml, out.spec = recorded.XML, recorded.Spec
	out.size, err = reencrypt.SizeOf(ctx, out.xml)
	return out, err
}

// reencryptIdle re-encrypts a volume that no VM has. The copy is luksplug's own, and ends with it.
func reencryptIdle(ctx context.Context, a *app, o reencryptOptions, p *reencrypt.Prepared) (reencrypt.Entry, error) {
	if o.noWait {
		return p.Entry, &usageError{errors.New("--no-wait is for a disk of a VM that runs: without one luksplug itself copies")}
	}
	s, err := a.setting(p.Entry)
	if err != nil {
		return p.Entry, err
	}
	removeDirs, err := a.makeVolumeDirs(p.Entry.Target.Payload, p.Entry.Target.Header)
	if err != nil {
		return p.Entry, err
	}
	if err := sayCost(a, p); err != nil {
		return p.Entry, err
	}
	shown := a.transfer("re-encrypting " + subject(p.Entry))
	paused := false
	e, err := s.Idle(ctx, p, func(c hotplug.IdleCopy) {
		if c.Phase == hotplug.CopyPaused && !paused {
			shown.say(a, "the copy is paused: %v: %s; it goes on when there is room", c.Err, p.Entry.Target.Payload)
		}
		paused = c.Phase == hotplug.CopyPaused
		shown.updatePhase(volume.Progress{Done: c.Done, Total: c.Total}, string(c.Phase))
	})
	shown.end()
	if err != nil {
		removeDirs()
	}
	return e, err
}

// subject names what an entry re-encrypts.
func subject(e reencrypt.Entry) string { return cmp.Or(e.Disk, e.Source.Payload) }
