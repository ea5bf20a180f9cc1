package blocktest

import "github.com/luksplug/luksplug/blockgraph"

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
	"i440fx": {Type: "pc-i440fx-10.0", RootSlots: []uint{0, 1, 2, 3, 0x1f}, USB: true},
}

// LiveQ35 has what the XML of a running q35 domain has: every address.
const LiveQ35 = `<domain type='kvm' id='4'>
  <name>vm1</name>
  <os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <source file='/images/root.qcow2' index='1'/>
      <target dev='vda' bus='virtio'/>
      <alias name='virtio-disk0'/>
      <address type='pci' domain='0x0000' bus='0x02' slot='0x00' function='0x0'/>
    </disk>
    <disk type='file' device='disk'>
      <source file='/images/data.img'/>
      <target dev='sda' bus='scsi'/>
      <address type='drive' controller='0' bus='0' target='0' unit='63'/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='sdb' bus='sata'/>
      <address type='drive' controller='0' bus='0' target='0' unit='1'/>
    </disk>
    <controller type='sata' index='0'><address type='pci' domain='0' bus='0' slot='0x1f' function='0x2'/></controller>
    <controller type='usb' index='0' model='qemu-xhci'><address type='pci' domain='0' bus='3' slot='0' function='0'/></controller>
    <controller type='pci' index='0' model='pcie-root'/>
    <controller type='pci' index='1' model='pcie-root-port'><target chassis='1' port='0x10'/><address type='pci' domain='0' bus='0' slot='2' function='0' multifunction='on'/></controller>
    <controller type='pci' index='2' model='pcie-root-port'><target chassis='2' port='0x11'/><address type='pci' domain='0' bus='0' slot='2' function='1'/></controller>
    <controller type='pci' index='3' model='pcie-root-port'/>
    <controller type='pci' index='4' model='pcie-root-port'><target chassis='4' port='0x13' hotplug='off'/></controller>
    <controller type='pci' index='5' model='pcie-switch-downstream-port'/>
    <controller type='pci' index='6' model='pcie-to-pci-bridge'/>
    <controller type='scsi' index='0' model='virtio-scsi'><address type='pci' domain='0' bus='1' slot='0' function='0'/></controller>
    <controller type='scsi' index='1' model='lsilogic'/>
    <controller type='scsi' index='2' model='virtio-non-transitional'/>
    <hostdev mode='subsystem' type='scsi'>
      <source><adapter name='scsi_host0'/><address bus='0' target='0' unit='9'/></source>
      <address type='drive' controller='2' bus='0' target='1' unit='7'/>
    </hostdev>
    <hostdev mode='subsystem' type='pci'>
      <source><address type='pci' domain='0' bus='5' slot='0' function='0'/></source>
    </hostdev>
  </devices>
</domain>`
