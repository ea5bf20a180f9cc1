// Package domainxml reads and changes libvirt's domain XML where luksplug has
// something in it, and leaves every other byte as it is.
//
// What a hook prints replaces the domain: a document that was taken apart and put
// together again could lose what this program has never heard of. So a [Document]
// keeps the text, knows where its elements begin and end, and cuts and pastes:
//
//	doc, err := domainxml.Parse(text)
//	...
//	doc, err = doc.WithArguments(append(domainxml.Foreign(doc.Arguments()), ours...))
//	os.Stdout.Write(doc.Text())
//
// The arguments are those of <qemu:commandline>, libvirt's way to give QEMU what
// libvirt has no element for; see libvirt's drvqemu document. Metadata are read
// for one namespace at a time, as libvirt's own interface does.
package domainxml
