package diskxml_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/secrets"
)

// TestLocalDisk: the XML of a disk is read as that disk, whatever is in its names.
func TestLocalDisk(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	d := diskxml.LocalDisk{
		Target: "sdb", Bus: blockgraph.BusSCSI, Format: blockgraph.FormatQcow2, Payload: diskxml.LocalImage{Path: "/images/it's <a> & \"b\".qcow2"},
		Header: diskxml.LocalImage{Path: "/dev/vg/header", Block: true}, Secret: secrets.Reference{Type: secrets.Passphrase, UUID: id},
		Serial: "serial", Cache: "none", Discard: "unmap", ReadOnly: true,
	}
	got, err := diskxml.ParseDisk(d.XML())
	if err != nil {
		t.Fatalf("%v\n%s", err, d.XML())
	}
	header := got.Header()
	if got.Target != d.Target || got.Bus != d.Bus || got.Image.Format != d.Format || got.Image.Source.Path != d.Payload.Path || got.Image.Source.Kind != blockgraph.SourceFile ||
		header == nil || header.Source.Path != d.Header.Path || header.Source.Kind != blockgraph.SourceBlock || got.Serial != d.Serial || !got.ReadOnly ||
		len(got.Secrets()) != 1 || got.Secrets()[0] != d.Secret {
		t.Errorf("%+v\n%s", got, d.XML())
	}
	d = diskxml.LocalDisk{Target: "vdb", Bus: blockgraph.BusVirtio, Format: blockgraph.FormatRaw, Payload: diskxml.LocalImage{Path: "/dev/vg/data", Block: true},
		Secret: secrets.Reference{Type: secrets.Passphrase, Usage: "it's <mine>"}, Queues: 4, QueueSize: 256}
	if got, err = diskxml.ParseDisk(d.XML()); err != nil {
		t.Fatalf("%v\n%s", err, d.XML())
	}
	if got.Image.Source.Kind != blockgraph.SourceBlock || got.Header() != nil || got.Secrets()[0] != d.Secret || got.Driver.Queues != 4 || got.Driver.QueueSize != 256 {
		t.Errorf("%+v\n%s", got, d.XML())
	}
}
