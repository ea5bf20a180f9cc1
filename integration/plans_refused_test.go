package integration

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// versionCase is a disk that only some versions of QEMU support.
type versionCase struct {
	name, xml string
	// since is the first version that supports it, until the first that no longer does; "" for none. No
	// version is before "0.0".
	since, until string
	// builder means that support in later versions depends on the build: then they are not tested.
	builder bool
	says    []string // texts of a refusal
}

const (
	diskOf   = "<target dev='vdb' bus='virtio'/></disk>"
	luksOf   = "<encryption format='luks'><secret type='passphrase' usage='a'/></encryption>"
	qcow2At  = "<source file='/images/a.qcow2'/><backingStore/>"
	rbdImage = "<disk type='network'><driver type='raw'/><source protocol='rbd' name='pool/image'><host name='mon'/>"
)

// versionCases lists the features of disks in which QEMU's versions differ. [TestPlansOfVersions] checks that
// it is complete.
var versionCases = []versionCase{
	{name: "detached header", since: "9.0",
		xml:  "<disk type='file'><driver type='raw'/><source file='/a'><encryption format='luks'><secret type='passphrase' usage='a'/><header type='file'><source file='/h'/></header></encryption></source>" + diskOf,
		says: []string{"a detached LUKS header (<header> in <encryption>)", "since 9.0", "restart or migrate the VM with a newer QEMU", "have a storage daemon unlock it"}},
	{name: "discard_no_unref", since: "8.1",
		xml:  "<disk type='file'><driver type='qcow2' discard_no_unref='on'/>" + qcow2At + diskOf,
		says: []string{"<driver discard_no_unref=...>", "since 8.1", "remove the attribute"}},
	{name: "luks-any", since: "8.0",
		xml:  rbdImage + "<encryption format='luks-any' engine='librbd'><secret type='passphrase' usage='a'/></encryption></source>" + diskOf,
		says: []string{"<encryption format=...>", "luks-any", "since 8.0", "format='luks2'"}},
	{name: "layers of librbd", since: "8.0",
		xml:  rbdImage + "<encryption format='luks2' engine='librbd'><secret type='passphrase' usage='a'/><secret type='passphrase' usage='b'/></encryption></source>" + diskOf,
		says: []string{"<secret> in <encryption>", "since 8.0", "rbd flatten"}},
	{name: "one layer of librbd", xml: rbdImage + "<encryption format='luks2' engine='librbd'><secret type='passphrase' usage='a'/></encryption></source>" + diskOf},
	{name: "queues by thread", since: "9.0",
		xml:  "<disk type='file'><driver type='raw' queues='2'><iothreads><iothread id='1'/><iothread id='2'/></iothreads></driver><source file='/a'/>" + diskOf,
		says: []string{"<iothreads> in <driver>", "since 9.0", "<driver iothread='...'>"}},
	{name: "one thread", xml: "<disk type='file'><driver type='raw' queues='2' queue_size='64' iothread='1' packed='on' page_per_vq='on' iommu='on' ats='on' event_idx='off' ioeventfd='off'/><source file='/a'/>" + diskOf},
	{name: "vhostvdpa", since: "8.1", builder: true,
		xml:  "<disk type='vhostvdpa'><driver type='raw' cache='none'/><source dev='/dev/vhost-vdpa-0'/>" + diskOf,
		says: []string{"<disk type=...>", "vhostvdpa", "since 8.1", "virtio_vdpa"}},
	{name: "gluster", until: "11.1",
		xml:  "<disk type='network'><driver type='raw'/><source protocol='gluster' name='volume/image'><host name='server'/></source>" + diskOf,
		says: []string{"the protocol gluster (<source protocol=...>)", "removed in 11.1", "mount the Gluster volume"}},
	{name: "vxhs", until: "5.2",
		xml:  "<disk type='network'><driver type='raw'/><source protocol='vxhs' name='eb90327c-8302-4725-9e1b-4e85ed4dc251'><host name='server'/></source>" + diskOf,
		says: []string{"the protocol vxhs (<source protocol=...>)", "removed in 5.2"}},
	{name: "a mainframe's address", until: "0.0",
		xml:  "<disk type='file'><driver type='raw'/><source file='/a'/><target dev='vdb' bus='virtio'/><address type='ccw' cssid='0xfe' ssid='0x0' devno='0x0001'/></disk>",
		says: []string{"virtio-blk-ccw", "mainframe", "<address type=...>", "or none"}},
	{name: "block sizes of a LUN", until: "0.0",
		xml:  "<disk type='block' device='lun'><driver type='raw'/><source dev='/dev/sg0'/><blockio logical_block_size='4096'/><target dev='sdb' bus='scsi'/></disk>",
		says: []string{"<blockio>", "remove <blockio>"}},
	{name: "tftp", until: "0.0",
		xml:  "<disk type='network'><driver type='raw'/><source protocol='tftp' name='x'><host name='server'/></source><readonly/>" + diskOf,
		says: []string{"the protocol tftp", "(<source protocol=...>)", "which it does not have: offer the image over http"}},
	{name: "NBD with all options", xml: "<disk type='network'><driver type='raw'/><source protocol='nbd' name='x' tls='yes' tlsHostname='a.example'><host name='server'/><reconnect delay='5'/></source>" + diskOf},
	{name: "io_uring", xml: "<disk type='file'><driver type='raw' io='io_uring'/><source file='/a'/>" + diskOf},
	{name: "vhost-user with reconnect", xml: "<disk type='vhostuser'><driver type='raw'/><source type='unix' path='/run/v.sock'><reconnect enabled='yes' timeout='7'/></source>" + diskOf},
	{name: "LUKS in qcow2", xml: "<disk type='file'><driver type='qcow2'/><source file='/a'>" + luksOf + "</source><backingStore/>" + diskOf},
	{name: "models", xml: "<disk type='file' model='virtio-transitional'><driver type='raw'/><source file='/a'/>" + diskOf},
	{name: "acpi index", xml: "<disk type='file'><driver type='raw'/><source file='/a'/><target dev='vdb' bus='virtio'/><acpi index='3'/></disk>"},
}

// TestPlansRefused: a disk is refused for a version that lacks a feature, with the element, the version that
// has it and an alternative; the other versions accept the disk.
func TestPlansRefused(t *testing.T) {
	t.Parallel()
	eachEmulator(t, peer.Options{RootPorts: 1, USB: true}, func(t *testing.T, e emulator) {
		ctx := bounded(t)
		for _, c := range versionCases {
			t.Run(c.name, func(t *testing.T) {
				disk := parseDisk(t, c.name, c.xml)
				machine := blockgraph.Machine{ReconnectSeconds: e.before(t, "9.2")}
				graph := must.Get(blockgraph.Build(disk, machine, blockgraph.Unlock{}))(t)
				err := e.vm.CheckPlan(ctx, graph.Plan())
				switch {
				case c.since != "" && e.before(t, c.since), c.until != "" && !e.before(t, c.until):
					wantLacking(t, err, slices.Concat(c.says, []string{"disk " + disk.Target, e.vm.Client().VersionString()}))
				case err != nil && !c.builder:
					t.Errorf("refused: %v", err)
				}
			})
		}
	})
}

// wantLacking checks that the error names a lacking feature, with these texts.
func wantLacking(t *testing.T, err error, says []string) {
	t.Helper()
	var lacks *hotplug.VersionError
	if !errors.As(err, &lacks) {
		t.Fatalf("not refused for its version: %v", err)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("the error does not say %q: %v", s, err)
		}
	}
}

// TestCheckPlanFails: an error in a plan is reported with its position.
func TestCheckPlanFails(t *testing.T) {
	t.Parallel()
	const doc = "<disk type='file'><driver type='raw'/><source file='/a'>" + luksOf + "</source><iotune><total_bytes_sec>1000</total_bytes_sec></iotune>" + diskOf
	disk := parseDisk(t, "disk", doc)
	eachEmulator(t, peer.Options{}, func(t *testing.T, e emulator) {
		for _, c := range []struct {
			command, member string
			value           any
			says            string
		}{
			{"blockdev-add", "no-such-option", true, "the option no-such-option of QEMU's driver"},
			{"blockdev-add", "driver", "no-such-driver", "no-such-driver"},
			{"blockdev-add", "discard", "sometimes", "discard"},
			{"blockdev-add", "read-only", "yes", "read-only"},
			{"object-add", "format", "base63", "format"},
			{"block_set_io_throttle", "bps", "many", "bps"},
			{"device_add", "no-such-property", 1, "the property no-such-property of virtio-blk-pci"},
			{"device_add", "driver", "no-such-device", "no-such-device"},
		} {
			graph := must.Get(blockgraph.Build(disk, blockgraph.Machine{}, blockgraph.Unlock{}))(t)
			plan, changed := graph.Plan(), false
			for i, s := range plan.Steps {
				if s.Do.Execute == c.command && !changed {
					plan.Steps[i].Do.Arguments, changed = s.Do.Arguments.With(c.member, c.value), true
				}
			}
			if c.command == "device_add" {
				graph.Devices[0].Options = graph.Devices[0].Options.With(c.member, c.value)
			}
			if !changed {
				t.Fatalf("the plan has no %s", c.command)
			}
			wantLacking(t, e.vm.CheckPlan(bounded(t), plan), []string{c.says})
		}
	})
}

// TestVHostUserSpelling: each QEMU gets the reconnect interval by the option that it has, and accepts it.
func TestVHostUserSpelling(t *testing.T) {
	t.Parallel()
	const doc = "<disk type='vhostuser'><driver type='raw'/><source type='unix' path='/run/luksplug-no-such.sock'><reconnect enabled='yes' timeout='7'/></source>" + diskOf
	eachEmulator(t, peer.Options{RootPorts: 1}, func(t *testing.T, e emulator) {
		ctx := bounded(t)
		state := must.Get(e.vm.State(ctx))(t)
		plan := must.Get(e.vm.Plan(ctx, parseDisk(t, "disk", doc), state, blockgraph.Unlock{}))(t)
		add := plan.Steps[0].Do
		want := `"reconnect-ms":7000`
		if e.before(t, "9.2") {
			want = `"reconnect":7`
		}
		if add.Execute != "chardev-add" || !strings.Contains(add.Arguments.String(), want) {
			t.Errorf("%s %s, want %s", add.Execute, add.Arguments, want)
		}
		// Nothing listens: with a reconnect interval QEMU accepts that.
		if _, err := e.qemu.Query(ctx, add.Execute, add.Arguments); err != nil {
			t.Error(err)
		}
	})
}

// TestCertificateOfVersions: a certificate that some versions wrongly refuse is refused for these versions
// before the first change.
func TestCertificateOfVersions(t *testing.T) {
	t.Parallel()
	const doc = "<disk type='network'><driver type='raw'/><source protocol='nbd' name='x' tls='yes'><host name='server'/></source>" + diskOf
	dir := peer.ECDSAClientDir(t)
	eachEmulator(t, peer.Options{}, func(t *testing.T, e emulator) {
		ctx := bounded(t)
		disk := parseDisk(t, "disk", doc)
		disk.Image.Source.Network.(*blockgraph.NBD).TLS.Dir = dir
		graph := must.Get(blockgraph.Build(disk, blockgraph.Machine{}, blockgraph.Unlock{}))(t)
		plan := graph.Plan()
		check := e.vm.CheckPlan(ctx, plan)
		add := plan.Steps[0].Do
		_, taken := e.qemu.Query(ctx, add.Execute, add.Arguments)
		t.Logf("QEMU %s says: %v", e.vm.Client().VersionString(), taken)
		switch {
		case add.Arguments.Text("qom-type") != "tls-creds-x509":
			t.Fatalf("the plan begins with %v", add)
		case taken == nil && check != nil:
			t.Errorf("QEMU accepts what is refused: %v", check)
		case taken != nil && !strings.Contains(taken.Error(), "key encipherment"):
			t.Errorf("QEMU says: %v", taken)
		case taken != nil:
			wantLacking(t, check, []string{"<source tls=...>", "key encipherment", "since 10.2", "RSA"})
		}
	})
}
