// Package remoteimage reads images that are no files of this host: those of servers,
// and formats that package image does not know. A storage daemon, which has QEMU's
// own drivers, opens the image for reading only. A server that does not answer, or
// refuses, does no harm there: the VM's QEMU would stall until the image is
// open.
package remoteimage
