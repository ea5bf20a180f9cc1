// Package barbican is the key store for OpenStack's Key Manager, Barbican
// (https://docs.openstack.org/barbican/latest/api/reference/secrets.html).
//
// # Looking up secrets
//
// Barbican assigns the uuid of each secret, and gives each secret one name. A
// [secrets.Reference] finds
//
//   - by uuid, the secret that luksplug has defined with this uuid, and otherwise
//     the secret to which Barbican has assigned it, the last part of its href:
//     Cinder and Nova refer to the key of a volume by it;
//   - by usage, the secret that luksplug has defined with this usage, or a secret
//     whose name is the usage type, a colon and the usage, such as
//     "volume:/var/lib/images/vm1.img".
//
// Secrets of other programs are looked up and listed, but neither changed nor
// removed, except that a missing payload can be set. The bytes of a payload are
// used for any content type. The passphrase of a Cinder volume is its payload in
// hexadecimal digits, for which package keystore has ?encoding=to-hex.
//
// # Defined secrets
//
// A secret defined by luksplug is a Barbican secret of type opaque with the name
// "luksplug:UUID". Its payload is the value, its user metadata the <secret>
// document:
//
//	uuid          0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f
//	generation    1
//	usage-type    volume, ceph, iscsi, tls or vtpm
//	usage         /var/lib/images/vm1.img
//	private       yes, or absent
//	description   free text, or absent
//
// Barbican's database keeps 255 characters of each, and never changes a payload: a
// new value is a new Barbican secret of the same name with the next generation,
// after which the older one is removed. A secret is valid once its metadata is set,
// and the highest generation takes precedence: a concurrent look-up finds the old
// or the new value, and the next change removes what a crash has left. There are no
// locks: two callers that define the same usage at the same moment may both
// succeed.
//
// # Authentication
//
// Requests to a server without authentication carry the project's id
// ([Options.Project]). Other requests carry a token: a given one ([Options.Token]), or
// a new one from Keystone for each call ([Options.Login]).
//
// Connections are encrypted, except to the loopback. Redirects are not followed,
// proxies are not used, and the size of responses is bounded. Errors never quote
// the server: an error message may repeat the request. Copies of the value and of
// the token remain in the buffers of Go's HTTP client until that memory is reused.
package barbican
