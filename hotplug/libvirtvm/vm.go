package libvirtvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"

	"github.com/digitalocean/go-libvirt"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/access"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/qmp/qmplibvirt"
)

// ErrOff reports that a domain is off. It is wrapped in a [*hotplug.PreflightError].
var ErrOff = errors.New("the domain is off")

// VM connects to the domain's QEMU, which must be running, once: further calls
// return the same VM. [Domain.Close] closes it. The error wraps [ErrOff] if it is not
// running.
func (d *Domain) VM(ctx context.Context) (*hotplug.VM, error) {
	if d.vm != nil {
		return d.vm, nil
	}
	if running, err := d.running(ctx); err != nil {
		return nil, err
	} else if !running {
		return nil, &hotplug.PreflightError{Cause: ErrOff, Reason: fmt.Sprintf("domain %s is off: 'virsh start %s' starts it", d.name, d.name)}
	}
	o := d.opts.Options
	if o.Name == "" {
		o.Name = d.name
	}
	o.Files, o.Disks, o.UUID = hotplug.FilesRemote, d.disks, d.UUID()
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
		if client := d.dialOwn(ctx, doc, opts); client != nil {
			return client, nil
		}
		if _, err := exec.LookPath("virsh"); err == nil {
			passFile = qmplibvirt.Virsh{URI: d.uri.String(), Domain: d.UUID()}.PassFile
		}
	}
	return qmplibvirt.NewClient(ctx, d.libvirt, d.handle, passFile, opts...)
}

// dialOwn opens luksplug's own monitor of the domain. It returns nil if the domain has none
// on this host, or one at another path than its own, where anybody may listen.
func (d *Domain) dialOwn(ctx context.Context, doc *domainxml.Document, opts []qmp.Option) *qmp.Client {
	monitors := access.MonitorDirs(domainxml.MonitorDir)
	if socket := domainxml.MonitorSocket(doc.Arguments()); socket == "" || socket != monitors.Socket(d.UUID()) {
		return nil
	}
	address, end, err := monitors.Open(d.UUID())
	if err != nil {
		return nil
	}
	defer end()
	client, err := qmp.Dial(ctx, address, opts...)
	if err != nil {
		return nil
	}
	return client
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

// process returns the domain's QEMU, whose process id libvirt's interface does not report.
func (d *Domain) process(ctx context.Context) (*hotplug.Process, error) {
	doc, err := d.describe(ctx)
	if err != nil {
		return nil, err
	}
	user := hostproc.Self()
	if label := doc.Label("dac"); label != "" {
		if user, err = domainxml.ParseUser(label); err != nil {
			return nil, fmt.Errorf("the XML of domain %s: %w", d.name, err)
		}
	}
	p := &hotplug.Process{User: user}
	domain := hostproc.Domain{Name: doc.Name(), UUID: doc.UUID(), UID: user.UID, Session: d.uri.Session}
	if pid := domain.QEMU(); pid != 0 {
		if p, err = hotplug.LookUpProcess(pid); err != nil {
			return nil, err
		}
	}
	p.Labels = hotplug.Labels{AppArmor: doc.GeneratedLabel("apparmor"), Image: doc.GeneratedImageLabel("selinux")}
	return p, nil
}

// user returns the user that the domain's QEMU runs as, or is going to, in the form
// of libvirt; "" if that is not known.
func (d *Domain) user(ctx context.Context) (string, error) {
	running, err := d.running(ctx)
	if err != nil {
		return "", err
	}
	if running {
		p, err := d.process(ctx)
		if err != nil || p.User == nil {
			return "", err
		}
		return fmt.Sprintf("+%d:+%d", p.User.UID, p.User.GID), nil
	}
	doc, err := d.describe(ctx)
	if err != nil {
		return "", err
	}
	if label := doc.Label("dac"); label != "" && doc.GeneratedLabel("dac") == "" {
		if named, err := domainxml.ParseUser(label); err == nil { // the definition's own
			return fmt.Sprintf("+%d:+%d", named.UID, named.GID), nil
		}
	}
	return call(ctx, d, func() (string, error) { return baseLabel(d.libvirt) })
}

// baseLabel returns the user that libvirt runs QEMU as, in its form; "" if it does not
// report it.
func baseLabel(l *libvirt.Libvirt) (string, error) {
	caps, err := capabilities(l)
	if err != nil {
		return "", err
	}
	for _, model := range caps.Host.SecModel {
		if model.Name == "dac" && len(model.Labels) > 0 {
			return model.Labels[0].Value, nil
		}
	}
	return "", nil
}

// noteLabel writes down for the hook which user libvirt runs QEMU as.
func noteLabel(label string) error {
	if label == "" {
		return nil
	}
	user, err := domainxml.ParseUser(label)
	if err != nil {
		return err
	}
	return access.QEMUUser{}.Note(*user)
}

// noteUser is [NoteUser] for the domain's libvirt. A failure is logged: the hook finds the
// user in other ways.
func (d *Domain) noteUser(ctx context.Context) {
	if !d.uri.Local() || d.uri.Session || os.Geteuid() != 0 {
		return
	}
	label, err := call(ctx, d, func() (string, error) { return baseLabel(d.libvirt) })
	if err == nil {
		err = noteLabel(label)
	}
	if err != nil {
		d.log.Debugf("not written down for the hook: %v", err)
	}
}
