// Package canon brings what QEMU is told of a disk into one form, whoever says
// it: libvirt, as the arguments of QEMU ([Native]), or package blockgraph, as a
// graph ([Planned]). Two disks that QEMU would run alike have equal forms:
//
//   - A block node is named after the way to it: "drive" is what the device reads
//     and writes, "drive.file" the node below it, and so on.
//   - An object is named after who uses it for what: "drive:key-secret".
//   - A secret is the length of its value, in blocks of 16 bytes: libvirt encrypts
//     the values, with a key that nobody else has.
//   - The device is called "device", unless the user gave it a name.
//
// Objects and nodes keep their order. What is not of the disk is left out.
package canon
