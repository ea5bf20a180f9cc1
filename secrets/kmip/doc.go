// Package kmip is the key store of a key management server that speaks KMIP
// (https://docs.oasis-open.org/kmip/spec/v1.4/kmip-spec-v1.4.html, versions 1.0 to
// 1.4), over TLS with a client certificate.
//
// [New] is for secrets that luksplug defines itself. Objects of a KMIP server
// cannot be changed, so each is one generation, and the highest one counts:
//
//	an Opaque Object with the <secret> document
//	a Secret Data object, of type Password, with the value
//
// Both have these attributes. They are Application Specific Information (section
// 3.36), where the name is the namespace, or custom attributes (section 3.39) that
// begin with "x-", for servers that can search for those only:
//
//	luksplug-kind         document or value
//	luksplug-uuid         0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f
//	luksplug-generation   a number
//	luksplug-usage        volume:/var/lib/images/vm1.img, percent-encoded as in a
//	                      URI's path; of documents with a usage
//
// and a human-readable Name, "luksplug KIND UUID GENERATION" followed by random
// characters. A new value is registered and activated before the old one is revoked as superseded and destroyed, so a
// look-up finds the one or the other; what a crash leaves between the two is
// cleared away by the next change.
//
// [NewFinder] is for objects that others have made, SecretData and SymmetricKey:
// a [Template] says how they are named, by their Name, by their unique identifier
// or by a custom attribute.
//
// Objects that a server returns are compared with the query: some servers ignore
// attributes that they do not know, and would find everything. A value whose state
// is deactivated or compromised has been revoked and is refused.
//
// The wire format is github.com/ovh/kmip-go's. Buffers with values are cleared,
// but are on the Go heap and in those of crypto/tls for a while, not locked in
// memory.
package kmip
