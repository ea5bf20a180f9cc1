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
		return func(ctx context.Context) (*qmp.Client, error) { return a.dialLibvirt(ctx, uri, opts) }, nil
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

// dialLibvirt opens the monitor of a domain. The connection to libvirt lives
// until the program ends.
func (a *app) dialLibvirt(ctx context.Context, uri *url.URL, opts []qmp.Option) (*qmp.Client, error) {
	type opened struct {
		l   *libvirt.Libvirt
		err error
	}
	// go-libvirt knows no context: a libvirtd that does not answer is left to
	// itself.
	done := make(chan opened, 1)
	go func() {
		l, err := libvirt.ConnectToURI(uri)
		done <- opened{l, err}
	}()
	var o opened
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("libvirt %s does not answer: %w", uri.Redacted(), ctx.Err())
	case o = <-done:
	}
	if o.err != nil {
		return nil, fmt.Errorf("connect to libvirt %s: %w", uri.Redacted(), o.err)
	}
	a.closers = append(a.closers, func() { _ = o.l.Disconnect() }) // the program ends
	domain, err := lookUp(o.l, a.flags.domain)
	if err != nil {
		return nil, fmt.Errorf("domain %s at libvirt %s: %w", a.flags.domain, uri.Redacted(), err)
	}
	return qmp.NewLibvirt(ctx, o.l, domain, opts...)
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
