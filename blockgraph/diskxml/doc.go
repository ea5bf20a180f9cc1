// Package diskxml reads libvirt's XML into the values of [blockgraph]: a <disk> into
// a Disk, a <domain> into a Machine, and a storage <pool> into a Pool; and the <volume> of
// a pool into the Volume of package storagevol.
//
// # The grammar
//
// The grammar of a <disk> is libvirt's (formatdomain.html, "Hard drives, floppy disks,
// CDROMs", and formatstorageencryption.html), plus one element for which libvirt has no
// syntax: a LUKS header that is not part of the image. It belongs in <encryption> and has the
// grammar of <backingStore>:
//
//	<encryption format='luks'>
//	  <secret type='passphrase' uuid='...'/>
//	  <header type='file'>
//	    <format type='raw'/>
//	    <source file='/var/lib/headers/vm1-vdb.hdr'/>
//	  </header>
//	</encryption>
//
// # Strictness
//
// [ParseDisk] ignores nothing that could matter. Names that are unknown to libvirt, and values
// that contradict each other, are an [*XMLError] with the line; what libvirt knows and
// blockgraph does not support is a [*blockgraph.UnsupportedError]. Where libvirt 11.3 silently
// drops something, such as engine='librbd' on a source that is not rbd, the disk is refused.
// [ParseOptions] can skip elements of a newer libvirt, and lists them in Disk.Warnings.
//
// Nothing in this package does I/O. All functions are safe for concurrent use.
package diskxml
