package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"time"

	"github.com/luksplug/luksplug/integration/internal/peer"
)

// way is a method to attach a disk and to detach it.
type way struct {
	name   string
	kind   wayKind
	attach func(context.Context) error
	detach func(context.Context) error // nil where there is nothing to detach
}

// wayKind is the role of a way in the verdict.
type wayKind int

const (
	unjudged  wayKind = iota // only shown
	reference                // what luksplug is compared with
	ours                     // luksplug
)

// idle is how long the method of comparison does nothing: about as long as QEMU derives a key.
const idle = 2500 * time.Millisecond

func (v *stallVM) ways() []way {
	rpc := []string{"--connect", v.libvirt.URI, "--domain", v.domain.Name}
	qmp := []string{"--qmp", v.monitor}
	return []way{
		{name: "nothing, for comparison", attach: func(ctx context.Context) error { wait(ctx, idle); return nil }},
		{name: "`luksplug --qmp`, wrong passphrase", attach: refused(v.luksplug(qmp, "--passphrase-file", v.wrong, "attach", v.disk))},
		{name: "`virsh attach-device`, not encrypted", attach: v.virsh("attach-device", v.plain), detach: v.virsh("detach-device", v.plain)},
		{name: "`virsh attach-device`", kind: reference, attach: v.virsh("attach-device", v.disk), detach: v.virsh("detach-device", v.disk)},
		{name: "QMP: object-add, blockdev-add, device_add", attach: v.attachQMP, detach: v.detachQMP},
		{name: "`luksplug --domain`", kind: ours, attach: v.luksplug(rpc, "--passphrase-file", v.volume.PassphraseFile, "attach", v.disk), detach: v.luksplug(rpc, "detach", stallTarget)},
		{name: "`luksplug --qmp`", kind: ours, attach: v.luksplug(qmp, "--passphrase-file", v.volume.PassphraseFile, "attach", v.disk), detach: v.luksplug(qmp, "detach", stallTarget)},
	}
}

func (v *stallVM) virsh(command, disk string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := v.libvirt.Virsh(ctx, command, v.domain.Name, disk)
		return err
	}
}

// luksplug runs the program.
func (v *stallVM) luksplug(address []string, args ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := peer.Output(ctx, "env", slices.Concat([]string{"PATH=" + v.path, v.tool}, address, args)...)
		return err
	}
}

// wrongPassphrase is luksplug's exit code for a secret that is wrong or missing.
const wrongPassphrase = 4

// refused is an attach that derives the key and changes nothing in the VM: it only keeps the processors busy.
func refused(attach func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		err := attach(ctx)
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == wrongPassphrase {
			return nil
		}
		return fmt.Errorf("a wrong passphrase was not refused: %w", err)
	}
}

// The names in attachQMP, and its port: libvirt uses the first ports for its own disks.
const (
	qmpSecret, qmpNode, qmpDevice = "bench-secret", "bench-node", "bench-device"
	qmpPort                       = "pci.6"
)

// attachQMP attaches the disk by QMP commands alone, as a script does.
func (v *stallVM) attachQMP(ctx context.Context) error {
	m, err := peer.DialMonitor(ctx, v.monitor)
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }() // nothing is buffered
	for _, c := range []struct {
		name string
		args map[string]any
	}{
		{"object-add", map[string]any{"qom-type": "secret", "id": qmpSecret, "file": v.volume.PassphraseFile}},
		{"blockdev-add", map[string]any{"driver": "luks", "node-name": qmpNode, "key-secret": qmpSecret,
			"file": map[string]any{"driver": "file", "filename": v.volume.Payload}}},
		{"object-del", map[string]any{"id": qmpSecret}},
		{"device_add", map[string]any{"driver": "virtio-blk-pci", "id": qmpDevice, "drive": qmpNode, "bus": qmpPort}},
	} {
		if _, err := m.Execute(ctx, c.name, c.args); err != nil {
			return err
		}
	}
	return nil
}

func (v *stallVM) detachQMP(ctx context.Context) error {
	m, err := peer.DialMonitor(ctx, v.monitor)
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }() // nothing is buffered
	if _, err := m.Execute(ctx, "device_del", map[string]any{"id": qmpDevice}); err != nil {
		return err
	}
	if err := m.WaitDeleted(ctx, qmpDevice); err != nil {
		return err
	}
	return deleteNode(ctx, m, qmpNode)
}

// clean detaches the disk and waits until the VM is as it was before: virsh does not wait for the guest.
func (v *stallVM) clean(ctx context.Context, w way) error {
	if w.detach == nil {
		return nil
	}
	if err := w.detach(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		now, err := v.domain.State(ctx)
		if err != nil {
			return err
		}
		left := v.before.Diff(now)
		if len(left) == 0 {
			return nil
		}
		if wait(ctx, 10*time.Millisecond); ctx.Err() != nil {
			return fmt.Errorf("the VM is not as it was before: %q: %w", left, ctx.Err())
		}
	}
}
