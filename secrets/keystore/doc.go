// Package keystore opens key stores by URI, as the command line and the
// configuration name them. It is a package of its own because it imports every
// kind of store, and these import package secrets.
//
//	dir:PATH    a directory with one file per secret (package secrets/dir)
//	age:PATH    a directory encrypted with age (package secrets/age); its parameters
//	            are identity=PATH, key=x25519 or hybrid, protect=none or passphrase,
//	            and passphrase-file=PATH or fd:N, which replaces the prompt
//	credentials:        the credentials that systemd passed to this service
//	credentials:PATH    a directory with files that systemd-creds has encrypted
//	            (package secrets/credentials); timeout=30s
//	libvirt:            the secrets of libvirt's qemu:///system
//	libvirt+URI         those of another libvirt, with libvirt's own parameters
//	            (package secrets/libvirtstore); timeout=10s
//	keyring:            the desktop's Secret Service (package secrets/keyring);
//	            collection=default, timeout=1m
//	barbican+https://HOST:PORT/    OpenStack's key manager (package
//	            secrets/barbican), with token-file=; or keystone=https://HOST:5000/v3,
//	            password-file= and application-credential=ID, or user=ID and project=ID;
//	            or project=ID without authentication. ca-file=PATH, timeout=10s.
//	            barbican+http: is allowed only for this host
//	kmip://HOST:PORT    a key management server (package secrets/kmip), port 5696;
//	            cert-file=, key-file=, ca-file=PATH, server-name=NAME, timeout=10s,
//	            attributes=application or custom, find=TEMPLATE
//	pkcs11:ATTRIBUTES   a token, by a URI of RFC 7512 (package secrets/pkcs11), with
//	            module-path=, module-name=, pin-source=PATH or fd:N; and in addition
//	            to the RFC application=, wrapped=DIRECTORY, mechanism=aes-gcm,
//	            aes-key-wrap-pad or aes-key-wrap, timeout=30s
//	exec:COMMAND        a program that prints the value (package secrets/exec);
//	            timeout=30s
//
// A URI is SCHEME:REST?PARAMETER=VALUE&..., percent-encoded as in RFC 3986. All
// kinds have the parameter encoding, the form in which the store holds values: raw
// (the default: unchanged bytes), base64, hex, utf8 (unchanged bytes, which must be
// UTF-8), or to-hex (bytes whose hexadecimal digits are the value, as in OpenStack's
// Cinder). The encoding is never guessed from the value: raw bytes mistaken for hex,
// or hex for raw bytes, are a key that does not open the volume, and may cause its
// loss. Unknown parameters are refused.
//
// To add a kind of store, write a package next to secrets/dir with a function Open
// that returns the store of a URI, run internal/storetest on it, and add a line to
// the function kinds.
package keystore
