// Package remoteimage reads images that are not files of this host, but on servers, or in
// formats that package image does not know. A storage daemon, which has QEMU's drivers,
// opens the image read-only. A server that hangs or refuses does no harm there, while the
// VM's QEMU would stall until the image is open.
package remoteimage
