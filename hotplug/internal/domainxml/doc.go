// Package domainxml reads and changes luksplug's parts of libvirt's domain XML: the arguments
// in <qemu:commandline>, libvirt's element for QEMU options that it does not support (see its
// drvqemu document), and the metadata of a namespace.
//
// The output of a hook replaces the domain, so nothing unknown may be lost. A [Document]
// therefore keeps the text and the places of its elements in it, and changes no other byte:
//
//	doc, err := domainxml.Parse(text)
//	...
//	doc, err = doc.WithArguments(append(domainxml.Foreign(doc.Arguments()), ours...))
//	os.Stdout.Write(doc.Text())
package domainxml
