package peer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// DomainOptions say what domain to start. The zero value is a q35 machine with
// at least four free root ports, without a guest.
type DomainOptions struct {
	Name    string   // default luksplug-test
	Machine Machine  // default Q35
	Binary  string   // the emulator; default the machine's qemu-system-x86_64
	SCSI    bool     // a virtio-scsi controller
	Guest   bool     // boot the small Linux guest; otherwise the domain stays paused
	Devices string   // further XML inside <devices>
	Extra   []string // further arguments for QEMU
}

// Domain is a running domain of a private libvirtd.
type Domain struct {
	Name    string
	Control string // unix socket of a second QMP monitor, for the test's own questions

	guest   *Guest
	mu      sync.Mutex
	monitor *Monitor
}

// StartDomain makes a transient domain and starts it, under emulation. It ends
// with the libvirtd.
func (l *Libvirt) StartDomain(ctx context.Context, o DomainOptions) (*Domain, error) {
	if o.Name == "" {
		o.Name = "luksplug-test"
	}
	d, err := l.startDomain(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("start domain %s: %w", o.Name, err)
	}
	return d, nil
}

func (l *Libvirt) startDomain(ctx context.Context, o DomainOptions) (*Domain, error) {
	dir := filepath.Join(l.Dir, "domains", o.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	xml, err := domainXML(ctx, dir, o)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "domain.xml")
	if err := os.WriteFile(file, []byte(xml), 0o644); err != nil {
		return nil, err
	}
	// Paused, because QEMU drops what the guest says before anybody listens.
	if _, err := l.Virsh(ctx, "create", "--paused", file); err != nil {
		return nil, err
	}
	d := &Domain{Name: o.Name, Control: filepath.Join(dir, "control.sock")}
	if !o.Guest {
		return d, nil
	}
	if d.guest, err = dialGuest(ctx, filepath.Join(dir, "guest.sock")); err != nil {
		return nil, err
	}
	if _, err := l.Virsh(ctx, "resume", o.Name); err != nil {
		return nil, err
	}
	return d, nil
}

// Guest is the Linux guest; nil without DomainOptions.Guest.
func (d *Domain) Guest() *Guest { return d.guest }

// Monitor is a connection to the domain's second QMP monitor, which libvirt
// does not use.
func (d *Domain) Monitor(ctx context.Context) (*Monitor, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.monitor == nil {
		m, err := DialMonitor(ctx, d.Control)
		if err != nil {
			return nil, err
		}
		d.monitor = m
	}
	return d.monitor, nil
}

// State queries the domain's QEMU, see [ReadState].
func (d *Domain) State(ctx context.Context) (State, error) {
	m, err := d.Monitor(ctx)
	if err != nil {
		return State{}, err
	}
	return ReadState(ctx, m)
}

// domainXML describes the domain; its sockets and logs lie in dir.
func domainXML(ctx context.Context, dir string, o DomainOptions) (string, error) {
	if o.Machine == "" {
		o.Machine = Q35
	}
	if o.Binary == "" {
		o.Binary = "/usr/bin/qemu-system-x86_64"
	}
	devices := "<emulator>" + escapeXML(o.Binary) + "</emulator>\n"
	if o.Machine == Q35 {
		devices += "<controller type='pci' index='0' model='pcie-root'/>\n" +
			strings.Repeat("<controller type='pci' model='pcie-root-port'/>\n", 6)
	}
	if o.SCSI {
		devices += "<controller type='scsi' index='0' model='virtio-scsi'/>\n"
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
		image, err := LoadGuestImage(ctx, CloudKernel)
		if err != nil {
			return "", err
		}
		boot = "<kernel>" + escapeXML(image.Kernel) + "</kernel>\n<initrd>" + escapeXML(image.Initrd) + "</initrd>\n<cmdline>" + guestCommandLine + "</cmdline>"
		devices += `<serial type='file'><source path='` + escapeXML(filepath.Join(dir, "console.log")) + `'/><target port='0'/></serial>
<serial type='unix'><source mode='bind' path='` + escapeXML(filepath.Join(dir, "guest.sock")) + `'/><target port='1'/></serial>
`
	}
	return `<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>` + escapeXML(o.Name) + `</name>
<memory unit='MiB'>256</memory>
<os><type arch='x86_64' machine='` + string(o.Machine) + `'>hvm</type>` + boot + `</os>
<features><acpi/></features>
<devices>
` + devices + o.Devices + `<memballoon model='none'/>
</devices>
<seclabel type='none'/>
<qemu:commandline>
` + arguments + `</qemu:commandline>
</domain>
`, nil
}
