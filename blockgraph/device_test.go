package blockgraph_test

import (
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
	"github.com/luksplug/luksplug/blockgraph/render"
)

// deviceOf returns the JSON of the disk's device without the drive and the id,
// which all have.
func deviceOf(t *testing.T, doc string, m blockgraph.Machine) string {
	t.Helper()
	g := blocktest.Build(t, blocktest.Parse(t, doc), m, blockgraph.Unlock{})
	return g.Device().Options.Without("drive").Without("id").String()
}

// TestDevices pins the members of devices and their order, element by element,
// as compared with libvirt 11.3.
func TestDevices(t *testing.T) {
	t.Parallel()
	withThreads := blockgraph.Machine{Type: "virt", Domain: true, IOThreads: []uint{1, 2}}
	for _, c := range []struct {
		name, doc string
		machine   blockgraph.Machine
		want      string
	}{
		{"virtio options", blocktest.DiskAt("dev='vda'", "<driver queues='4' queue_size='256' event_idx='off' ioeventfd='on' iommu='on' ats='off' packed='on' page_per_vq='on' iothread='2'/><address type='pci' bus='1'/>"), withThreads,
			`{"driver":"virtio-blk-pci","iommu_platform":true,"ats":false,"packed":true,"page-per-vq":true,"iothread":"iothread2","ioeventfd":true,"event_idx":false,"num-queues":4,"queue-size":256,"bus":"pci.1","addr":"0x0"}`},
		{"queues dealt out", blocktest.DiskAt("dev='vda'", "<driver queues='4'><iothreads><iothread id='1'/><iothread id='2'/></iothreads></driver>"), withThreads,
			`{"driver":"virtio-blk-pci","num-queues":4,"iothread-vq-mapping":[{"iothread":"iothread1"},{"iothread":"iothread2"}]}`},
		{"queues by thread", blocktest.DiskAt("dev='vda'", "<driver queues='3'><iothreads><iothread id='2'><queue id='2'/><queue id='0'/></iothread><iothread id='1'><queue id='1'/></iothread></iothreads></driver>"), withThreads,
			`{"driver":"virtio-blk-pci","num-queues":3,"iothread-vq-mapping":[{"iothread":"iothread2","vqs":[2,0]},{"iothread":"iothread1","vqs":[1]}]}`},
		{"transitional", diskWith("model='virtio-transitional'", "dev='vda'", ""), blockgraph.Machine{}, `{"driver":"virtio-blk-pci-transitional"}`},
		{"not transitional", diskWith("model='virtio-non-transitional'", "dev='vda'", ""), blockgraph.Machine{}, `{"driver":"virtio-blk-pci-non-transitional"}`},
		{"virtio by name", diskWith("model='virtio'", "dev='vda'", ""), blockgraph.Machine{}, `{"driver":"virtio-blk-pci"}`},
		{"the virtio disk of a bridge", diskWith("model='virtio-transitional'", "dev='vda'", ""), blockgraph.Machine{Type: "q35", Bridges: []blockgraph.Bridge{{Bus: "pci.3", Slots: []uint{0x1f}}}},
			`{"driver":"virtio-blk-pci-transitional","bus":"pci.3","addr":"0x1e"}`},
		{"multifunction and ACPI", blocktest.DiskAt("dev='vda'", "<acpi index='7'/><address type='pci' bus='0' slot='5' function='0' multifunction='on'/>"), blockgraph.Machine{Type: "pc"},
			`{"driver":"virtio-blk-pci","bus":"pci.0","multifunction":true,"addr":"0x5","acpi-index":7}`},
		{"ccw", blocktest.DiskAt("dev='vda'", "<address type='ccw' cssid='0xfe' ssid='0' devno='0x12'/>"), blockgraph.Machine{}, `{"driver":"virtio-blk-ccw","devno":"fe.0.0012"}`},
		{"ccw, the next", blocktest.DiskAt("dev='vda'", ""), blockgraph.Machine{Type: "s390-ccw-virtio", Domain: true, CCW: []blockgraph.CCWAddress{{CSSID: 0xfe}}}, `{"driver":"virtio-blk-ccw","devno":"fe.0.0001"}`},
		{"ccw, running", blocktest.DiskAt("dev='vda'", ""), blockgraph.Machine{Type: "s390-ccw-virtio-9.2"}, `{"driver":"virtio-blk-ccw"}`},
		{"boot loader's parameter", blocktest.DiskAt("dev='vda'", "<boot order='1' loadparm='PROD'/>"), blockgraph.Machine{Type: "s390-ccw-virtio-9.2"}, `{"driver":"virtio-blk-ccw","bootindex":1,"loadparm":"PROD"}`},
		{"mmio", blocktest.DiskAt("dev='vda'", "<address type='virtio-mmio'/>"), blockgraph.Machine{}, `{"driver":"virtio-blk-device"}`},
		{"mmio by machine", blocktest.DiskAt("dev='vda'", ""), blockgraph.Machine{Type: "vexpress-a15", Domain: true}, `{"driver":"virtio-blk-device"}`},
		{"shared", blocktest.DiskAt("dev='vda'", "<shareable/>"), blockgraph.Machine{}, `{"driver":"virtio-blk-pci","share-rw":true,"write-cache":"on"}`},
		{"shared, cached", blocktest.DiskAt("dev='vda'", "<shareable/><driver cache='writethrough'/>"), blockgraph.Machine{}, `{"driver":"virtio-blk-pci","share-rw":true,"write-cache":"off"}`},
		{"shared, read-only", blocktest.DiskAt("dev='vda'", "<shareable/><readonly/><driver type='qcow2'/>"), blockgraph.Machine{}, `{"driver":"virtio-blk-pci","share-rw":true}`},
		{"block sizes", blocktest.DiskAt("dev='vda'", "<blockio logical_block_size='512' physical_block_size='4096' discard_granularity='8192'/>"), blockgraph.Machine{},
			`{"driver":"virtio-blk-pci","logical_block_size":512,"physical_block_size":4096,"discard_granularity":8192}`},
		{"geometry", blocktest.DiskAt("dev='hda'", "<geometry cyls='1' heads='2' secs='3' trans='lba'/>"), blockgraph.Machine{}, `{"driver":"ide-hd","bus":"ide.0","unit":0,"cyls":1,"heads":2,"secs":3,"bios-chs-trans":"lba"}`},
		{"ATA model", blocktest.DiskAt("dev='hda' rotation_rate='7200'", "<product>Old disk</product><wwn>5000c50015ea71ad</wwn>"), blockgraph.Machine{},
			`{"driver":"ide-hd","bus":"ide.0","unit":0,"wwn":5764824127192592813,"rotation_rate":7200,"model":"Old disk"}`},
		{"SCSI inquiry", blocktest.DiskAt("dev='sda' rotation_rate='1' removable='off' dpofua='on'", "<vendor>ACME</vendor><product>Disk 1</product><serial>a b</serial>"), blockgraph.Machine{Type: "virt", SCSI: []blockgraph.SCSIController{{ID: "s"}}},
			`{"driver":"scsi-hd","bus":"s.0","channel":0,"scsi-id":0,"lun":63,"device_id":"a b","rotation_rate":1,"vendor":"ACME","product":"Disk 1","removable":false,"dpofua":true,"serial":"a\\ b"}`},
		{"removable USB", blocktest.DiskAt("dev='sda' bus='usb' removable='on'", ""), blockgraph.Machine{}, `{"driver":"usb-storage","removable":true}`},
		{"LUN", "<disk type='block' device='lun' rawio='yes' sgio='filtered'><source dev='/x'/><target dev='sda'/><driver cache='none' error_policy='stop'/><address type='drive'/></disk>", blockgraph.Machine{},
			`{"driver":"scsi-block","bus":"scsi0.0","channel":0,"scsi-id":0,"lun":0,"werror":"stop","rerror":"stop"}`},
		{"empty cdrom", "<disk type='network' device='cdrom'><target dev='sda' bus='sata' tray='open'/><driver cache='none' io='native'/></disk>", blockgraph.Machine{}, `{"driver":"ide-cd","bus":"ide.0","write-cache":"on"}`},
		{"empty floppy drive", "<disk device='floppy'><target dev='fdb'/></disk>", blockgraph.Machine{}, `{"driver":"floppy","unit":1}`},
		{"vhost-user", "<disk type='vhostuser'><source type='unix' path='/s'/><target dev='vda'/><driver ats='on'/></disk>", blockgraph.Machine{}, `{"driver":"vhost-user-blk-pci","ats":true,"chardev":"luksplug-vda-chardev"}`},

		{"domain: by name", blocktest.DiskAt("dev='sdj'", ""), blockgraph.Machine{Type: "pc", Domain: true, SCSI: []blockgraph.SCSIController{{ID: "scsi1", Model: "virtio-scsi"}}},
			`{"driver":"scsi-hd","bus":"scsi1.0","channel":0,"scsi-id":0,"lun":2,"device_id":"drive-luksplug-sdj"}`},
		{"domain: narrow bus", blocktest.DiskAt("dev='sdb'", ""), blockgraph.Machine{Type: "pc", Domain: true, SCSI: []blockgraph.SCSIController{{ID: "scsi0", Model: "dc390"}}},
			`{"driver":"scsi-hd","bus":"scsi0.0","scsi-id":1,"device_id":"drive-luksplug-sdb"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := deviceOf(t, c.doc, c.machine); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			// Each of them is accepted from a record.
			disk := blocktest.Parse(t, c.doc)
			blocktest.Build(t, disk, blockgraph.Machine{Devices: recorded(t, blocktest.Build(t, disk, c.machine, blockgraph.Unlock{}))}, blockgraph.Unlock{})
		})
	}
}

// diskWith is blocktest.DiskAt with attributes.
func diskWith(attrs, target, inner string) string {
	return strings.Replace(blocktest.DiskAt(target, inner), "<disk>", "<disk "+attrs+">", 1)
}

// TestDefaultSCSIController: the controller that is added depends on the
// machine, as in libvirt.
func TestDefaultSCSIController(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"pc":              `{"driver":"lsi","bus":"pci.0","addr":"0x1f","id":"scsi1"}`,
		"q35":             `{"driver":"lsi","id":"scsi1"}`,
		"virt-9.0":        `{"driver":"virtio-scsi-pci","id":"scsi1"}`,
		"s390-ccw-virtio": `{"driver":"virtio-scsi-ccw","id":"scsi1"}`,
		"pseries-9.0":     `{"driver":"spapr-vscsi","id":"scsi1"}`,
	} {
		g := blocktest.Build(t, blocktest.Parse(t, blocktest.DiskAt("dev='sdh'", "")), blockgraph.Machine{Type: name, Domain: true}, blockgraph.Unlock{})
		if got := g.Devices[0].Options.String(); len(g.Devices) != 2 || got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	// Without a slot for an old controller, a new one is added.
	m := blockgraph.Machine{Type: "q35", Domain: true, PCI: true, Ports: ports("pci.4")}
	got, err := places(t, blocktest.DiskAt("dev='sda'", ""), m)
	if err != nil || len(got) != 2 || got[0] != "pci.4 0x0" || got[1] != "luksplug-sda-scsi.0 0 0 0" {
		t.Errorf("got %q %v", got, err)
	}
}

func TestThrottling(t *testing.T) {
	t.Parallel()
	tune := "<iotune><total_bytes_sec>1</total_bytes_sec><read_iops_sec>2</read_iops_sec><read_iops_sec_max>3</read_iops_sec_max><read_iops_sec_max_length>4</read_iops_sec_max_length><size_iops_sec>5</size_iops_sec><group_name>g</group_name></iotune>"
	rest := `,"bps":1,"bps_rd":0,"bps_wr":0,"iops":0,"iops_rd":2,"iops_wr":0,"bps_max":0,"bps_rd_max":0,"bps_wr_max":0,"iops_max":0,"iops_rd_max":3,"iops_wr_max":0,"iops_size":5,"group":"g","iops_rd_max_length":4}`
	for target, path := range map[string]string{
		"dev='vda'":           "/machine/peripheral/luksplug-vda/virtio-backend",
		"dev='sda' bus='usb'": "/machine/peripheral/luksplug-sda/luksplug-sda.0/legacy[0]",
		"dev='sda'":           "luksplug-sda",
		"dev='hda'":           "luksplug-hda",
	} {
		g := blocktest.Build(t, blocktest.Parse(t, blocktest.DiskAt(target, tune)), blockgraph.Machine{}, blockgraph.Unlock{})
		p := g.Plan()
		last := p.Steps[len(p.Steps)-1]
		if last.Kind != blockgraph.StepLimit || last.Do.Execute != "block_set_io_throttle" || last.Undo.Execute != "" ||
			last.Do.Arguments.String() != `{"id":"`+path+`"`+rest {
			t.Errorf("%s: the last step is %+v", target, last)
		}
		if doc, err := render.JSON(p); err != nil || !strings.Contains(string(doc), `"throttling": {`) {
			t.Errorf("the JSON lacks the limits: %v\n%s", err, doc)
		}
		if !strings.Contains(render.Text(p), "bps=1 iops_rd=2 iops_rd_max=3 iops_size=5 iops_rd_max_length=4") {
			t.Errorf("the text lacks the limits:\n%s", render.Text(p))
		}
		if args, err := render.Arguments(p, blocktest.SecretFile); err == nil {
			t.Errorf("limits would be lost in %q", args)
		}
	}
	for _, none := range []string{"<iotune/>", "<iotune><read_iops_sec>0</read_iops_sec></iotune>"} {
		d := blocktest.Parse(t, blocktest.DiskAt("dev='vda'", none))
		if d.IOTune != nil {
			t.Errorf("%s: limits %+v", none, d.IOTune)
		}
	}
}

func TestThrottleFilters(t *testing.T) {
	t.Parallel()
	d := blocktest.Parse(t, blocktest.DiskAt("dev='vda'", "<driver copy_on_read='on'/><throttlefilters><throttlefilter group='a'/><throttlefilter group='b'/></throttlefilters>"))
	limits := blockgraph.IOTune{Group: "a", Bytes: blockgraph.Limits{Total: blockgraph.Limit{PerSecond: 9, Max: 10, MaxLength: 2}}}
	m := blockgraph.Machine{Type: "pc", ThrottleGroups: []blockgraph.ThrottleGroup{{Limits: limits}, {Limits: blockgraph.IOTune{Group: "b"}, Exists: true}}}
	g := blocktest.Build(t, d, m, blockgraph.Unlock{})
	var steps []string
	for _, s := range g.Plan().Steps {
		steps = append(steps, s.Do.Execute+" "+s.Subject)
	}
	want := "blockdev-add luksplug-vda-payload-storage, blockdev-add luksplug-vda-cor, object-add throttle-a, blockdev-add luksplug-vda-filter0, blockdev-add luksplug-vda-filter1, device_add luksplug-vda"
	if got := strings.Join(steps, ", "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got, want := g.Objects[0].Options.String(), `{"qom-type":"throttle-group","id":"throttle-a","limits":{"bps-total":9,"bps-read":0,"bps-write":0,"iops-total":0,"iops-read":0,"iops-write":0,`+
		`"bps-total-max":10,"bps-read-max":0,"bps-write-max":0,"iops-total-max":0,"iops-read-max":0,"iops-write-max":0,"iops-size":0,"bps-total-max-length":2}}`; len(g.Objects) != 1 || got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if got, want := g.Top().Options.String(), `{"driver":"throttle","node-name":"luksplug-vda-filter1","throttle-group":"throttle-b","file":"luksplug-vda-filter0"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestAddressOfAnotherMachine: if the machine does not have the disk's address,
// the planner chooses another and warns.
func TestAddressOfAnotherMachine(t *testing.T) {
	t.Parallel()
	g := blocktest.Build(t, blocktest.Parse(t, blocktest.DiskAt("dev='vda'", "<address type='ccw' cssid='0xfe' ssid='0' devno='1'/>")), blockgraph.Machine{Type: "pc"}, blockgraph.Unlock{})
	if got := g.Device().Options.Text("driver"); got != "virtio-blk-pci" || len(g.Warnings) != 1 || !strings.Contains(g.Warnings[0], "type ccw") {
		t.Errorf("got %s with the warnings %q", got, g.Warnings)
	}
}

func TestFloppyBootsFirst(t *testing.T) {
	t.Parallel()
	g := blocktest.Build(t, blocktest.Parse(t, "<disk device='floppy'><source file='/a'/><target dev='fdb'/><boot order='2'/></disk>"), blockgraph.Machine{}, blockgraph.Unlock{})
	args, err := render.Arguments(g.Plan(), blocktest.SecretFile)
	if text := strings.Join(args, " "); err != nil || !strings.HasSuffix(text, "-global isa-fdc.bootindexB=2") || strings.Contains(text, "bootindex\"") {
		t.Errorf("got %s %v", text, err)
	}
}

// TestCheckHotplugLimits: limits that QEMU refuses are refused beforehand. The
// rules were tried on QEMU 10.0.
func TestCheckHotplugLimits(t *testing.T) {
	t.Parallel()
	for inner, want := range map[string]string{
		"<read_iops_sec>5</read_iops_sec><read_iops_sec_max>9</read_iops_sec_max><read_iops_sec_max_length>3</read_iops_sec_max_length><size_iops_sec>4096</size_iops_sec>": "",
		"<total_bytes_sec_max>9</total_bytes_sec_max>":                                                                                                       "total_bytes_sec_max",
		"<write_bytes_sec>9</write_bytes_sec><write_bytes_sec_max>8</write_bytes_sec_max>":                                                                   "lower than write_bytes_sec",
		"<total_iops_sec>9</total_iops_sec><total_iops_sec_max_length>2</total_iops_sec_max_length>":                                                         "needs total_iops_sec_max",
		"<total_iops_sec>9</total_iops_sec><total_iops_sec_max>900000000000000</total_iops_sec_max><total_iops_sec_max_length>2</total_iops_sec_max_length>": "too long",
		"<total_bytes_sec>9</total_bytes_sec><size_iops_sec>4</size_iops_sec>":                                                                               "limit of requests",
	} {
		err := blocktest.Parse(t, blocktest.DiskAt("dev='vda'", "<iotune>"+inner+"</iotune>")).CheckHotplug()
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", inner, err, want)
		}
	}
	if err := blocktest.Parse(t, "<disk device='cdrom'><target dev='sda' bus='scsi'/><alias name='ua-x'/></disk>").CheckHotplug(); err == nil {
		t.Error("an empty drive that could not be found again is accepted")
	}
}
