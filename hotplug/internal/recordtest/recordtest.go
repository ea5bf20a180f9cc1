// Package recordtest provides a domain and a recorded disk for tests.
package recordtest

import (
	"path/filepath"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
)

// UUIDs of the domain and of the disk's secret.
const (
	DomainUUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
	SecretUUID = "0a81f5b2-8403-4b23-88d6-21ccc2f80d6f"
)

// Signer returns a signer of the domain's records, and the path of its key.
func Signer(t *testing.T) (record.Signer, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "record.key")
	key, _, err := record.MakeKey(path)
	if err != nil {
		t.Fatal(err)
	}
	return record.Signer{Key: key, UUID: DomainUUID}, path
}

// Domain returns the definition of a domain, with further XML inside.
func Domain(t *testing.T, machine, inside string) *domainxml.Document {
	t.Helper()
	doc, err := domainxml.Parse([]byte(`<domain type='kvm'>
  <name>vm1</name>
  <uuid>` + DomainUUID + `</uuid>
  <os><type arch='x86_64' machine='` + machine + `'>hvm</type></os>
  ` + inside + `
</domain>
`))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// Disk returns the record of an encrypted disk vdb in one of luksplug's root ports.
func Disk(t *testing.T, port int) record.Disk {
	t.Helper()
	d, err := record.New([]byte(`<disk type='file'><source file='/img'><encryption format='luks'><secret type='passphrase' uuid='`+SecretUUID+`'/></encryption></source><target dev='vdb' bus='virtio'/></disk>`), nil, record.Reading{})
	if err != nil {
		t.Fatal(err)
	}
	disk, err := d.Parsed()
	if err != nil {
		t.Fatal(err)
	}
	m := blockgraph.Machine{Type: "q35", Ports: []blockgraph.Port{{Bus: blockgraph.ReservedPort(port)}}}
	graph, err := blockgraph.Build(disk, m, blockgraph.Unlock{})
	if err != nil {
		t.Fatal(err)
	}
	d.Start, d.Devices = blockgraph.MethodEphemeralHeader, []blockgraph.Object{graph.Device().Options}
	return d
}
