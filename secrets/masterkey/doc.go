// Package masterkey encrypts secrets for a QEMU that holds a master key.
//
// A secret object of QEMU may be given as ciphertext: its keyid then names
// another secret object, whose value is the key, and its iv is the initialisation
// vector. A reader of the monitor's traffic, or of the object's data in QEMU, sees
// ciphertext only. libvirt starts its VMs with such a key, in an object called
// masterKey0 that reads a file next to the VM's other files. Other VMs can be
// started in the same way:
//
//	head -c 32 /dev/urandom > /run/vm1.key
//	qemu-system-x86_64 -object secret,id=masterKey0,format=raw,file=/run/vm1.key ...
//
// The cipher is AES-256 in CBC mode with the padding of PKCS #7 (RFC 5652, 6.3), as
// QEMU's documentation says ("Providing secret data to QEMU"). It hides the secret;
// it does not protect it from being changed, and neither does QEMU's monitor.
//
// [Key.Seal] returns what blockgraph/render takes as its SealedSecret.
package masterkey
