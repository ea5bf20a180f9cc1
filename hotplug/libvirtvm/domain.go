package libvirtvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	"libvirt.org/go/libvirtxml"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/internal/libvirtconn"
	"github.com/luksplug/luksplug/internal/schemacache"
	"github.com/luksplug/luksplug/internal/similar"
	"github.com/luksplug/luksplug/qmp"
)

// Options of a domain. The zero value is right for most programs.
type Options struct {
	// Options are those of the VM. Open sets Files, Process and Disks, and Name if it
	// is empty.
	hotplug.Options
	// QMP are options of the monitor connection.
	QMP []qmp.Option
	// Schemas caches QEMU's schema, so that the query does not stall the guest; nil for no
	// cache. It is used for a libvirt of this host.
	Schemas *schemacache.Cache
	// RecordKey is the path of the key that signs the records of the domain's disks; ""
	// is the usual one of this host. It is not used for a domain of another host.
	RecordKey string
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
	warned     bool        // of a record without a signature
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
		defer disconnect()
		if isLibvirt(err, libvirt.ErrNoDomain) {
			return d.unknown(ctx, l, err)
		}
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

// ErrNoDomain reports that libvirt has no domain of the name, UUID or id.
var ErrNoDomain = errors.New("there is no such domain")

// unknown is the error for a domain that libvirt does not have. It names those that it has.
func (d *Domain) unknown(ctx context.Context, l *libvirt.Libvirt, cause error) error {
	domains, err := libvirtconn.Within(ctx, func() ([]libvirt.Domain, error) {
		found, _, err := l.ConnectListAllDomains(1, 0)
		return found, err
	})
	if err != nil {
		return d.failed(cause)
	}
	var names []string
	for _, other := range domains {
		names = append(names, other.Name)
	}
	return fmt.Errorf("domain %s at libvirt %s: %w%s", d.name, d.uri, ErrNoDomain, existing(d.name, names))
}

// existing describes the domains that there are instead of an unknown one.
func existing(unknown string, names []string) string {
	const most = 10
	slices.Sort(names)
	meant := similar.Misspelt(unknown, names)
	switch {
	case len(names) == 0:
		return ": it has none: is it the libvirt of another user or host?"
	case meant != "":
		return ": did you mean " + meant + "?"
	case len(names) > most:
		return fmt.Sprintf(": it has %s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return ": it has " + strings.Join(names, ", ")
}

// failed adds the domain to an error of libvirt.
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

// capabilities returns the capabilities of libvirt's host.
func capabilities(l *libvirt.Libvirt) (*libvirtxml.Caps, error) {
	text, err := l.ConnectGetCapabilities()
	caps := &libvirtxml.Caps{}
	if err == nil {
		err = caps.Unmarshal(text)
	}
	if err != nil {
		return nil, fmt.Errorf("the capabilities of libvirt: %w", err)
	}
	return caps, nil
}

// isLibvirt reports whether err is libvirt's error with that code.
func isLibvirt(err error, code libvirt.ErrorNumber) bool {
	var e libvirt.Error
	return errors.As(err, &e) && e.Code == uint32(code)
}
