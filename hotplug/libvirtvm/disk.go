package libvirtvm

import (
	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/record"
)

// Reading holds how a disk's XML is read, and settings that the XML leaves to the host:
// IgnoreUnknown (see [diskxml.ParseOptions]), TLSDir, the directory with the certificates
// of a TLS client, TLSSecret, the secret that decrypts its key, by its UUID or as tls:USAGE, and TLSUser,
// the user of a pre-shared key in place of certificates. It is recorded with the disk.
// The zero value suits most disks.
type Reading = record.Reading

// Disk is a disk and the XML that it was read from.
type Disk struct {
	*blockgraph.Disk
	xml     []byte
	pools   blockgraph.Pools
	reading Reading
}

// ParseDisk reads a <disk> document. The errors are those of
// [diskxml.ParseOptions.ParseDisk].
//
// A disk on a volume of a storage pool has to be located before it is attached, see
// [Disk.Locate] and [LookUpPools].
func ParseDisk(xml []byte, reading Reading) (*Disk, error) {
	disk, err := reading.Parse(xml)
	if err != nil {
		return nil, err
	}
	return &Disk{Disk: disk, xml: xml, reading: reading}, reading.Complete(disk)
}

// Locate returns the disk with the volumes of storage pools replaced by the sources that
// the pools have for them.
func (d *Disk) Locate(pools blockgraph.Pools) (*Disk, error) {
	disk, err := d.Translate(pools)
	if err != nil {
		return nil, err
	}
	return &Disk{Disk: disk, xml: d.xml, pools: pools, reading: d.reading}, d.reading.Complete(disk)
}
