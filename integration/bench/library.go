package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/secrets"
)

// library measures Go packages on a VM that was never started: a guest would only add noise.
type library struct {
	vm      *hotplug.VM
	version string
	bare    *bare
	qemu    *peer.QEMU
	disks   []disk
	plain   disk // not encrypted: without key derivation, luksplug's part weighs most
}

// disk is a volume with its plan and key store.
type disk struct {
	disk  *blockgraph.Disk
	plan  *blockgraph.Plan
	store memory
}

func measureLibrary(ctx context.Context, dir string, n size) (rows []row, version string, err error) {
	dir = filepath.Join(dir, "library")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, "", err
	}
	socket := filepath.Join(dir, "bare.sock")
	// A SCSI controller has room for 64 disks here.
	extra := []string{"-chardev", "socket,id=bare,server=on,wait=off,path=" + socket, "-mon", "chardev=bare,mode=control"}
	l := &library{}
	machine := blockgraph.Machine{Type: "pc"}
	for i := range n.disks/64 + 1 {
		id := fmt.Sprintf("scsi%d", i)
		extra = append(extra, "-device", "virtio-scsi-pci,id="+id)
		machine.SCSI = append(machine.SCSI, blockgraph.SCSIController{ID: id})
	}
	if l.disks, err = makeDisks(ctx, dir, n.disks, machine); err != nil {
		return nil, "", err
	}
	if l.plain, err = makePlain(dir, machine); err != nil {
		return nil, "", err
	}
	if l.qemu, err = peer.Run(ctx, dir, peer.Options{Machine: peer.I440FX, Paused: true, Extra: extra}); err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, l.qemu.Close()) }()
	rows, err = l.measure(ctx, socket, n)
	return rows, l.version, err
}

func (l *library) measure(ctx context.Context, socket string, n size) ([]row, error) {
	many, err := l.record(ctx, l.disks)
	if err != nil {
		return nil, err
	}
	one := many[:len(l.disks[0].plan.Steps)]
	plain, err := l.record(ctx, []disk{l.plain})
	if err != nil {
		return nil, err
	}
	if l.bare, err = dialBare(ctx, socket); err != nil {
		return nil, err
	}
	defer func() { _ = l.bare.conn.Close() }() // nothing is buffered
	if l.vm, err = connect(ctx, l.qemu.Socket); err != nil {
		return nil, err
	}
	defer func() { _ = l.vm.Close() }() // the VM ends anyway
	l.version = l.vm.Client().VersionString()

	const bareSocket, bareDisk = "the commands on a bare socket", "the plan's commands on a bare socket"
	first := l.disks[:1]
	var rows []row
	for _, c := range []struct {
		row
		runs     int
		commands [][]byte
		disks    []disk
		ours     func(context.Context, []disk) error
	}{
		{row{what: fmt.Sprintf("apply the plan of a disk, %d commands", len(one)), reference: bareSocket, wanted: 1.10}, n.single, one, first, l.apply},
		{row{what: fmt.Sprintf("apply the plans of %d disks", len(l.disks)), reference: bareSocket, wanted: 1.15}, n.many, many, l.disks, l.apply},
		{row{what: fmt.Sprintf("apply the plan of a disk, not encrypted, %d commands", len(plain)), reference: bareSocket}, n.single, plain, []disk{l.plain}, l.apply},
		{row{what: "attach a disk: queries, plan, apply, verify", reference: bareDisk, wanted: 3}, n.single, one, first, l.attach},
		{row{what: "attach a disk, the first of a connection", reference: bareDisk}, n.process, one, first, l.attachFirst},
	} {
		c.pairs, err = compare(ctx, c.runs,
			func(context.Context) error { return l.bare.replay(c.commands) },
			func(ctx context.Context) error { return c.ours(ctx, c.disks) },
			func(ctx context.Context) error { return l.clean(ctx, c.disks) })
		if err != nil {
			return nil, err
		}
		rows = append(rows, c.row)
	}
	return rows, nil
}

// record returns the commands that the library sends for the disks.
func (l *library) record(ctx context.Context, disks []disk) ([][]byte, error) {
	commands, err := record(ctx, l.qemu.Socket, disks)
	if err != nil {
		return nil, err
	}
	return commands, l.clean(ctx, disks)
}

func (l *library) apply(ctx context.Context, disks []disk) error {
	for _, d := range disks {
		if _, err := l.vm.Apply(ctx, d.plan, d.store); err != nil {
			return err
		}
	}
	return nil
}

func (l *library) attach(ctx context.Context, disks []disk) error {
	for _, d := range disks {
		attached, err := l.vm.Attach(ctx, d.disk, d.store, hotplug.AttachOptions{Unlock: hotplug.UnlockQEMU})
		if err != nil {
			return err
		}
		if attached.Already {
			return errors.New("the disk was attached already")
		}
	}
	return nil
}

// attachFirst attaches over a new connection, which is part of the measured time.
func (l *library) attachFirst(ctx context.Context, disks []disk) error {
	if err := l.vm.Close(); err != nil {
		return err
	}
	vm, err := connect(ctx, l.qemu.Socket)
	if err != nil {
		return err
	}
	l.vm = vm
	return l.attach(ctx, disks)
}

// clean removes disks by the harness's own monitor.
func (l *library) clean(ctx context.Context, disks []disk) error {
	m, err := l.qemu.Monitor(ctx)
	if err != nil {
		return err
	}
	waiting := map[string]bool{}
	for _, d := range disks {
		id := d.plan.Graph.Device().ID
		if _, err := m.Execute(ctx, "device_del", map[string]any{"id": id}); err != nil {
			return err
		}
		waiting[id] = true
	}
	for len(waiting) > 0 {
		event, err := m.WaitEvent(ctx, func(e peer.Event) bool { return e.Name == "DEVICE_DELETED" })
		if err != nil {
			return err
		}
		var data struct{ Device string }
		if err := json.Unmarshal(event.Data, &data); err != nil {
			return err
		}
		delete(waiting, data.Device)
	}
	for _, d := range disks {
		for _, node := range slices.Backward(d.plan.Graph.Nodes) {
			if err := deleteNode(ctx, m, node.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// deleteNode deletes a node, which stays in use for a moment after its device is gone.
func deleteNode(ctx context.Context, m *peer.Monitor, name string) error {
	for {
		_, err := m.Execute(ctx, "blockdev-del", map[string]any{"node-name": name})
		if err == nil || !strings.Contains(err.Error(), "in use") {
			return err
		}
		if wait(ctx, time.Millisecond); ctx.Err() != nil {
			return err
		}
	}
}

// makeDisks makes n volumes with detached headers, and plans them for the benchmark's VM.
func makeDisks(ctx context.Context, dir string, n int, machine blockgraph.Machine) ([]disk, error) {
	machine.SCSI = slices.Clone(machine.SCSI) // changes below
	disks := make([]disk, n)
	for i := range disks {
		directory := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(directory, 0o700); err != nil {
			return nil, err
		}
		volume, err := peer.CreateVolume(ctx, directory, peer.DetachedRaw)
		if err != nil {
			return nil, err
		}
		d := &disks[i]
		if d.disk, d.plan, err = plan(volume.DiskXML(targetName(i), "scsi"), machine); err != nil {
			return nil, err
		}
		occupy(&machine, d.plan.Graph.Device())
		d.store = memory(volume.Passphrase)
	}
	return disks, nil
}

// makePlain plans a disk that is not encrypted.
func makePlain(dir string, machine blockgraph.Machine) (disk, error) {
	image := filepath.Join(dir, "plain.img")
	d, p, err := plan(plainXML(image, "sda", "scsi"), machine)
	if err != nil {
		return disk{}, err
	}
	return disk{disk: d, plan: p, store: memory(nil)}, makeImage(image)
}

// plan plans a disk document.
func plan(xml string, machine blockgraph.Machine) (*blockgraph.Disk, *blockgraph.Plan, error) {
	d, err := diskxml.ParseDisk([]byte(xml))
	if err != nil {
		return nil, nil, err
	}
	graph, err := blockgraph.Build(d, machine, blockgraph.Unlock{})
	if err != nil {
		return nil, nil, err
	}
	return d, graph.Plan(), nil
}

// plainXML describes a disk that is not encrypted. The name of the image is its serial number.
func plainXML(image, target, bus string) string {
	const form = "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='%s'/><target dev='%s' bus='%s'/><serial>%s</serial></disk>\n"
	return fmt.Sprintf(form, image, target, bus, filepath.Base(image))
}

// makeImage makes an empty image.
func makeImage(path string) error {
	return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, peer.VolumeSize))
}

// occupy marks the address of a disk as in use.
func occupy(m *blockgraph.Machine, d blockgraph.Device) {
	for i := range m.SCSI {
		if c := &m.SCSI[i]; d.Options.Text("bus") == c.ID+".0" {
			lun, _ := d.Options.Get("lun").(int) // the planner's own type
			c.Units = append(c.Units, blockgraph.SCSIUnit{LUN: uint(lun)})
		}
	}
}

// targetName returns the i-th name of sda, sdb, ..., sdz, sdaa and so on.
func targetName(i int) string {
	name := ""
	for i++; i > 0; i = (i - 1) / 26 {
		name = string(rune('a'+(i-1)%26)) + name
	}
	return "sd" + name
}

// memory is a key store with one passphrase.
type memory []byte

// Lookup implements secrets.Store.
func (m memory) Lookup(context.Context, secrets.Reference) (*secrets.Secret, error) {
	return secrets.New(bytes.Clone(m)), nil
}

// String implements secrets.Store.
func (m memory) String() string { return "memory:" }
