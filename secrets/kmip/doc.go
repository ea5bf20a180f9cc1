// Package kmip is the key store for a key management server that implements KMIP
// (https://docs.oasis-open.org/kmip/spec/v1.4/kmip-spec-v1.4.html, versions 1.0 to
// 1.4), over TLS with a client certificate.
//
// [New] is for secrets that luksplug defines. Objects of a KMIP server cannot be
// changed, so each has a generation, and the highest takes precedence:
//
//	an Opaque Object with the <secret> document
//	a Secret Data object, of type Password, with the value
//
// Both have these attributes. They are Application Specific Information (section
// 3.36), with the name as the namespace, or custom attributes (section 3.39) that
// begin with "x-", for servers that can search only for those:
//
//	luksplug-kind         document or value
//	luksplug-uuid         0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f
//	luksplug-generation   a number
//	luksplug-usage        volume:/var/lib/images/vm1.img, percent-encoded as in a
//	                      URI's path; only for documents with a usage
//
// and a human-readable Name, "luksplug KIND UUID GENERATION" followed by random
// characters. A new value is registered and activated before the old one is revoked
// as superseded and destroyed, so a concurrent look-up finds one of them. The next
// change removes what a crash has left.
//
// [NewFinder] is for objects of other programs, of type SecretData or SymmetricKey.
// A [Template] finds them by their Name, their unique identifier or a custom
// attribute.
//
// Objects that a server returns are compared with the query: some servers ignore
// unknown attributes and would return all objects. A value in the state deactivated
// or compromised has been revoked and is refused.
//
// github.com/ovh/kmip-go implements the wire format. Buffers with values are cleared
// after use; until then they are on the Go heap, as are those of crypto/tls, and not
// locked in memory.
package kmip
