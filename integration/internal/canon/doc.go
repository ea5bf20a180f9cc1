// Package canon brings the description of a disk for QEMU into one form: libvirt's, the arguments of QEMU
// ([Native]), and that of package blockgraph, a graph ([Planned]). Two disks that QEMU would run alike have
// equal forms:
//
//   - A block node is named after its path from the device: "drive" is what the device reads and writes,
//     "drive.file" the node below it, and so on.
//   - An object is named after its user and purpose: "drive:key-secret".
//   - A secret is replaced by the length of its value, in blocks of 16 bytes: libvirt encrypts the values with
//     its own key.
//   - The device is called "device", unless the user gave it a name.
//
// Objects and nodes keep their order. Parts of other devices are left out.
package canon
