package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/qmp"
)

// dialer returns the function that opens the monitor of the VM that the flags
// name, and fills in what the options can know of it.
func (a *app) dialer(options *hotplug.Options) (hotplug.Dialer, error) {
	var opts []qmp.Option
	if t := a.traced(); t != nil {
		opts = append(opts, qmp.WithTrace(t))
	}
	switch {
	case a.flags.qmp != "":
		options.Name = a.flags.qmp
		if loopback(a.flags.qmp) {
			options.Files = hotplug.FilesLocal
		}
		return func(ctx context.Context) (*qmp.Client, error) {
			// A monitor serves one client; the next one waits unseen in the
			// socket's queue.
			slow := time.AfterFunc(2*time.Second, func() {
				options.OnWait("the monitor " + a.flags.qmp + ", which another client may hold")
			})
			defer slow.Stop()
			return qmp.Dial(ctx, a.flags.qmp, opts...)
		}, nil
	case a.flags.domain != "":
		options.Name = a.flags.domain
		uri, err := url.Parse(a.flags.connect)
		if err != nil {
			return nil, &usageError{fmt.Errorf("--connect: %w", err)}
		}
		options.Files = hotplug.FilesRemote
		if uri.Host == "" || loopback(net.JoinHostPort(uri.Hostname(), "0")) {
			options.Files = hotplug.FilesLocal
		}
		d := &domain{app: a, uri: uri, name: a.flags.domain}
		options.Targets = d.targets
		return func(ctx context.Context) (*qmp.Client, error) { return d.dial(ctx, opts) }, nil
	}
	return nil, &usageError{errors.New("which VM? give --qmp ADDRESS for a QEMU monitor, or --domain NAME for a libvirt domain")}
}

// loopback tells whether HOST:PORT is on this machine.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(strings.TrimPrefix(address, "tcp:"))
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// domain is a libvirt domain and the connection to its libvirt, which lives
// until the program ends.
type domain struct {
	app  *app
	uri  *url.URL
	name string

	libvirt *libvirt.Libvirt
	handle  libvirt.Domain
}

// dial connects to libvirt and opens the domain's monitor.
func (d *domain) dial(ctx context.Context, opts []qmp.Option) (*qmp.Client, error) {
	l, err := within(ctx, func() (*libvirt.Libvirt, error) { return libvirt.ConnectToURI(d.uri) })
	if err != nil {
		return nil, fmt.Errorf("connect to libvirt %s: %w", d.uri.Redacted(), err)
	}
	d.app.closers = append(d.app.closers, func() { _ = l.Disconnect() }) // the program ends
	handle, err := within(ctx, func() (libvirt.Domain, error) { return lookUp(l, d.name) })
	if err != nil {
		return nil, fmt.Errorf("domain %s at libvirt %s: %w", d.name, d.uri.Redacted(), err)
	}
	d.libvirt, d.handle = l, handle
	return qmp.NewLibvirt(ctx, l, handle, opts...)
}

// targets returns the targets of the disks that libvirt has in the domain.
func (d *domain) targets(ctx context.Context) ([]string, error) {
	text, err := within(ctx, func() (string, error) { return d.libvirt.DomainGetXMLDesc(d.handle, 0) })
	if err != nil {
		return nil, fmt.Errorf("domain %s at libvirt %s: %w", d.name, d.uri.Redacted(), err)
	}
	var doc libvirtxml.Domain
	if err := doc.Unmarshal(text); err != nil {
		return nil, fmt.Errorf("the XML of domain %s: %w", d.name, err)
	}
	var out []string
	if doc.Devices != nil {
		for _, disk := range doc.Devices.Disks {
			if disk.Target != nil {
				out = append(out, disk.Target.Dev)
			}
		}
	}
	return out, nil
}

// within calls f, which knows no context, as none of go-libvirt does. A libvirtd
// that does not answer is left to itself when ctx ends.
func within[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		value, err := f()
		done <- answer{value, err}
	}()
	select {
	case <-ctx.Done():
		var none T
		return none, fmt.Errorf("libvirt does not answer: %w", ctx.Err())
	case a := <-done:
		return a.value, a.err
	}
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
