// Package hook is luksplug as a hook of libvirt: it brings the disks of a domain through
// cold start, save and restore, and migration.
//
// libvirt runs the executables in its hooks directory at certain points of a domain's
// life, waits for them, and gives them arguments (NAME OPERATION SUBOPERATION EXTRA) and
// the domain's XML on standard input; see libvirt's hooks document. By operation:
//
//	prepare    before QEMU exists: checks the files of every disk, derives the keys, and
//	           writes what QEMU reads as it starts to tmpfs. A failure fails the start
//	start      libvirt has made the domain's AppArmor profile, if any: adds to it what
//	           QEMU opens for the disks and for luksplug's monitor
//	started    QEMU runs: removes what was written to tmpfs and QEMU's secret objects,
//	           sets limits, and plugs disks that are not among QEMU's arguments
//	restore    the domain comes from a file of its state, or from another host: adds its
//	migrate    disks to its arguments and removes stale ones. The output replaces the
//	           domain's XML
//	stopped    QEMU has ended: removes everything of the domain from this host
//	release
//
// A record that was not signed with this host's key is refused at prepare, started and
// migrate, and not acted on otherwise. Also a signed one does not determine the owners of
// files, QEMU's user or the path of the monitor, and its devices are compared with those
// of a plan.
//
// Nothing here connects to libvirt, which waits for the hook. All input is in the
// domain's XML, on this host, and in key stores other than libvirt's.
//
// # What must not go wrong
//
// libvirt kills the running VM if a hook fails at reconnect, and deletes the saved state
// of a domain whose hook fails at restore. So these operations never fail
// ([Operation.MustSucceed]), and restore needs no key and no file: it only changes the
// XML. Everything that can fail is done at prepare, which follows it, where a failure
// loses nothing.
package hook
