package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/qmp/schemacache"
)

// dialer returns the function that opens the monitor of the VM that the flags
// name, and fills in what the options can know of it.
func (a *app) dialer(options *hotplug.Options) (hotplug.Dialer, error) {
	var opts []qmp.Option
	if t := a.traced(); t != nil {
		opts = append(opts, qmp.WithTrace(t))
	}
	cache := a.schemas()
	switch {
	case a.flags.qmp != "":
		options.Name = a.flags.qmp
		if port, ok := loopback(a.flags.qmp); ok {
			options.Files = hotplug.FilesLocal
			options.Process = func(context.Context) (*hotplug.Process, error) { return listener(port) }
		}
		opts = append(opts, qmp.WithSchemaSource(cache))
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
		d := &domain{app: a, uri: uri, name: a.flags.domain, schemas: cache}
		a.libvirt = d
		_, here := loopback(net.JoinHostPort(uri.Hostname(), "0"))
		if d.local = uri.Host == "" || here; d.local {
			options.Files = hotplug.FilesLocal
			options.Process = d.process
		}
		options.Disks = d.disks
		return func(ctx context.Context) (*qmp.Client, error) { return d.dial(ctx, opts) }, nil
	}
	return nil, &usageError{errors.New("which VM? give --qmp ADDRESS for a QEMU monitor, or --domain NAME for a libvirt domain")}
}

// schemas is where QEMU's schema is looked up, so that no guest is held up by the
// question.
func (a *app) schemas() *schemacache.Cache {
	cache := &schemacache.Cache{Report: func(err error) { a.log.Debug(err) }}
	dir, err := schemacache.DefaultDir()
	if err != nil {
		a.log.Debug(err)
	}
	cache.Dir = dir
	return cache
}

// loopback returns the port of HOST:PORT, if that is on this machine.
func loopback(address string) (port int, ok bool) {
	host, service, err := net.SplitHostPort(strings.TrimPrefix(address, "tcp:"))
	if err != nil {
		return 0, false
	}
	port, err = net.LookupPort("tcp", service)
	ip := net.ParseIP(host)
	return port, err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
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
