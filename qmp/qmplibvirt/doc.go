// Package qmplibvirt reaches a libvirt domain's QEMU through libvirt's RPC, for programs that do not have the
// monitor's socket: libvirtd holds it, and it serves one client. The result is a [qmp.Client] like any other:
//
//	virsh := qmplibvirt.Virsh{Domain: "vm1"}
//	client, err := qmplibvirt.NewClient(ctx, l, domain, virsh.PassFile)
//
// go-libvirt cannot pass file descriptors, so a command with a file goes through libvirt's
// own client program, see [Virsh].
package qmplibvirt
