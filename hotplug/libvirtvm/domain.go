package libvirtvm

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"

	"github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/internal/libvirtconn"
	"github.com/luksplug/luksplug/internal/schemacache"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/qmp/qmplibvirt"
)

// Options of a domain. The zero value is right for most programs.
type Options struct {
	// Options are those of the VM. Open sets Files, Process and Disks, and Name if it
	// is empty.
	hotplug.Options
	// QMP are options of the monitor connection.
	QMP []qmp.Option
	// Schemas caches QEMU's schema, so that the guest is not held up by the query;
	// nil for no cache. It is used for a libvirt of this host.
	Schemas *schemacache.Cache
}

// Domain is a libvirt domain, which need not be running. It is not safe for
// concurrent use.
type Domain struct {
	uri  *libvirtconn.URI
	name string
	opts Options
	log  logrus.FieldLogger

	libvirt    *libvirt.Libvirt
	handle     libvirt.Domain
	disconnect func()
	vm         *hotplug.VM // nil until it is needed
}

// Open connects to the libvirt at uri and looks the domain up by name, UUID or id,
// in this order. The caller closes it.
//
// The errors wrap [ErrInvalidURI] and [ErrUnsupportedURI] if the URI is not one that
// luksplug can use.
func Open(ctx context.Context, uri, domain string, opts Options) (*Domain, error) {
	u, err := libvirtconn.Parse(uri)
	if err != nil {
		return nil, err
	}
	d := &Domain{uri: u, name: domain, opts: opts, log: opts.Log}
	if d.log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		d.log = silent
	}
	if err := d.connect(ctx); err != nil {
		return nil, err
	}
	return d, nil
}

// Errors of URIs.
var (
	// ErrInvalidURI reports that a text is not a connection URI of libvirt.
	ErrInvalidURI = libvirtconn.ErrInvalidURI
	// ErrUnsupportedURI reports a connection URI that luksplug does not support.
	ErrUnsupportedURI = libvirtconn.ErrUnsupported
)

// Close closes the connections to the VM and to libvirt. The VM and its disks stay
// as they are.
func (d *Domain) Close() error {
	var err error
	if d.vm != nil {
		err = d.vm.Close()
	}
	if d.disconnect != nil {
		d.disconnect()
	}
	return err
}

// UUID returns the domain's UUID.
func (d *Domain) UUID() string { return uuid.UUID(d.handle.UUID).String() }

// connect connects to libvirt, again if it was connected, and looks the domain up.
func (d *Domain) connect(ctx context.Context) error {
	l, disconnect, err := d.uri.Connect(ctx)
	if err != nil {
		return err
	}
	handle, err := libvirtconn.Within(ctx, func() (libvirt.Domain, error) { return lookUp(l, d.name) })
	if err != nil {
		disconnect()
		return d.failed(err)
	}
	if d.disconnect != nil {
		d.disconnect()
	}
	d.libvirt, d.handle, d.disconnect = l, handle, disconnect
	return nil
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

// failed says which domain an error of libvirt is about.
func (d *Domain) failed(err error) error {
	return fmt.Errorf("domain %s at libvirt %s: %w", d.name, d.uri, err)
}

// call calls libvirt, and connects first if the connection was lost.
func call[T any](ctx context.Context, d *Domain, f func() (T, error)) (T, error) {
	if !d.libvirt.IsConnected() {
		if err := d.connect(ctx); err != nil {
			var none T
			return none, err
		}
	}
	return libvirtconn.Within(ctx, f)
}

// running reports whether the domain runs.
func (d *Domain) running(ctx context.Context) (bool, error) {
	active, err := call(ctx, d, func() (int32, error) { return d.libvirt.DomainIsActive(d.handle) })
	if err != nil {
		return false, d.failed(err)
	}
	return active != 0, nil
}

// VM connects to the domain's QEMU, which must be running, once: further calls
// return the same VM. [Domain.Close] closes it.
func (d *Domain) VM(ctx context.Context) (*hotplug.VM, error) {
	if d.vm != nil {
		return d.vm, nil
	}
	o := d.opts.Options
	if o.Name == "" {
		o.Name = d.name
	}
	o.Files, o.Disks = hotplug.FilesRemote, d.disks
	if d.uri.Local() {
		o.Files, o.Process = hotplug.FilesLocal, d.process
	}
	vm, err := hotplug.Connect(ctx, d.dial, o)
	if err != nil {
		return nil, err
	}
	d.vm = vm
	return vm, nil
}

// dial opens the domain's monitor: luksplug's own if the domain has one on this
// host, so that no secret passes through libvirt. What was connected before is lost
// when it is called again.
func (d *Domain) dial(ctx context.Context) (*qmp.Client, error) {
	if d.vm != nil {
		if err := d.connect(ctx); err != nil {
			return nil, err
		}
	}
	opts := slices.Clone(d.opts.QMP)
	var passFile qmplibvirt.FilePasser
	if d.uri.Local() {
		doc, err := d.describe(ctx)
		if err != nil {
			return nil, err
		}
		if d.opts.Schemas != nil {
			schemas := *d.opts.Schemas
			schemas.Emulator = doc.Value("devices", "emulator")
			opts = append(opts, qmp.WithSchemaSource(&schemas))
		}
		if socket := hook.MonitorSocket(doc.Arguments()); socket != "" {
			if _, err := os.Stat(socket); err == nil {
				if client, err := qmp.Dial(ctx, socket, opts...); err == nil {
					return client, nil
				}
			}
		}
		if _, err := exec.LookPath("virsh"); err == nil {
			passFile = qmplibvirt.Virsh{URI: d.uri.String(), Domain: d.UUID()}.PassFile
		}
	}
	return qmplibvirt.NewClient(ctx, d.libvirt, d.handle, passFile, opts...)
}

// describe returns the XML of the domain as it is now.
func (d *Domain) describe(ctx context.Context) (*domainxml.Document, error) {
	text, err := call(ctx, d, func() (string, error) { return d.libvirt.DomainGetXMLDesc(d.handle, 0) })
	if err != nil {
		return nil, d.failed(err)
	}
	doc, err := domainxml.Parse([]byte(text))
	if err != nil {
		return nil, d.failed(err)
	}
	return doc, nil
}

// disks returns the disks that libvirt has in the domain.
func (d *Domain) disks(ctx context.Context) ([]blockgraph.OtherDisk, error) {
	doc, err := d.describe(ctx)
	if err != nil {
		return nil, err
	}
	m, err := diskxml.ParseDomain(doc.Text())
	if err != nil {
		return nil, fmt.Errorf("the XML of domain %s: %w", d.name, err)
	}
	return m.Disks, nil
}
