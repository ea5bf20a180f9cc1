// Package barbican is the key store that is OpenStack's Key Manager, Barbican
// (https://docs.openstack.org/barbican/latest/api/reference/secrets.html).
//
// # Which secret
//
// Barbican chooses the uuid of each of its secrets itself, and has one name for
// it. A [secrets.Reference] finds
//
//   - by uuid, the secret that luksplug has defined with this uuid, and otherwise
//     the one that has it as Barbican's own, the last part of its href: this is
//     how Cinder and Nova name the key of a volume;
//   - by usage, the secret that luksplug has defined with this usage, or the one
//     whose name is the usage type, a colon and the usage, such as
//     "volume:/var/lib/images/vm1.img".
//
// Secrets of the second kind are another program's: they are looked up and
// listed, and neither changed nor removed, but for getting a first payload. A
// payload of any content type is taken as its bytes. The passphrase of a volume
// of Cinder's is the payload in hexadecimal digits; package keystore's
// ?encoding=to-hex is for that.
//
// # What luksplug defines
//
// A defined secret is a Barbican secret of the type opaque with the name
// "luksplug:UUID". Its payload is the value, its user metadata the <secret>
// document:
//
//	uuid          0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f
//	generation    1
//	usage-type    volume, ceph, iscsi, tls or vtpm
//	usage         /var/lib/images/vm1.img
//	private       yes, or not there
//	description   free text, or not there
//
// Barbican's database keeps 255 characters of each. It never changes a payload:
// another value is another Barbican secret of that name, with the next
// generation, after which the older one is removed. A secret counts from the
// moment when its metadata is there, and of several the highest generation: so a
// look-up finds the old value or the new one at any time, and what a crash has
// left is removed by the next change. There are no locks: two callers who define
// the same usage at the same moment may both succeed.
//
// # Authentication
//
// A server without authentication gets the project by name ([Options.Project]).
// Others get a token: one that was obtained elsewhere ([Options.Token]), or one of
// Keystone for each call ([Options.Login]).
//
// Connections are encrypted, but for those to the host itself. Redirects are not
// followed, proxies are not used, and answers are bounded. Errors never repeat
// what the server wrote: an error message about a request may repeat the request.
// Copies of the value and of the token stay in the buffers of the Go library's
// HTTP client until its memory is used again.
package barbican
