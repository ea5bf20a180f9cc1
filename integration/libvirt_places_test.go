package integration

import (
	"context"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// libvirtPlugs has libvirt plug a disk of its own into a running domain.
func libvirtPlugs(ctx context.Context, t *testing.T, l *peer.Libvirt, domain, target, bus string) error {
	t.Helper()
	_, err := l.Virsh(ctx, "attach-disk", domain, sized(t, target+".img", peer.MiB), target, "--live", "--targetbus", bus)
	return err
}

// placed attaches a disk without encryption to a domain, and returns what attach reports.
func placed(ctx context.Context, t *testing.T, l *peer.Libvirt, domain, target, bus, extra string) (attachReport, result) {
	t.Helper()
	xml := `<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='` + sized(t, "ours-"+target+".img", peer.MiB) +
		`'/><target dev='` + target + `' bus='` + bus + `'/>` + extra + `</disk>`
	got := viaLibvirt(ctx, t, l, domain, "--output", "json", "attach", writeFile(t, target+".xml", xml)).want(t, 0)
	var report attachReport
	got.decode(t, &report)
	return report, got
}

// TestLibvirtFindsItsPlaces: libvirt does not know a disk of luksplug's, and plugs its own next one into the place that it
// takes first: a port, a slot, a SCSI unit and a USB port. luksplug has another one.
func TestLibvirtFindsItsPlaces(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	l := peer.Libvirtd(t)
	for name, o := range map[string]peer.DomainOptions{
		"q35": {SCSI: true, Devices: "<controller type='usb' model='qemu-xhci'/>"},
		"pc": {Machine: peer.I440FX, SCSI: true, Devices: "<controller type='usb' model='qemu-xhci' ports='4'/>" +
			"<controller type='pci' index='0' model='pci-root'/><controller type='pci' index='1' model='pci-bridge'/>"},
	} {
		o.Name = name
		must.Get(l.StartDomain(ctx, o))(t)
		for _, disk := range []struct{ ours, theirs, bus string }{{"vda", "vdb", "virtio"}, {"sda", "sdb", "scsi"}, {"sdc", "sdd", "usb"}, {"sde", "sdf", "usb"}} {
			report, got := placed(ctx, t, l, name, disk.ours, disk.bus, "")
			if len(report.Warnings) > 0 {
				t.Errorf("%s, %s: attach warns %q", name, disk.bus, report.Warnings)
			}
			if err := libvirtPlugs(ctx, t, l, name, disk.theirs, disk.bus); err != nil {
				t.Errorf("%s: after %s, libvirt: %v", name, got.stdout, err)
			}
		}
	}
	// The address in the XML counts, and is the one that libvirt takes next.
	report, _ := placed(ctx, t, l, "q35", "vdc", "virtio", "<address type='pci' domain='0' bus='4' slot='0' function='0'/>")
	if report.Bus != "pci.4" || len(report.Warnings) > 0 {
		t.Errorf("attach reports %+v", report)
	}
	if err := libvirtPlugs(ctx, t, l, "q35", "vdd", "virtio"); err == nil || !strings.Contains(err.Error(), "not available") {
		t.Errorf("libvirt's next place is another one than measured: %v", err)
	}
}

// TestLastPlaceOfADomain: a domain to which libvirt has given its usual ports has one free port. The disk that takes it
// has a warning, on standard error and in JSON, with what libvirt then says and how to add ports.
func TestLastPlaceOfADomain(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	l := peer.Libvirtd(t)
	const usual = `<domain type='qemu'><name>usual</name><memory unit='MiB'>64</memory><os><type arch='x86_64' machine='q35'>hvm</type></os>
<features><acpi/></features><devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices><seclabel type='none'/></domain>`
	virsh(ctx, t, l, "create", "--paused", writeFile(t, "usual.xml", usual))
	report, got := placed(ctx, t, l, "usual", "vda", "virtio", "")
	const says, remedy = "slot 0 function 0 not available", "<controller type='pci' model='pcie-root-port'/>"
	if len(report.Warnings) != 1 {
		t.Fatalf("attach warns %q", report.Warnings)
	}
	wantTexts(t, "the warning", report.Warnings[0], []string{"last free pcie-root-port", says, remedy})
	got.wantStderr(t, "level=warning", "last free pcie-root-port", remedy)
	if n := strings.Count(got.stderr, "last free"); n != 1 {
		t.Errorf("%d warnings:\n%s", n, got.stderr)
	}
	err := libvirtPlugs(ctx, t, l, "usual", "vdb", "virtio")
	if err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("libvirt says %v", err)
	}
	viaLibvirt(ctx, t, l, "usual", "attach", writeFile(t, "vdc.xml", `<disk type='file'><source file='`+sized(t, "c.img", peer.MiB)+`'/><target dev='vdc' bus='virtio'/></disk>`)).
		want(t, 5).wantStderr(t, "no hot-pluggable pcie-root-port is free", remedy)
}
