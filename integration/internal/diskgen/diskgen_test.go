package diskgen_test

import (
	"encoding/xml"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/diskgen"
)

// everything lists the elements, attributes and values that must occur among the disks.
var everything = strings.Fields(`
	disk@type=file disk@type=block disk@type=dir disk@type=network disk@type=nvme disk@type=vhostuser disk@type=vhostvdpa
	disk@device=disk disk@device=cdrom disk@device=floppy disk@device=lun
	disk@model=virtio disk@model=virtio-transitional disk@model=virtio-non-transitional disk@rawio disk@sgio disk@snapshot
	target@bus=virtio target@bus=scsi target@bus=usb target@bus=ide target@bus=sata target@bus=fdc
	target@rotation_rate target@removable target@tray
	source@protocol=nbd source@protocol=iscsi source@protocol=rbd source@protocol=http source@protocol=https source@protocol=ftp
	source@protocol=ftps source@protocol=tftp source@protocol=ssh source@protocol=nfs source@protocol=gluster
	source@tls source@tlsHostname source@query source@startupPolicy source@namespace source@index
	host@transport=unix host@port initiator iqn snapshot@name config@file ssl@verify cookie@name readahead@size timeout@seconds
	reconnect@delay reconnect@enabled identity@user identity@username identity@keyfile identity@agentsock knownHosts@path
	auth@username secret@type=passphrase secret@type=iscsi secret@type=ceph secret@uuid secret@usage
	encryption@engine=qemu encryption@engine=librbd encryption@format=luks encryption@format=luks2 encryption@format=luks-any
	slice@offset dataStore@type metadata_cache max_size@unit backingStore backingStore@type=file backingStore@type=network
	format@type=raw format@type=qcow2 format@type=vmdk format@type=fat driver@type=qcow2 driver@type=raw
	driver@cache=none driver@cache=writethrough driver@cache=writeback driver@cache=directsync driver@cache=unsafe
	driver@io=native driver@io=threads driver@io=io_uring driver@discard driver@detect_zeroes driver@error_policy driver@rerror_policy
	driver@copy_on_read driver@discard_no_unref driver@ioeventfd driver@event_idx driver@iommu driver@ats driver@packed driver@page_per_vq
	driver@queues driver@queue_size driver@iothread iothread@id queue@id reservations@managed=yes reservations@managed=no
	readonly shareable serial wwn vendor product boot@order alias@name acpi@index blockio@logical_block_size
	blockio@physical_block_size blockio@discard_granularity geometry@cyls geometry@trans iotune total_bytes_sec read_iops_sec_max
	write_bytes_sec_max_length size_iops_sec group_name throttlefilter@group throttlegroup
	address@type=pci address@type=drive address@type=usb address@multifunction address@port
	iothreads iothreadids controller@type=scsi controller@type=usb controller@type=pci controller@type=sata hub cell@memAccess`)

// TestCasesHaveEverything: each kind of setting is drawn.
func TestCasesHaveEverything(t *testing.T) {
	t.Parallel()
	seen := map[string]int{}
	cases := diskgen.Cases()
	const count = 2000
	wild := 0
	for seed := range count {
		c := cases.Example(seed)
		if c.Wild {
			wild++
		}
		words(t, c.XML(), seen)
	}
	for _, w := range everything {
		if seen[w] == 0 {
			t.Errorf("%s is in none of %d cases", w, count)
		}
	}
	if wild < count/10 || wild > count/2 {
		t.Errorf("%d of %d cases are wild", wild, count)
	}
}

// words counts the elements and attributes of a document.
func words(t *testing.T, document string, seen map[string]int) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(document))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, document)
		}
		e, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		seen[e.Name.Local]++
		for _, a := range e.Attr {
			seen[e.Name.Local+"@"+a.Name.Local]++
			seen[e.Name.Local+"@"+a.Name.Local+"="+a.Value]++
		}
	}
}

// TestSameSeedSameCase: a difference can be reproduced.
func TestSameSeedSameCase(t *testing.T) {
	t.Parallel()
	for seed := range 50 {
		if a, b := diskgen.Cases().Example(seed).XML(), diskgen.Cases().Example(seed).XML(); a != b {
			t.Fatalf("seed %d is\n%s\nand\n%s", seed, a, b)
		}
	}
}

// TestReduce: Reduce leaves only the cause of the difference.
func TestReduce(t *testing.T) {
	t.Parallel()
	seed := 0
	differs := func(c diskgen.Case) bool {
		seen := map[string]int{}
		words(t, c.XML(), seen)
		return seen["encryption"] > 0 && seen["iothreads"] > 0
	}
	for !differs(diskgen.Cases().Example(seed)) {
		seed++
	}
	c := diskgen.Cases().Example(seed)
	before := c.XML()
	small := diskgen.Reduce(c, differs)
	if c.XML() != before {
		t.Error("the case itself was changed")
	}
	seen := map[string]int{}
	words(t, small.DiskXML(), seen)
	var elements []string
	for _, w := range slices.Sorted(maps.Keys(seen)) {
		if !strings.Contains(w, "=") {
			elements = append(elements, w)
		}
	}
	// A nested element keeps its parent.
	if got := strings.Join(elements, " "); got != "disk encryption target target@dev" && got != "disk encryption source target target@dev" {
		t.Errorf("left are %s:\n%s", got, small.DiskXML())
	}
	if context := small.Context(); !strings.Contains(context, "<iothreads") || strings.Contains(context, "throttlegroup") || strings.Contains(context, "<disk") {
		t.Errorf("left of the domain is\n%s", context)
	}
}

// TestSecretsAreTold: the length of a value, in blocks, identifies its secret.
func TestSecretsAreTold(t *testing.T) {
	t.Parallel()
	seen := map[int]bool{}
	for _, s := range diskgen.Secrets() {
		blocks := len(s.Value())/16 + 1
		if seen[blocks] {
			t.Errorf("%s has as many blocks as another", s.Reference.Usage)
		}
		seen[blocks] = true
		byUUID, byUsage := s.Reference, s.Reference
		byUUID.Usage, byUsage.UUID = "", [16]byte{}
		if found, ok := diskgen.Find(byUUID); !ok || found.Length != s.Length {
			t.Errorf("%v is not found", byUUID)
		}
		if found, ok := diskgen.Find(byUsage); !ok || found.Length != s.Length {
			t.Errorf("%v is not found", byUsage)
		}
	}
}
