package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/hotplug/record"
	"github.com/luksplug/luksplug/internal/libvirtconn"
)

// destination is the libvirt that a domain is to move to.
type destination struct {
	*migrateCheck
	uri     *libvirtconn.URI
	disks   []record.Disk
	libvirt *libvirt.Libvirt
}

// look looks at everything there. The error is one of the source.
func (d *destination) look(ctx context.Context, vm *hotplug.VM) error {
	doc, err := d.app.libvirt.describe(ctx)
	if err != nil {
		return err
	}
	from, err := hostUUID(ctx, d.app.libvirt.libvirt)
	if err != nil {
		return err
	}
	l, closing, err := d.uri.Connect(ctx)
	if err != nil {
		d.bad("%v", err)
	} else {
		defer closing()
		d.libvirt = l
		d.host(ctx, from)
		d.emulator(ctx, doc, vm)
	}
	shell := strings.Fields(d.shell)
	if len(shell) == 0 {
		shell = d.uri.Shell()
	}
	if len(shell) > 0 {
		text, err := d.app.libvirt.xml(ctx)
		if err != nil {
			return err
		}
		d.luksplug(ctx, shell, text)
		return nil
	}
	d.unchecked("luksplug, its hook and the keys: libvirt does not tell; give --shell, or run there: luksplug hook check --domain-xml FILE")
	if d.libvirt != nil {
		d.images(ctx)
	}
	return nil
}

// hostUUID returns what libvirt knows its host by.
func hostUUID(ctx context.Context, l *libvirt.Libvirt) (string, error) {
	text, err := libvirtconn.Within(ctx, l.ConnectGetCapabilities)
	if err != nil {
		return "", fmt.Errorf("the capabilities of libvirt: %w", err)
	}
	caps := &libvirtxml.Caps{}
	if err := caps.Unmarshal(text); err != nil {
		return "", fmt.Errorf("the capabilities of libvirt: %w", err)
	}
	return caps.Host.UUID, nil
}

// host looks whether the domain could be there at all.
func (d *destination) host(ctx context.Context, from string) {
	to, err := hostUUID(ctx, d.libvirt)
	switch {
	case err != nil:
		d.bad("%s: %v", d.uri, err)
	case to == from:
		d.bad("%s is the host that the domain runs on", d.uri)
	}
	active, err := libvirtconn.Within(ctx, func() (int32, error) {
		handle, err := d.libvirt.DomainLookupByUUID(d.app.libvirt.handle.UUID)
		if err != nil {
			return 0, err
		}
		return d.libvirt.DomainIsActive(handle)
	})
	if isLibvirt(err, libvirt.ErrNoDomain) {
		return
	}
	if err != nil {
		d.bad("%s: %v", d.uri, err)
	}
	if active != 0 {
		d.bad("%s runs a domain with this UUID", d.uri)
	}
}

func isLibvirt(err error, code libvirt.ErrorNumber) bool {
	var e libvirt.Error
	return errors.As(err, &e) && e.Code == uint32(code)
}

// emulator looks at QEMU there.
func (d *destination) emulator(ctx context.Context, doc *libvirtxml.Domain, vm *hotplug.VM) {
	if doc.OS == nil || doc.OS.Type == nil || doc.Devices == nil {
		d.unchecked("QEMU: the domain's XML has no machine")
		return
	}
	machine := doc.OS.Type
	text, err := libvirtconn.Within(ctx, func() (string, error) {
		return d.libvirt.ConnectGetDomainCapabilities(libvirt.OptString{doc.Devices.Emulator}, libvirt.OptString{machine.Arch}, libvirt.OptString{machine.Machine}, libvirt.OptString{doc.Type}, 0)
	})
	if err != nil {
		d.bad("%s does not run this domain's machine %s with %s: %v", d.uri, machine.Machine, doc.Devices.Emulator, err)
		return
	}
	caps := &libvirtxml.DomainCaps{}
	if err := caps.Unmarshal(text); err != nil {
		d.bad("%s: what it says of QEMU cannot be read: %v", d.uri, err)
		return
	}
	version, err := libvirtconn.Within(ctx, d.libvirt.ConnectGetVersion)
	if err != nil {
		d.bad("%s: the version of its QEMU: %v", d.uri, err)
		return
	}
	const major, minor = 1000000, 1000 // libvirt's virConnectGetVersion
	here := vm.Client().Version().QEMU
	there := fmt.Sprintf("%d.%d.%d", version/major, version%major/minor, version%minor)
	if older := int(version) < here.Major*major+here.Minor*minor; older {
		d.bad("%s has QEMU %s, which is older than the domain's %d.%d.%d: QEMU does not promise that it can take the domain over", d.uri, there, here.Major, here.Minor, here.Micro)
		return
	}
	d.good("%s has QEMU %s and the machine %s", d.uri, there, machine.Machine)
}

// luksplug asks luksplug itself there.
func (d *destination) luksplug(ctx context.Context, shell []string, domain string) {
	cmd := exec.CommandContext(ctx, shell[0], append(shell[1:], "luksplug", "hook", "check", "--output", "json", "--domain-xml", "-")...)
	cmd.Stdin = strings.NewReader(domain)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	failed := cmd.Run()
	var answer struct{ Findings []finding }
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil || len(answer.Findings) == 0 {
		if failed == nil {
			failed = errors.New("it says nothing of its hook")
		}
		d.bad("luksplug cannot be asked on the destination (%s): %v: %s", strings.Join(shell, " "), failed, strings.TrimSpace(said.String()))
		return
	}
	for _, f := range answer.Findings {
		f.Text = "destination: " + f.Text
		d.findings = append(d.findings, f)
	}
}

// images looks whether the storage pools there have the images.
func (d *destination) images(ctx context.Context) {
	for _, r := range d.disks {
		disk, err := hook.StartDisk(r)
		if err != nil {
			d.bad("%v", err)
			continue
		}
		for _, image := range disk.Disk.Images() {
			if !image.Source.Local() {
				d.unchecked("disk %s: %s: whether the destination reaches it", r.Target, image.Source)
				continue
			}
			_, err := libvirtconn.Within(ctx, func() (libvirt.StorageVol, error) {
				return d.libvirt.StorageVolLookupByPath(image.Source.Path)
			})
			switch {
			case err == nil:
				d.good("disk %s: a pool of the destination has %s", r.Target, image.Source.Path)
			case isLibvirt(err, libvirt.ErrNoStorageVol):
				d.unchecked("disk %s: no pool of the destination has %s, which may be there all the same", r.Target, image.Source.Path)
			default:
				d.bad("disk %s: %s: %v", r.Target, image.Source.Path, err)
			}
		}
	}
}
