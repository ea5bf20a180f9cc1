package diskxml_test

import (
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
)

// TestParseDiskRefusesImages: images that libvirt 11.3 refuses, or whose
// settings it silently ignores, are refused with the same cause.
func TestParseDiskRefusesImages(t *testing.T) {
	t.Parallel()
	const (
		secret = "<secret type='passphrase' uuid='" + blocktest.AnyUUID + "'/>"
		chap   = "<auth username='u'><secret type='iscsi' usage='x'/></auth>"
		host   = "<host name='h'/>"
		slice  = "<slices><slice type='storage' offset='1' size='2'/></slices>"
	)
	// Line 1 is <disk>, line 2 <driver>, line 3 <source>, line 4 its content.
	disk := func(attrs, driver, source, inner, more string) string {
		return "<disk " + attrs + ">\n<driver " + driver + "/>\n<source " + source + ">\n" + inner + "\n</source>\n<target dev='vdb'/>\n" + more + "\n</disk>"
	}
	file := func(driver, inner, more string) string { return disk("type='file'", driver, "file='/a'", inner, more) }
	net := func(source, inner string) string {
		return disk("type='network'", "type='raw'", "protocol="+source, inner, "")
	}
	below := func(inner string) string {
		return file("type='qcow2'", "", "<backingStore type='file'>"+inner+"</backingStore>")
	}
	user := func(inner, driver string) string {
		return disk("type='vhostuser'", driver, "type='unix' path='/s'", inner, "")
	}
	for _, r := range []refusal{
		{"nbd without a host", net("'nbd'", ""), "disk/source", 3, "only one host"},
		{"nbd with two hosts", net("'nbd'", host+host), "disk/source", 3, "only one host"},
		{"nbd auth", net("'nbd'", host+chap), "disk/source/auth", 4, "does not belong"},
		{"nbd cookies", net("'nbd'", host+"<cookies/>"), "disk/source/cookies", 4, "does not belong"},
		{"nbd query", net("'nbd' query='q'", host), "disk/source@query", 3, "does not belong"},
		{"TLS name without TLS", net("'nbd' tlsHostname='q'", host), "disk/source@tlsHostname", 3, "tls='yes'"},
		{"odd TLS", net("'nbd' tls='maybe'", host), "disk/source@tls", 3, "yes, no"},
		{"TLS for http", net("'http' name='a' tls='yes'", host), "disk/source@tls", 3, "does not belong"},
		{"rdma", net("'nbd'", "<host name='h' transport='rdma'/>"), "disk/source/host@transport", 0, "rdma"},
		{"socket without a path", net("'nbd'", "<host transport='unix'/>"), "disk/source/host@socket", 4, "missing socket"},
		{"host without a name", net("'nbd'", "<host port='1'/>"), "disk/source/host@name", 4, "missing name"},
		{"odd port", net("'nbd'", "<host name='h' port='99999'/>"), "disk/source/host@port", 4, "port number"},
		{"iscsi without a name", net("'iscsi'", host), "disk/source@name", 3, "missing name"},
		{"iscsi unit", net("'iscsi' name='iqn.a/b'", host), "disk/source@name", 3, "cannot parse target"},
		{"iscsi socket", net("'iscsi' name='iqn.a'", "<host transport='unix' socket='/s'/>"), "disk/source/host@transport", 4, "only TCP"},
		{"auth without a user", net("'iscsi' name='iqn.a'", host+"<auth><secret type='iscsi' usage='x'/></auth>"), "disk/source/auth@username", 4, "missing username"},
		{"auth without a secret", net("'iscsi' name='iqn.a'", host+"<auth username='u'/>"), "disk/source/auth", 4, "Missing <secret>"},
		{"auth of another type", net("'rbd' name='p/i'", chap), "disk/source/auth/secret@type", 4, "invalid secret type 'iscsi'"},
		{"auth of no type", net("'iscsi' name='iqn.a'", host+"<auth username='u'><secret type='zz' usage='x'/></auth>"), "disk/source/auth/secret@type", 4, "unknown secret type"},
		{"auth by both", net("'iscsi' name='iqn.a'", host+"<auth username='u'><secret type='iscsi' usage='x' uuid='"+blocktest.AnyUUID+"'/></auth>"), "disk/source/auth/secret", 4, "not both"},
		{"auth of a file", file("type='raw'", "", chap), "disk/auth", 7, "for a server"},
		{"rbd without a pool", net("'rbd' name='i'", ""), "disk/source@name", 3, "can't split path"},
		{"gluster without a volume", net("'gluster' name='i'", host), "disk/source@name", 3, "can't split path"},
		{"gluster without a host", net("'gluster' name='v/i'", ""), "disk/source/host", 1, "at least one host"},
		{"nfs port", net("'nfs' name='/a'", "<host name='h' port='2049'/>"), "disk/source/host@port", 4, "port cannot be specified"},
		{"nfs user", net("'nfs' name='/a'", host+"<identity user='me'/>"), "disk/source/identity@user", 4, "Failed to parse user"},
		{"ssh identity", net("'ssh' name='/a'", host+"<identity keyfile='/k'/>"), "disk/source/identity@username", 4, "required attribute"},
		{"cookie name", net("'http' name='a'", host+"<cookies><cookie name='a;'>b</cookie></cookies>"), "disk/source/cookies/cookie@name", 4, "invalid characters"},
		{"cookie twice", net("'http' name='a'", host+"<cookies><cookie name='a'>b</cookie><cookie name='a'>c</cookie></cookies>"), "disk/source/cookies/cookie@name", 4, "duplicate cookie"},
		{"cookie without a value", net("'http' name='a'", host+"<cookies><cookie name='a'/></cookies>"), "disk/source/cookies/cookie", 4, "missing value"},
		{"certificate of http", net("'http' name='a'", host+"<ssl verify='no'/>"), "disk/source/ssl", 4, "no certificate"},
		{"query of ftp", net("'ftp' name='a' query='b'", host), "disk/source@query", 3, "does not belong"},
		{"cookies of ftp", net("'ftp' name='a'", host+"<cookies><cookie name='a'>b</cookie></cookies>"), "disk/source/cookies", 4, "no meaning"},
		{"sheepdog", net("'sheepdog' name='a'", host), "disk/source@protocol", 0, "no longer supported"},
		{"protocol", net("'gopher' name='a'", host), "disk/source@protocol", 3, "unknown protocol"},

		{"luks2 by QEMU", file("type='raw'", "<encryption format='luks2'>"+secret+"</encryption>", ""), "disk/source/encryption@format", 0, "not supported by the qemu encryption engine"},
		{"librbd on a file", file("type='raw'", "<encryption format='luks' engine='librbd'>"+secret+"</encryption>", ""), "disk/source/encryption@engine", 4, "only with RBD"},
		{"librbd on nbd", net("'nbd'", host+"<encryption format='luks2' engine='librbd'>"+secret+"</encryption>"), "disk/source/encryption@engine", 4, "only with RBD"},
		{"librbd with a header", net("'rbd' name='p/i'", "<encryption format='luks' engine='librbd'>"+secret+"<header><source file='/h'/></header></encryption>"), "disk/source/encryption/header", 0, "detached"},
		{"LUKS in vmdk", file("type='vmdk'", "<encryption format='luks'>"+secret+"</encryption>", ""), "disk/source/encryption", 0, "'raw' and 'qcow2'"},
		{"LUKS in a directory", disk("type='dir'", "type='fat'", "dir='/d'", "<encryption format='luks'>"+secret+"</encryption>", "<readonly/>"), "disk/source/encryption", 0, "'raw' and 'qcow2'"},
		{"encrypted data store", file("type='qcow2'", "<dataStore type='file'><format type='raw'/><source file='/d'><encryption format='luks'>"+secret+"</encryption></source></dataStore>", ""), "disk/source/dataStore/source/encryption", 0, "not support"},
		{"encrypted twice below", below("<format type='raw'/><source file='/b'><encryption format='luks'>" + secret + secret + "</encryption></source>"), "disk/backingStore/source/encryption", 7, "single secret"},

		{"backing without a format", below("<source file='/b'/>"), "disk/backingStore", 7, "missing disk backing store format"},
		{"backing without a source", below("<format type='raw'/>"), "disk/backingStore", 7, "missing source"},
		{"backing without a type", file("type='qcow2'", "", "<backingStore><format type='raw'/><source file='/b'/></backingStore>"), "disk/backingStore@type", 7, "is missing"},
		{"backing of cow", below("<format type='cow'/><source file='/b'/>"), "disk/backingStore/format@type", 0, "'cow'"},
		{"backing of raw", file("type='raw'", "", "<backingStore type='file'><format type='raw'/><source file='/b'/></backingStore>"), "disk/backingStore", 0, "'raw' does not support backing store"},
		{"backing of backing of raw", below("<format type='raw'/><source file='/b'/><backingStore type='file'><format type='raw'/><source file='/c'/></backingStore>"), "disk/backingStore/backingStore", 0, "does not support backing store"},
		{"backing is itself", below("<format type='raw'/><source file='/x/../a'/>"), "disk/source", 3, "named twice"},
		{"vhostuser below", file("type='qcow2'", "", "<backingStore type='vhostuser'><format type='raw'/><source type='unix' path='/s'/></backingStore>"), "disk/backingStore@type", 0, "vhostuser"},
		{"data store of raw", file("type='raw'", "<dataStore type='file'><format type='raw'/><source file='/d'/></dataStore>", ""), "disk/source/dataStore", 4, "only with qcow2"},
		{"data store in qcow2", file("type='qcow2'", "<dataStore type='file'><format type='qcow2'/><source file='/d'/></dataStore>", ""), "disk/source/dataStore/format@type", 4, "only 'raw'"},
		{"slice of a data store", file("type='qcow2'", "<dataStore type='file'><format type='raw'/><source file='/d'>"+slice+"</source></dataStore>", ""), "disk/source/dataStore/source/slices", 4, "not supported"},
		{"slice without a size", file("type='raw'", "<slices><slice type='storage' offset='1'/></slices>", ""), "disk/source/slices/slice", 4, "missing offset or size"},
		{"slice of nothing", file("type='raw'", "<slices><slice type='storage' offset='1' size='0'/></slices>", ""), "disk/source/slices/slice", 4, "no bytes"},
		{"slice below zero", file("type='raw'", "<slices><slice type='storage' offset='-1' size='1'/></slices>", ""), "disk/source/slices/slice@offset", 4, "malformed value"},
		{"slice of another type", file("type='raw'", "<slices><slice type='x' offset='1' size='1'/></slices>", ""), "disk/source/slices/slice@type", 4, "storage"},
		{"two slices", file("type='raw'", "<slices><slice type='storage' offset='1' size='1'/><slice type='storage' offset='3' size='1'/></slices>", ""), "disk/source/slices/slice", 4, "more than once"},
		{"metadata cache of raw", disk("", "type='raw'><metadata_cache><max_size>1</max_size></metadata_cache></driver><driver", "file='/a'", "", ""), "disk/driver", 2, "more than once"},
		{"discard_no_unref of raw", file("type='raw' discard_no_unref='on'", "", ""), "disk/driver@discard_no_unref", 2, "only works with qcow2"},
		{"discard_no_unref read-only", file("type='qcow2' discard_no_unref='on'", "", "<readonly/>"), "disk/driver@discard_no_unref", 2, "read-only"},
		{"copy_on_read read-only", file("copy_on_read='on'", "", "<readonly/>"), "disk/driver@copy_on_read", 2, "read-only disk"},
		{"transient read-only", file("type='raw'", "", "<transient/><readonly/>"), "disk/transient", 0, "readonly"},
		{"transient shareable", file("type='raw'", "", "<transient/><shareable/>"), "disk/transient", 0, "shareable"},
		{"transient device", disk("type='block'", "type='raw'", "dev='/a'", "", "<transient/>"), "disk/transient", 0, "type='file'"},
		{"transient server", disk("type='network'", "type='raw'", "protocol='nbd' name='x'", "<host name='h'/>", "<transient/>"), "disk/transient", 0, "type='file'"},
		{"transient backing on sata", strings.Replace(file("type='raw'", "", "<transient shareBacking='yes'/>"), "dev='vdb'", "dev='sda' bus='sata'", 1), "disk/transient@shareBacking", 0, "doesn't support"},
		{"transient cdrom", strings.Replace(strings.Replace(file("type='raw'", "", "<transient/>"), "dev='vdb'", "dev='sda' bus='scsi'", 1), "<disk ", "<disk device='cdrom' ", 1), "disk/transient", 0, "only device='disk'"},
		{"transient backing that is shared", file("type='raw'", "", "<transient shareBacking='x'/>"), "disk/transient@shareBacking", 7, "use yes, no"},
		{"fdgroup", disk("type='file'", "type='raw'", "file='/a' fdgroup='g'", "", ""), "disk/source@fdgroup", 0, "other programs cannot use"},

		{"directory for writing", disk("type='dir'", "type='fat'", "dir='/d'", "", ""), "disk/source", 0, "read-write mode"},
		{"directory that is no FAT", disk("type='dir'", "type='raw'", "dir='/d'", "", "<readonly/>"), "disk/source", 3, "storage format 'fat'"},
		{"FAT that is no directory", file("type='fat'", "", ""), "disk/source", 3, "'dir' storage type"},
		{"NVMe without an address", disk("type='nvme'", "type='raw'", "type='pci' namespace='1'", "", ""), "disk/source", 3, "missing address"},
		{"NVMe namespace", disk("type='nvme'", "type='raw'", "type='pci' namespace='0'", "<address bus='1'/>", ""), "disk/source@namespace", 3, "can't be zero"},
		{"NVMe slot", disk("type='nvme'", "type='raw'", "type='pci' namespace='1'", "<address slot='0x20'/>", ""), "disk/source/address@slot", 4, "no number"},
		{"vhostuser encryption", user("<encryption format='luks'>"+secret+"</encryption>", ""), "disk/source/encryption", 4, "not supported with vhostuser"},
		{"vhostuser cache", user("", "cache='none'"), "disk/driver@cache", 2, "not supported with vhostuser"},
		{"vhostuser reconnect", user("<reconnect enabled='yes'/>", ""), "disk/source/reconnect@timeout", 4, "malformed value"},
		{"vhostuser over TCP", disk("type='vhostuser'", "", "type='tcp' path='/s'", "", ""), "disk/source@type", 3, "unix"},
		{"vhostvdpa with a cache", disk("type='vhostvdpa'", "type='raw'", "dev='/dev/vhost-vdpa-0'", "", ""), "disk/driver@cache", 2, "cache='none'"},
		{"volume without a pool", disk("type='volume'", "type='raw'", "volume='v'", "", ""), "disk/source", 3, "together"},
		{"reservations of a disk", disk("type='block'", "type='raw'", "dev='/a'", "<reservations managed='yes'/>", ""), "disk/source/reservations", 4, "only for lun"},
		{"reservations without a socket", disk("type='block'", "type='raw'", "dev='/a'", "<reservations managed='no'/>", ""), "disk/source/reservations", 4, "missing connection type"},
		{"startupPolicy of a server", net("'nbd' startupPolicy='optional'", host), "disk/source@startupPolicy", 3, "'network' type"},
		{"startupPolicy requisite", disk("type='block'", "type='raw'", "dev='/a' startupPolicy='requisite'", "", ""), "disk/source@startupPolicy", 3, "only for cdrom or floppy"},
	} {
		t.Run(r.name, r.check)
	}
}

// TestCookieErrorsHoldNoValue: a cookie grants access.
func TestCookieErrorsHoldNoValue(t *testing.T) {
	t.Parallel()
	for _, value := range []string{"hunter2;", "hunter2 x", `hunter2"`, "hunter2,"} {
		doc := "<disk type='network'><source protocol='http' name='a'><host name='h'/><cookies><cookie name='a'>" + value +
			"</cookie></cookies></source><target dev='vdb'/></disk>"
		_, err := diskxml.ParseDisk([]byte(doc))
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", value, err)
		}
	}
}
