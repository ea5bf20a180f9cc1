package libvirtvm

import (
	"context"
	"fmt"

	"libvirt.org/go/libvirtxml"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/internal/hostproc"
)

// process returns the domain's QEMU. libvirt does not tell the process id: it is the
// process of the user that libvirt names which has the domain's UUID among its
// arguments.
func (d *Domain) process(ctx context.Context) (*hotplug.Process, error) {
	doc, err := d.describe(ctx)
	if err != nil {
		return nil, err
	}
	user := hostproc.Self()
	if label := doc.Label("dac"); label != "" {
		if user, err = hook.ParseUser(label); err != nil {
			return nil, fmt.Errorf("the XML of domain %s: %w", d.name, err)
		}
	}
	p := &hotplug.Process{User: user}
	if pid := hostproc.FindQEMU(doc.UUID(), user.UID); pid != 0 {
		if p, err = hotplug.LookUpProcess(pid); err != nil {
			return nil, err
		}
	}
	p.Labels = hotplug.Labels{AppArmor: doc.Label("apparmor"), Image: doc.ImageLabel("selinux")}
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
	caps, err := call(ctx, d, func() (*libvirtxml.Caps, error) { return capabilities(d.libvirt) })
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
