// Package keystore opens key stores by URI, as the command line and the
// configuration name them. It is a package of its own because it imports every
// kind of store, and these import package secrets.
//
//	dir:PATH    a directory with one file per secret (package secrets/dir)
//	age:PATH    a directory encrypted with age (package secrets/age); its parameters
//	            are identity=PATH, key=x25519 or hybrid, protect=none or passphrase,
//	            and passphrase-file=PATH or fd:N, to be read instead of a prompt
//	credentials:        what systemd handed to the service it runs as
//	credentials:PATH    a directory with files that systemd-creds has encrypted
//	            (package secrets/credentials); timeout=30s
//	libvirt:            the secrets of libvirt's qemu:///system
//	libvirt+URI         those of another libvirt, with libvirt's own parameters
//	            (package secrets/libvirtstore); timeout=10s
//	keyring:            the desktop's Secret Service (package secrets/keyring);
//	            collection=default, timeout=1m
//	barbican+https://HOST:PORT/    OpenStack's key manager (package
//	            secrets/barbican), as token-file=, or with keystone=https://HOST:5000/v3
//	            as application-credential=ID, or user=ID and project=ID, with
//	            password-file=; or project=ID without authentication. ca-file=PATH,
//	            timeout=10s. barbican+http: is for this host only
//	kmip://HOST:PORT    a key management server (package secrets/kmip), port 5696;
//	            cert-file=, key-file=, ca-file=PATH, server-name=NAME, timeout=10s,
//	            attributes=application or custom, find=TEMPLATE
//	pkcs11:ATTRIBUTES   a token, by a URI of RFC 7512 (package secrets/pkcs11), with
//	            module-path=, module-name=, pin-source=PATH or fd:N; and besides
//	            those of the RFC application=, wrapped=FOLDER, mechanism=aes-gcm,
//	            aes-key-wrap-pad or aes-key-wrap, timeout=30s
//	exec:COMMAND        a program that prints the value (package secrets/exec);
//	            timeout=30s
//
// A URI is SCHEME:REST?PARAMETER=VALUE&..., percent-encoded as in RFC 3986. All
// kinds take the parameter encoding, which says in what form the store holds
// values: raw (the default: the bytes as they are), base64, hex, utf8 (the
// bytes as they are, which must be UTF-8), or to-hex (bytes whose hexadecimal
// digits are the value, as OpenStack's Cinder does it). Nothing guesses it from the value: raw
// bytes taken for hex, or the other way round, are a key that opens nothing, and
// one day a volume that is lost. Parameters that the kind does not know are
// refused.
//
// To add a kind of store: give it a package next to secrets/dir, with a function
// Open that makes the store of a URI, that passes internal/storetest, and a line
// in the function kinds.
package keystore
