package blocktest

import (
	_ "embed"

	"github.com/luksplug/luksplug/blockgraph"
)

// Machines are the VMs that the golden plans are made for.
var Machines = map[string]blockgraph.Machine{
	"unknown": {},
	"q35": {
		Type:  "pc-q35-10.0",
		Ports: []blockgraph.Port{{Bus: "pci.1", Taken: true}, {Bus: "pci.9"}, {Bus: "pci.10"}, {Bus: "pci.11", Taken: true}},
		USB:   true,
	},
	"q35-scsi": {
		Type:  "q35",
		Ports: []blockgraph.Port{{Bus: "pci.1", Taken: true}},
		SCSI:  []blockgraph.SCSIController{{ID: "scsi0", Units: []blockgraph.SCSIUnit{{Target: 0, LUN: 63}, {Target: 0, LUN: 0}}}},
	},
	"q35-threads": {Type: "pc-q35-10.0", Ports: []blockgraph.Port{{Bus: "pci.5"}}, IOThreads: []uint{1, 2}},
	"i440fx":      {Type: "pc-i440fx-10.0", RootSlots: []uint{0, 1, 2, 3, 0x1f}, USB: true},
}

// LiveQ35 has what the XML of a running q35 domain has: every address.
//
//go:embed live-q35.xml
var LiveQ35 string
