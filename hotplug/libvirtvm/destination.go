package libvirtvm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/luksplug/luksplug/internal/libvirtconn"
)

// destination checks the libvirt that the domain is to move to. The error is about the
// source.
func (c *migrateCheck) destination(ctx context.Context, uri *libvirtconn.URI) error {
	from, err := call(ctx, c.domain, func() (*libvirtxml.Caps, error) { return capabilities(c.domain.libvirt) })
	if err != nil {
		return err
	}
	l, disconnect, err := uri.Connect(ctx)
	if err != nil {
		c.Badf("%v", err)
	} else {
		defer disconnect()
		c.host(ctx, uri, l, from.Host.UUID)
		c.emulator(ctx, uri, l)
	}
	shell := c.options.Shell
	if len(shell) == 0 {
		shell = uri.Shell()
	}
	if len(shell) > 0 {
		c.luksplug(ctx, shell)
		return nil
	}
	c.add(Finding{Unchecked: true, Cause: CauseNoShell}, "luksplug, its hook and the keys: libvirt does not report them", nil)
	if l != nil {
		c.images(ctx, l)
	}
	return nil
}

// host checks whether the destination can take the domain.
func (c *migrateCheck) host(ctx context.Context, uri *libvirtconn.URI, l *libvirt.Libvirt, from string) {
	to, err := libvirtconn.Within(ctx, func() (*libvirtxml.Caps, error) { return capabilities(l) })
	switch {
	case err != nil:
		c.Badf("%s: %v", uri, err)
	case to.Host.UUID == from:
		c.Badf("%s is the host that the domain runs on", uri)
	}
	active, err := libvirtconn.Within(ctx, func() (int32, error) {
		handle, err := l.DomainLookupByUUID(c.domain.handle.UUID)
		if err != nil {
			return 0, err
		}
		return l.DomainIsActive(handle)
	})
	switch {
	case isLibvirt(err, libvirt.ErrNoDomain):
	case err != nil:
		c.Badf("%s: %v", uri, err)
	case active != 0:
		c.Badf("%s runs a domain with this UUID", uri)
	}
}

// emulator checks QEMU on the destination.
func (c *migrateCheck) emulator(ctx context.Context, uri *libvirtconn.URI, l *libvirt.Libvirt) {
	machine, emulator := c.doc.Attribute("machine", "os", "type"), c.doc.Value("devices", "emulator")
	if machine == "" || emulator == "" {
		c.Uncheckedf("QEMU: the domain's XML has no machine")
		return
	}
	_, err := libvirtconn.Within(ctx, func() (string, error) {
		return l.ConnectGetDomainCapabilities(libvirt.OptString{emulator}, libvirt.OptString{c.doc.Attribute("arch", "os", "type")}, libvirt.OptString{machine}, libvirt.OptString{c.doc.Attribute("type")}, 0)
	})
	if err != nil {
		c.Badf("%s does not run this domain's machine %s with %s: %v", uri, machine, emulator, err)
		return
	}
	version, err := libvirtconn.Within(ctx, l.ConnectGetVersion)
	if err != nil {
		c.Badf("%s: the version of its QEMU: %v", uri, err)
		return
	}
	const major, minor = 1000000, 1000 // libvirt's virConnectGetVersion
	here := c.vm.Client().Version().QEMU
	there := fmt.Sprintf("%d.%d.%d", version/major, version%major/minor, version%minor)
	if older := int(version) < here.Major*major+here.Minor*minor; older {
		c.Badf("%s has QEMU %s, which is older than the domain's %d.%d.%d: QEMU does not guarantee that it can take the domain over", uri, there, here.Major, here.Minor, here.Micro)
		return
	}
	c.Goodf("%s has QEMU %s and the machine %s", uri, there, machine)
}

// luksplug runs luksplug's own check on the destination.
func (c *migrateCheck) luksplug(ctx context.Context, shell []string) {
	cmd := exec.CommandContext(ctx, shell[0], append(shell[1:len(shell):len(shell)], "luksplug", "hook", "check", "--output", "json", "--domain-xml", "-")...)
	cmd.Stdin = bytes.NewReader(c.doc.Text())
	var out, said answer
	cmd.Stdout, cmd.Stderr = &out, &said
	cmd.WaitDelay = time.Second // for what the command has started and left behind
	failed := cmd.Run()
	var report Report
	if err := json.Unmarshal(out.text, &report); err != nil || len(report.Findings) == 0 {
		if failed == nil {
			failed = errors.New("its output is no report on the hook")
		}
		c.Badf("luksplug cannot be run on the destination (%s): %v: %s", strings.Join(shell, " "), failed, strings.TrimSpace(string(said.text)))
		return
	}
	c.compareKeys(report.RecordKey)
	for _, f := range report.Findings {
		f.Text = "destination: " + f.Text
		c.Findings = append(c.Findings, f)
	}
}

// answer holds what another host says, up to a bound.
type answer struct{ text []byte }

const longestAnswer = 1 << 20 // a report has some kilobytes

var errAnswer = errors.New("the other host says more than a report has")

// Write implements [io.Writer]. Its error ends the command, which can no longer write.
func (a *answer) Write(p []byte) (int, error) {
	if len(a.text)+len(p) > longestAnswer {
		a.text = nil
		return 0, errAnswer
	}
	a.text = append(a.text, p...)
	return len(p), nil
}

// images checks whether the storage pools of the destination have the images.
func (c *migrateCheck) images(ctx context.Context, l *libvirt.Libvirt) {
	for _, r := range c.live.Disks {
		disk, err := r.Parsed()
		if err != nil {
			c.Badf("%v", err)
			continue
		}
		for _, image := range disk.Images() {
			if !image.Source.Local() {
				c.Uncheckedf("disk %s: %s: whether the destination reaches it", r.Target, image.Source)
				continue
			}
			_, err := libvirtconn.Within(ctx, func() (libvirt.StorageVol, error) {
				return l.StorageVolLookupByPath(image.Source.Path)
			})
			switch {
			case err == nil:
				c.Goodf("disk %s: a pool of the destination has %s", r.Target, image.Source.Path)
			case isLibvirt(err, libvirt.ErrNoStorageVol):
				c.Uncheckedf("disk %s: no pool of the destination has %s, which may be there all the same", r.Target, image.Source.Path)
			default:
				c.Badf("disk %s: %s: %v", r.Target, image.Source.Path, err)
			}
		}
	}
}
