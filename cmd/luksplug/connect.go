package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/libvirtconn"
	"github.com/luksplug/luksplug/internal/schemacache"
	"github.com/luksplug/luksplug/qmp"
)

// defaultConnect is the libvirt that has the domain where nobody says which.
const defaultConnect = "qemu:///system"

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
			options.Process = func(context.Context) (*hotplug.Process, error) {
				pid, err := hostproc.Listener(port)
				if err != nil {
					return nil, fmt.Errorf("%w: run luksplug as root, or use the monitor's unix socket", err)
				}
				return hotplug.LookUpProcess(pid)
			}
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
		uri, err := a.libvirtURI()
		if err != nil {
			return nil, err
		}
		options.Files = hotplug.FilesRemote
		d := &domain{app: a, uri: uri, name: a.flags.domain, schemas: cache}
		a.libvirt = d
		if uri.Local() {
			options.Files = hotplug.FilesLocal
			options.Process = d.process
		}
		options.Disks = d.disks
		return func(ctx context.Context) (*qmp.Client, error) { return d.dial(ctx, opts) }, nil
	}
	return nil, &usageError{errors.New("which VM? give --qmp ADDRESS for a QEMU monitor, or --domain NAME for a libvirt domain")}
}

// libvirtURI reads the URI of --connect, or that of the configuration.
func (a *app) libvirtURI() (*libvirtconn.URI, error) {
	text, from := a.flags.connect, "--connect"
	if text == "" {
		c, err := readConfig(a.flags.config)
		if err != nil {
			return nil, err
		}
		if text, from = defaultConnect, "the default"; c != nil && c.Connect != "" {
			text, from = c.Connect, "configuration, connect"
		}
	}
	uri, err := libvirtconn.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", from, err)
	}
	return uri, nil
}

// checkClear refuses to send the secrets of a disk over a network in clear.
func (a *app) checkClear(disk *blockgraph.Disk) error {
	if a.flags.domain == "" || len(disk.Secrets()) == 0 {
		return nil
	}
	uri, err := a.libvirtURI()
	if err == nil && uri.Clear() {
		return &hotplug.PreflightError{Target: disk.Target, Reason: fmt.Sprintf("the connection to libvirt %s is not encrypted, and the disk's secrets would cross it: use +ssh or +tls", uri)}
	}
	return err
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
