package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"

	"github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/libvirtconn"
	"github.com/luksplug/luksplug/internal/schemacache"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/qmp/qmplibvirt"
)

// domain is a libvirt domain and the connection to its libvirt, which lives
// until the program ends.
type domain struct {
	app     *app
	uri     *libvirtconn.URI
	name    string
	schemas *schemacache.Cache

	libvirt *libvirt.Libvirt
	handle  libvirt.Domain
}

// open connects to libvirt and looks the domain up.
func (d *domain) open(ctx context.Context) error {
	l, closing, err := d.uri.Connect(ctx)
	if err != nil {
		return err
	}
	d.app.closers = append(d.app.closers, closing)
	handle, err := libvirtconn.Within(ctx, func() (libvirt.Domain, error) { return lookUp(l, d.name) })
	if err != nil {
		return fmt.Errorf("domain %s at libvirt %s: %w", d.name, d.uri, err)
	}
	d.libvirt, d.handle = l, handle
	return nil
}

// connected opens the connection to libvirt again, where it was lost.
func (d *domain) connected(ctx context.Context) error {
	if d.libvirt != nil && d.libvirt.IsConnected() {
		return nil
	}
	return d.open(ctx)
}

// openDomain opens the domain that the flags name, which need not be running.
func (a *app) openDomain(ctx context.Context) (*domain, error) {
	if _, err := a.dialer(&hotplug.Options{}); err != nil {
		return nil, err
	}
	return a.libvirt, a.libvirt.open(ctx)
}

// dial connects to libvirt and opens the domain's monitor: luksplug's own, where
// the domain has one on this host, so that no secret passes libvirt.
func (d *domain) dial(ctx context.Context, opts []qmp.Option) (*qmp.Client, error) {
	if err := d.open(ctx); err != nil {
		return nil, err
	}
	var passFile qmplibvirt.FilePasser
	if d.uri.Local() {
		doc, err := d.describe(ctx)
		if err != nil {
			return nil, err
		}
		if doc.Devices != nil {
			d.schemas.Emulator = doc.Devices.Emulator
		}
		opts = append(opts, qmp.WithSchemaSource(d.schemas))
		if socket := ownMonitor(doc); socket != "" {
			if client, err := qmp.Dial(ctx, socket, opts...); err == nil {
				return client, nil
			}
		}
		if _, err := exec.LookPath("virsh"); err == nil {
			passFile = qmplibvirt.Virsh{URI: d.uri.String(), Domain: uuid.UUID(d.handle.UUID).String()}.PassFile
		}
	}
	return qmplibvirt.NewClient(ctx, d.libvirt, d.handle, passFile, opts...)
}

// ownMonitor returns the socket of luksplug's own monitor in the domain, "" where
// it has none that this process could open.
func ownMonitor(doc *libvirtxml.Domain) string {
	if doc.QEMUCommandline == nil {
		return ""
	}
	var arguments []string
	for _, a := range doc.QEMUCommandline.Args {
		arguments = append(arguments, a.Value)
	}
	socket := hook.MonitorSocket(arguments)
	if _, err := os.Stat(socket); socket == "" || err != nil {
		return ""
	}
	return socket
}

// xml returns the document of the domain as it is now.
func (d *domain) xml(ctx context.Context) (string, error) {
	if err := d.connected(ctx); err != nil {
		return "", err
	}
	text, err := libvirtconn.Within(ctx, func() (string, error) { return d.libvirt.DomainGetXMLDesc(d.handle, 0) })
	if err != nil {
		return "", fmt.Errorf("domain %s at libvirt %s: %w", d.name, d.uri, err)
	}
	return text, nil
}

// describe returns the domain as it is now.
func (d *domain) describe(ctx context.Context) (*libvirtxml.Domain, error) {
	text, err := d.xml(ctx)
	if err != nil {
		return nil, err
	}
	doc := &libvirtxml.Domain{}
	if err := doc.Unmarshal(text); err != nil {
		return nil, fmt.Errorf("the XML of domain %s: %w", d.name, err)
	}
	return doc, nil
}

// disks returns the disks that libvirt has in the domain.
func (d *domain) disks(ctx context.Context) ([]blockgraph.OtherDisk, error) {
	text, err := d.xml(ctx)
	if err != nil {
		return nil, err
	}
	m, err := diskxml.ParseDomain([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("the XML of domain %s: %w", d.name, err)
	}
	return m.Disks, nil
}

// process returns the domain's QEMU: libvirt says as whom it runs, and the
// process of that user that has the domain's UUID among its arguments is the
// one. libvirt itself does not tell its number.
func (d *domain) process(ctx context.Context) (*hotplug.Process, error) {
	doc, err := d.describe(ctx)
	if err != nil {
		return nil, err
	}
	user := hostproc.Self()
	labels := hotplug.Labels{}
	for _, label := range doc.SecLabel {
		if label.Model == "dac" && label.Label != "" {
			if user, err = hook.ParseUser(label.Label); err != nil {
				return nil, fmt.Errorf("the XML of domain %s: %w", d.name, err)
			}
		}
		switch label.Model {
		case "apparmor":
			labels.AppArmor = label.Label
		case "selinux":
			labels.Image = label.ImageLabel
		}
	}
	pid := hostproc.FindQEMU(doc.UUID, user.UID)
	if pid == 0 {
		return &hotplug.Process{User: user, Labels: labels}, nil
	}
	p, err := hotplug.LookUpProcess(pid)
	if err == nil {
		p.Labels = labels
	}
	return p, err
}

// lookUp finds a domain by name, UUID or id, in this order: a name may look like
// the others.
func lookUp(l *libvirt.Libvirt, name string) (libvirt.Domain, error) {
	domain, err := l.DomainLookupByName(name)
	if err == nil {
		return domain, nil
	}
	if id, e := uuid.Parse(name); e == nil && len(name) == 36 {
		return l.DomainLookupByUUID(libvirt.UUID(id))
	}
	if id, e := strconv.ParseInt(name, 10, 32); e == nil {
		return l.DomainLookupByID(int32(id))
	}
	return domain, err
}
