package integration

import (
	"context"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
)

// place is a bus and a VM in which a disk is attached.
type place struct {
	name    string
	bus     string // of the disk's target
	targets [2]string
	vm      peer.Options
}

// places lists each bus, SCSI with a controller of the VM and with a new one.
func places() []place {
	virtio, scsi := [2]string{"vdb", "vdc"}, [2]string{"sdb", "sdc"}
	return []place{
		{"virtio on q35", "virtio", virtio, peer.Options{RootPorts: 3, Guest: true}},
		{"virtio on i440fx", "virtio", virtio, peer.Options{Machine: peer.I440FX, Guest: true}},
		{"scsi on the controller of the VM", "scsi", scsi, peer.Options{RootPorts: 1, SCSI: true, Guest: true}},
		{"scsi with a controller of its own", "scsi", scsi, peer.Options{RootPorts: 3, Guest: true}},
	}
}

// plug is a volume with its disk XML for one VM.
type plug struct {
	*peer.Volume
	q      *peer.QEMU
	target string
	serial string // by which the guest finds the disk
	xml    string // path of the disk XML
	unlock string // --unlock, if not empty
}

// newPlug writes the XML of a volume. extra are further elements of <disk>.
func newPlug(t *testing.T, q *peer.QEMU, v *peer.Volume, target, bus, extra string) *plug {
	t.Helper()
	serial := "luks-" + target
	xml := strings.Replace(v.DiskXML(target, bus), "</disk>", "<serial>"+serial+"</serial>"+extra+"</disk>", 1)
	return &plug{Volume: v, q: q, target: target, serial: serial, xml: writeFile(t, target+".xml", xml)}
}

// attachArgs returns the program's arguments that attach the disk.
func (p *plug) attachArgs() []string {
	args := []string{"--passphrase-file", p.PassphraseFile, "--output", "json", "attach", p.xml}
	if p.unlock != "" {
		args = append(args, "--unlock", p.unlock)
	}
	return args
}

// attach attaches the disk, which must succeed.
func (p *plug) attach(ctx context.Context, t *testing.T) attachReport {
	t.Helper()
	var report attachReport
	tool(ctx, t, p.q.Socket, p.attachArgs()...).want(t, 0).decode(t, &report)
	if report.State != "attached" || report.Target != p.target {
		t.Fatalf("attach reports %+v", report)
	}
	return report
}

// detach detaches the disk, which must succeed.
func (p *plug) detach(ctx context.Context, t *testing.T) {
	t.Helper()
	tool(ctx, t, p.q.Socket, "detach", p.target).want(t, 0)
}

// wantUnlock checks the method that attach --output json reports.
func (r result) wantUnlock(t *testing.T, want string) result {
	t.Helper()
	var report attachReport
	if r.decode(t, &report); report.Unlock != want {
		t.Errorf("attach reports %+v, want %s", report, want)
	}
	return r
}

// attachReport is the part of `attach --output json` that these tests read.
type attachReport struct {
	Target, State, Bus, Address string
	Already                     bool     `json:"already_attached"`
	Cleared                     []string `json:"cleared"`
	ReadOnly                    bool     `json:"read_only"`
	Unlock                      string   `json:"unlock"`
	Warnings                    []string `json:"warnings"`
}

// listed returns list's output for a VM, by target.
func listed(ctx context.Context, t *testing.T, q *peer.QEMU) map[string]listEntry {
	t.Helper()
	byTarget := map[string]listEntry{}
	for _, d := range disksIn[listEntry](t, tool(ctx, t, q.Socket, "list", "--output", "json")) {
		byTarget[d.Target] = d
	}
	return byTarget
}

// listEntry is the part of `list --output json` that these tests read.
type listEntry struct {
	Target, State string
	Parts         []string
	ReadOnly      bool `json:"read_only"`

	Device, Payload, Header, Recovery, Unlock, UUID string

	Daemon int
}
