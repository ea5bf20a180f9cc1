package integration

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// passphrases is a key store of volumes' passphrases, by UUID.
type passphrases map[uuid.UUID][]byte

func (passphrases) String() string { return "passphrases of the test's volumes" }

func (p passphrases) Lookup(_ context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	value, ok := p[ref.UUID]
	if !ok {
		return nil, secrets.ErrNotFound
	}
	return secrets.New(slices.Clone(value)), nil
}

// imageSet are images of several kinds.
type imageSet struct {
	raw, other            string
	top, middle, base     string // a chain
	withData, data        string
	onLUKS                string // its backing image is luks
	device                string
	luks, qcow2, detached *peer.Volume
	secrets               passphrases
}

// makeImageSet makes the images by QEMU's own tools, and by cryptsetup.
func makeImageSet(ctx context.Context, t *testing.T) imageSet {
	t.Helper()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	create := func(args ...string) { command(ctx, t, "qemu-img", append([]string{"create", "-q", "-f"}, args...)...) }
	i := imageSet{raw: at("raw"), other: at("other"), top: at("top"), middle: at("middle"), base: at("base"), withData: at("with-data"), data: at("data"), onLUKS: at("on-luks"),
		luks: peer.NewVolume(t, peer.EmbeddedLUKS), qcow2: peer.NewVolume(t, peer.Qcow2LUKS), detached: peer.NewVolume(t, peer.DetachedQcow2), secrets: passphrases{}}
	for _, v := range []*peer.Volume{i.luks, i.qcow2, i.detached} {
		i.secrets[uuid.MustParse(v.SecretUUID)] = v.Passphrase
	}
	create("raw", i.raw, "8M")
	create("raw", i.other, "8M")
	create("qcow2", i.base, "8M")
	create("qcow2", "-u", "-F", "qcow2", "-b", i.base, i.middle, "8M")
	create("qcow2", "-u", "-F", "qcow2", "-b", i.middle, i.top, "8M")
	create("qcow2", "-o", "data_file="+i.data+",data_file_raw=on", i.withData, "8M")
	create("qcow2", "-u", "-F", "raw", "-b", i.luks.Payload, i.onLUKS, "8M")
	device := at("device")
	create("raw", device, "8M")
	i.device = loopDevice(t, device)
	return i
}

// liveCase is a disk that is attached to a real QEMU.
type liveCase struct {
	name, disk string
	since      string // the first QEMU that supports it, "" for all
	// stays means that only a guest can release the disk.
	stays bool
	spec  hotplug.Spec
	// header means that the disk has a LUKS header that an ephemeral one can replace.
	header bool
}

// liveCases cover each option of a local disk's nodes and device.
func liveCases(i imageSet) []liveCase {
	disk := func(kind, driver, source, inside, target string) string {
		return fmt.Sprintf("<disk type='%s'><driver name='qemu' %s/>%s%s<target %s/></disk>", kind, driver, source, inside, target)
	}
	file := func(path string, inside ...string) string {
		return "<source file='" + path + "'>" + strings.Join(inside, "") + "</source>"
	}
	below := func(format, source string, inside ...string) string {
		return "<backingStore type='file'><format type='" + format + "'/>" + source + strings.Join(inside, "") + "</backingStore>"
	}
	const end = "<backingStore/>"
	enc := func(v *peer.Volume, inside string) string {
		return "<encryption format='luks'><secret type='passphrase' uuid='" + v.SecretUUID + "'/>" + inside + "</encryption>"
	}
	header := "<header type='file'><source file='" + i.detached.Header + "'/></header>"
	chain := below("qcow2", file(i.middle), below("qcow2", file(i.base), end))
	const slice = "<slices><slice type='storage' offset='1048576' size='2097152'/></slices>"
	limits := "<iotune><read_bytes_sec>1000000</read_bytes_sec><write_bytes_sec>2000000</write_bytes_sec><read_bytes_sec_max>3000000</read_bytes_sec_max>" +
		"<read_bytes_sec_max_length>5</read_bytes_sec_max_length><total_iops_sec>100</total_iops_sec><size_iops_sec>4096</size_iops_sec><group_name>g</group_name></iotune>"
	return []liveCase{
		{name: "raw", disk: disk("file", "type='raw' cache='none' io='native' discard='unmap' detect_zeroes='unmap'", file(i.raw), "", "dev='sdb' bus='scsi'")},
		{name: "block device", disk: disk("block", "type='raw' cache='directsync' io='threads' error_policy='stop' rerror_policy='report'", "<source dev='"+i.device+"'/>", "", "dev='sdb' bus='scsi'")},
		{name: "slice", disk: disk("file", "type='raw' cache='writethrough' error_policy='enospace'", file(i.raw, slice), "<serial>a b</serial>", "dev='sdb' bus='scsi'")},
		{name: "closed chain", disk: disk("file", "type='qcow2' cache='unsafe' discard='ignore'", file(i.top), chain, "dev='sdb' bus='scsi'")},
		{name: "open chain", spec: hotplug.Spec{TrustImageChain: true}, disk: disk("file", "type='qcow2'", file(i.top), "<wwn>5000c50015ea71ad</wwn>", "dev='sdb' bus='scsi'")},
		{name: "metadata cache", disk: disk("file", "type='qcow2' cache='writeback'", file(i.base), end, "dev='sdb' bus='scsi'")},
		{name: "discard_no_unref", since: "8.1", disk: disk("file", "type='qcow2' discard='unmap' discard_no_unref='on'", file(i.base), end, "dev='sdb' bus='scsi'")},
		{name: "data file", disk: disk("file", "type='qcow2'", file(i.withData, "<dataStore type='file'><format type='raw'/><source file='"+i.data+"'/></dataStore>"), end, "dev='sdb' bus='scsi'")},
		{name: "copy on read", disk: disk("file", "type='qcow2' copy_on_read='on'", file(i.top), chain, "dev='sdb' bus='scsi'")},
		{name: "filters", disk: disk("file", "type='qcow2'", file(i.base), end+"<throttlefilters><throttlefilter group='a'/><throttlefilter group='b'/></throttlefilters>", "dev='sdb' bus='scsi'")},
		{name: "limits", disk: disk("file", "type='raw'", file(i.raw), limits, "dev='sdb' bus='scsi'")},
		{name: "LUKS", header: true, disk: disk("file", "type='raw'", file(i.luks.Payload, enc(i.luks, "")), "", "dev='sdb' bus='scsi'")},
		{name: "LUKS in qcow2", disk: disk("file", "type='qcow2'", file(i.qcow2.Payload, enc(i.qcow2, "")), end, "dev='sdb' bus='scsi'")},
		{name: "LUKS below", header: true, disk: disk("file", "type='qcow2'", file(i.onLUKS), below("raw", file(i.luks.Payload, enc(i.luks, ""))), "dev='sdb' bus='scsi'")},
		{name: "detached header", header: true, since: "9.0", disk: disk("file", "type='qcow2'", file(i.detached.Payload, enc(i.detached, header)), end, "dev='sdb' bus='scsi'")},
		{name: "as another make", disk: disk("file", "type='raw'", file(i.raw), "<shareable/><serial>1</serial><vendor>ACME</vendor><product>Disk 1</product>"+
			"<blockio logical_block_size='512' physical_block_size='4096' discard_granularity='65536'/><boot order='1'/>", "dev='sdb' bus='scsi' rotation_rate='7200' removable='on' dpofua='on'")},
		{name: "read-only CD-ROM", disk: "<disk type='file' device='cdrom'><driver type='raw'/>" + file(i.raw) + "<target dev='sdb' bus='scsi'/><readonly/></disk>"},
		{name: "usb", disk: disk("file", "type='raw' cache='none' error_policy='report'", file(i.raw), "<readonly/><serial>1</serial>", "dev='sdb' bus='usb' removable='on'")},
		{name: "virtio, all options", stays: true, disk: disk("file", "type='raw' queues='2' queue_size='64' event_idx='off' ioeventfd='on' iommu='off' ats='off' packed='on' page_per_vq='on' iothread='1' cache='none'",
			file(i.raw), "<shareable/><serial>1</serial><boot order='2'/><geometry cyls='16' heads='16' secs='63'/>"+
				"<blockio logical_block_size='512' physical_block_size='4096' discard_granularity='4096'/>"+limits, "dev='vdb' bus='virtio'")},
		{name: "virtio, queues by thread", since: "9.0", stays: true, disk: "<disk type='file' model='virtio-non-transitional'><driver type='raw' cache='none' queues='3'><iothreads><iothread id='2'><queue id='0'/><queue id='2'/></iothread>" +
			"<iothread id='1'><queue id='1'/></iothread></iothreads></driver>" + file(i.other) + "<shareable/><target dev='vdc' bus='virtio'/></disk>"},
	}
}

// TestAttachToVersions attaches and detaches disks of every kind with each QEMU.
func TestAttachToVersions(t *testing.T) {
	t.Parallel()
	vm := peer.Options{RootPorts: 3, SCSI: true, USB: true, Extra: []string{
		"-object", "iothread,id=iothread1", "-object", "iothread,id=iothread2",
		"-object", "throttle-group,id=throttle-a,x-iops-total=1000", "-object", "throttle-group,id=throttle-b,x-bps-total=1000000"}}
	eachEmulator(t, vm, func(t *testing.T, e emulator) {
		ctx := bounded(t)
		images := makeImageSet(ctx, t)
		for _, c := range liveCases(images) {
			t.Run(c.name, func(t *testing.T) { e.attachAndDetach(ctx, t, c, images.secrets) })
		}
	})
}

func (e emulator) attachAndDetach(ctx context.Context, t *testing.T, c liveCase, store secrets.Store) {
	t.Helper()
	before := stateOf(ctx, t, e.qemu)
	disk := parseDisk(t, c.name, c.disk)
	options := hotplug.AttachOptions{Spec: c.spec}
	if c.header && e.before(t, "9.0") { // only QEMU itself can unlock it
		if _, err := e.vm.Attach(ctx, disk, store, options); !errors.Is(err, hotplug.ErrNeedsQEMU) {
			t.Errorf("by the default policy: %v", err)
		}
		wantSame(ctx, t, e.qemu, before)
		options.Unlock = hotplug.UnlockQEMU
	}
	attached, err := e.vm.Attach(ctx, disk, store, options)
	if c.since != "" && e.before(t, c.since) {
		wantLacking(t, err, []string{"since " + c.since})
		wantSame(ctx, t, e.qemu, before)
		return
	}
	must.OK(t, err)
	if len(before.Diff(stateOf(ctx, t, e.qemu))) == 0 {
		t.Fatal("nothing is different after the attach")
	}
	again, err := e.vm.Attach(ctx, disk, store, options)
	if err != nil || !again.Already {
		t.Errorf("attached again: %+v, %v", again, err)
	}
	if c.stays {
		return
	}
	must.Get(e.vm.Detach(ctx, attached.Target, hotplug.DetachOptions{Wait: time.Minute}))(t)
	wantSame(ctx, t, e.qemu, before)
}
