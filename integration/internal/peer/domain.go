package peer

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// DomainOptions describe a domain. The zero value is a q35 machine with four free root ports and no guest.
type DomainOptions struct {
	Name    string  // default luksplug-test
	Machine Machine // default Q35
	SCSI    bool    // a virtio-scsi controller
	Guest   bool    // boot the small Linux guest; otherwise the domain stays paused
	Kernel  Flavour // of the guest; default CloudKernel
	Devices string  // further XML inside <devices>
	Other   string  // further XML inside <domain>, such as <metadata>
	// Label is the <seclabel>; default: QEMU runs as libvirt's user.
	Label string
	// FromDisk boots the guest from a disk, see [BootImage], instead of from a kernel of its own.
	FromDisk bool
	UUID     string // default: libvirt generates it
	// Persistent defines the domain; otherwise it is transient. It is started unless Off is set.
	Persistent bool
	Off        bool     // do not start the domain, which has to be persistent
	Extra      []string // further arguments for QEMU
	// Movable puts the domain's sockets at paths that are private to each libvirtd, so that the domain can
	// migrate to another libvirtd, see [Libvirt.Receive].
	Movable bool
}

// Domain is a running domain of a private libvirtd.
type Domain struct {
	vm
	Name string

	libvirt              *Libvirt
	dir                  string
	hasGuest, persistent bool
}

// StartDomain makes a domain and starts it, under emulation. It ends with the libvirtd.
func (l *Libvirt) StartDomain(ctx context.Context, o DomainOptions) (_ *Domain, err error) {
	o.Name = cmp.Or(o.Name, "luksplug-test")
	defer func() {
		if err != nil {
			err = fmt.Errorf("start domain %s: %w", o.Name, err)
		}
	}()
	dir := filepath.Join(l.Dir, "domains", o.Name)
	inside := dir
	if o.Movable {
		dir, inside = l.movable(o.Name)
	}
	if err := l.makeDomainDir(dir); err != nil {
		return nil, err
	}
	image, err := l.guestImage(ctx, dir, inside, o)
	if err != nil {
		return nil, err
	}
	xml := domainXML(inside, image, o)
	file := filepath.Join(dir, "domain.xml")
	if err := os.WriteFile(file, []byte(xml), 0o644); err != nil {
		return nil, err
	}
	d := l.domainIn(dir, &Domain{Name: o.Name, hasGuest: o.Guest, persistent: o.Persistent})
	if o.Persistent {
		if _, err := l.Virsh(ctx, "define", file); err != nil {
			return nil, err
		}
	}
	if o.Off {
		return d, nil
	}
	return d, d.Start(ctx)
}

// guestImage returns the files from which a domain with a guest boots. A QEMU that is not root's gets copies in the
// domain's directory, because the cache may be in a directory of root's.
func (l *Libvirt) guestImage(ctx context.Context, dir, inside string, o DomainOptions) (GuestImage, error) {
	if !o.Guest {
		return GuestImage{}, nil
	}
	image, err := LoadGuestImage(ctx, cmp.Or(o.Kernel, CloudKernel))
	if err != nil || l.user == "" || o.FromDisk {
		return image, err
	}
	for _, path := range []*string{&image.Kernel, &image.Initrd} {
		name := filepath.Base(*path)
		if err := copyFile(*path, filepath.Join(dir, name), 0o644); err != nil {
			return image, err
		}
		*path = filepath.Join(inside, name)
	}
	return image, nil
}

func (l *Libvirt) domainIn(dir string, d *Domain) *Domain {
	d.libvirt, d.dir, d.Control = l, dir, filepath.Join(dir, "control.sock")
	return d
}

// movable returns the directory of a movable domain, and its path in the mount namespace of each libvirtd.
func (l *Libvirt) movable(name string) (dir, inside string) {
	return filepath.Join(l.Dir, "lib", "domains", name), filepath.Join("/var/lib/libvirt/domains", name)
}

func (l *Libvirt) makeDomainDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil || l.user == "" {
		return err
	}
	return os.Chmod(dir, 0o777) // QEMU makes its sockets there
}

// Receive prepares this libvirtd for a movable domain of another libvirtd, and returns the domain with its
// paths here. [Domain.Reconnect] connects to it after the migration.
func (l *Libvirt) Receive(d *Domain) (*Domain, error) {
	dir, _ := l.movable(d.Name)
	if err := l.makeDomainDir(dir); err != nil {
		return nil, err
	}
	return l.domainIn(dir, &Domain{Name: d.Name, hasGuest: d.hasGuest, persistent: d.persistent}), nil
}

// Start starts the domain, also after it was off. The guest of an earlier start is gone.
func (d *Domain) Start(ctx context.Context) error {
	d.disconnect()
	// Paused: QEMU drops the output of the guest until the harness is connected.
	arguments := []string{"start", "--paused", d.Name}
	if !d.persistent {
		arguments = []string{"create", "--paused", filepath.Join(d.dir, "domain.xml")}
	}
	if _, err := d.libvirt.Virsh(ctx, arguments...); err != nil {
		return err
	}
	if err := d.dial(ctx); err != nil || !d.hasGuest {
		return err
	}
	_, err := d.libvirt.Virsh(ctx, "resume", d.Name)
	return err
}

// Reconnect connects to a running guest whose domain was restored, or came from another libvirtd.
func (d *Domain) Reconnect(ctx context.Context) error {
	d.disconnect()
	if err := d.dial(ctx); err != nil || d.guest == nil {
		return err
	}
	d.guest.booted = true
	return nil
}

func (d *Domain) dial(ctx context.Context) (err error) {
	if d.hasGuest {
		d.guest, err = dialGuest(ctx, filepath.Join(d.dir, "guest.sock"))
	}
	return err
}

// domainXML describes the domain. Its sockets and logs are in dir.
func domainXML(dir string, image GuestImage, o DomainOptions) string {
	o.Machine = cmp.Or(o.Machine, Q35)
	devices := "<emulator>/usr/bin/qemu-system-x86_64</emulator>\n"
	if o.Machine == Q35 {
		devices += "<controller type='pci' index='0' model='pcie-root'/>\n" +
			strings.Repeat("<controller type='pci' model='pcie-root-port'/>\n", 6)
	}
	if o.SCSI {
		devices += "<controller type='scsi' index='0' model='virtio-scsi'/>\n"
	}
	id := ""
	if o.UUID != "" {
		id = "<uuid>" + o.UUID + "</uuid>\n"
	}
	arguments := ""
	for _, arg := range append([]string{
		"-chardev", "socket,id=test-control,server=on,wait=off,path=" + escapeComma(filepath.Join(dir, "control.sock")),
		"-mon", "chardev=test-control,mode=control",
	}, o.Extra...) {
		arguments += "<qemu:arg value='" + escapeXML(arg) + "'/>\n"
	}
	boot := ""
	if o.Guest {
		if !o.FromDisk {
			boot = "<kernel>" + escapeXML(image.Kernel) + "</kernel>\n<initrd>" + escapeXML(image.Initrd) + "</initrd>\n<cmdline>" + guestCommandLine + "</cmdline>"
		}
		devices += `<serial type='file'><source path='` + escapeXML(filepath.Join(dir, "console.log")) + `'/><target port='0'/></serial>
<serial type='unix'><source mode='bind' path='` + escapeXML(filepath.Join(dir, "guest.sock")) + `'/><target port='1'/></serial>
`
	}
	return `<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>` + escapeXML(o.Name) + `</name>
` + id + o.Other + `
<memory unit='MiB'>256</memory>
<os><type arch='x86_64' machine='` + string(o.Machine) + `'>hvm</type>` + boot + `</os>
<features><acpi/></features>
<devices>
` + devices + o.Devices + `<memballoon model='none'/>
</devices>
` + cmp.Or(o.Label, "<seclabel type='none'/>") + `
<qemu:commandline>
` + arguments + `</qemu:commandline>
</domain>
`
}
