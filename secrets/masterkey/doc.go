// Package masterkey encrypts secrets for a QEMU that holds a master key.
//
// The data of a secret object in QEMU may be ciphertext: the property keyid then
// names another secret object, whose value is the key, and iv is the initialisation
// vector. A reader of the monitor's traffic, or of the object's data in QEMU, sees
// only ciphertext. libvirt starts its VMs with such a key, in an object called
// masterKey0 that reads a file next to the VM's other files. Other VMs can be
// started likewise:
//
//	head -c 32 /dev/urandom > /run/vm1.key
//	qemu-system-x86_64 -object secret,id=masterKey0,format=raw,file=/run/vm1.key ...
//
// The cipher is AES-256 in CBC mode with the padding of PKCS #7 (RFC 5652, 6.3), as
// in QEMU's documentation ("Providing secret data to QEMU"). It provides
// confidentiality without authentication; QEMU's monitor does not authenticate either.
//
// blockgraph/render takes the result of [Key.Seal] as its SealedSecret.
package masterkey
