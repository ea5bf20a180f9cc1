package keystore_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keystore"
	"github.com/luksplug/luksplug/secrets/pkcs11"
)

// The UUIDs of two VMs.
const one, other = "3e3fce45-4f53-4fa7-bb32-11f34168b82b", "6695eb01-f6a4-8304-79aa-97f2502e193f"

func TestURIs(t *testing.T) {
	t.Parallel()
	o := keystore.Options{VM: func() string { return other }}
	for uri, want := range map[string]string{
		"dir:/run/keys":               "dir:/run/keys",
		"dir:relative":                "dir:relative",
		"dir:/with:colon":             "dir:/with:colon",
		"dir:/with%3Fmark%20and=more": "dir:/with%3Fmark%20and=more",
		"dir:/run/keys?":              "dir:/run/keys",
		"dir:/run/keys?encoding=raw":  "dir:/run/keys",
		"dir:/run/keys?encoding=hex":  "dir:/run/keys?encoding=hex",

		"vm:":                                   "vm:/run/luksplug/keys?uuid=" + other,
		"vm:/run/keys%20here":                   "vm:/run/keys%20here?uuid=" + other,
		"vm:?uuid=" + strings.ToUpper(one):      "vm:/run/luksplug/keys?uuid=" + one,
		"vm:/run/keys?encoding=hex&uuid=" + one: "vm:/run/keys?uuid=" + one + "?encoding=hex",

		"kmip://keys.example.org":                                          "kmip://keys.example.org:5696",
		"kmip://keys.example.org:1234/":                                    "kmip://keys.example.org:1234",
		"kmip://[::1]:1234?cert-file=/a&key-file=/b&ca-file=/c&timeout=5s": "kmip://[::1]:1234",
		"kmip://h?attributes=custom&server-name=x":                         "kmip://h:5696",
		"kmip://h?find=name:disks/{uuid}":                                  "kmip://h:5696",
		"kmip://h?find=x-disk:%7Busage%7D&encoding=base64":                 "kmip://h:5696?encoding=base64",
		"kmip://192.0.2.1?cert-file=%2Fa%20b%2Fclient.crt&key-file=%2F":    "kmip://192.0.2.1:5696",

		"libvirt:":            "libvirt+qemu:///system",
		"libvirt:?timeout=1s": "libvirt+qemu:///system",
		"libvirt+qemu:///session?socket=/no/such":   "libvirt+qemu:///session?socket=/no/such",
		"libvirt+qemu+ssh://root@host/system":       "libvirt+qemu+ssh://root@host/system",
		"libvirt+qemu:///session?socket=%2Fno&":     "libvirt+qemu:///session?socket=/no",
		"libvirt+qemu:///system?encoding=hex&":      "libvirt+qemu:///system?encoding=hex",
		"libvirt+qemu+tls://h:1/system?no_verify=0": "libvirt+qemu+tls://h:1/system?no_verify=0",

		"pkcs11:token=a?module-path=/usr/lib/x+y.so&pin-source=file:/run/pin":                          "pkcs11:token=a",
		"pkcs11:object=disk-{uuid};token=a?application=%7Busage%7D&timeout=1s":                         "pkcs11:token=a;object=disk-{uuid}",
		"pkcs11:token=a;object=kek?wrapped=/etc/a%20b&mechanism=aes-key-wrap-pad&module-name=softhsm2": "pkcs11:token=a;object=kek?wrapped=/etc/a%20b",
	} {
		store, err := keystore.Open(uri, o)
		if errors.Is(err, pkcs11.ErrNotBuilt) && !errors.Is(err, keystore.ErrInvalidURI) && store == nil {
			continue // the error is that of the other build
		}
		if err != nil || store.String() != want {
			t.Errorf("%s: %v, %v, want %s", uri, store, err, want)
		} else if _, ok := store.(secrets.Lister); !ok && strings.HasPrefix(uri, "libvirt") {
			t.Errorf("%s cannot be listed", uri)
		}
	}
	if store, err := keystore.Open("vm:", keystore.Options{}); err != nil || store.String() != "vm:/run/luksplug/keys" {
		t.Errorf("without a VM: %v %v", store, err)
	}
	for _, uri := range []string{
		"", "dir", "dir:", "/run/keys", "dir:/100%", "dir:/a%00b", "dir:/a#b", "dir:/a?encoding=hex#b", "dir:/a?encoding=auto",
		"dir:/a?encoding=hex&encoding=hex", "dir:/a?Encoding=hex", "dir:/a?x", "dir:/a?x=%zz", "dir:/a?encoding=hex;x=1",
		"vm:keys", "vm:?uuid=vm1", "vm:?vm=" + one,
		"age:", "age:/x?key=rsa", "age:/x?protect=yes", "age:/x?passphrase=hunter2",
		"keyring:login", "keyring:?colour=red", "keyring:?timeout=no",
		"barbican+https:", "barbican+https://", "barbican+http://example.org/", "barbican+https://u:hunter2@example.org/", "barbican+https://[/",
		"kmip:", "kmip:host", "kmip://", "kmip://h/path", "kmip://u:hunter2@h", "kmip://h:0", "kmip://h:70000", "kmip://h:x", "kmip://h?cert-file=/a",
		"kmip://h?key-file=/a", "kmip://h?attributes=none", "kmip://h?find=disk", "kmip://h?timeout=0", "kmip://h?password=x",
		"libvirt:qemu:///system", "libvirt+qemu:system", "libvirt+qemu+tcp://host/system", "libvirt+qemu://a:hunter2@%zz/system",
		"libvirt:?colour=red", "libvirt+test:///default", "libvirt+qemu+ssh://a:hunter2@host/system",
		"pkcs11:token", "pkcs11:token=a/b", "pkcs11:token=a?colour=red", "pkcs11:token=a?mechanism=des", "pkcs11:token=a?timeout=x",
		"pkcs11:token=a?pin-value=hunter2", "pkcs11:token=a?module-path=relative",
		"exec:", "exec:'a", "exec:a%", "exec:a?timeout=0", "exec:a?timeout=soon", "exec:a?shell=yes",
	} {
		if store, err := keystore.Open(uri, o); !errors.Is(err, keystore.ErrInvalidURI) || store != nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v, %v", uri, store, err)
		}
	}
	for uri, scheme := range map[string]string{
		"https://user:hunter2@example.org/": "https", "barbican:": "barbican", "barbican+ftp://x/": "barbican+ftp", "libvirt+:": "libvirt+",
	} {
		var unknown *keystore.UnknownSchemeError
		if _, err := keystore.Open(uri, o); !errors.As(err, &unknown) || unknown.Scheme != scheme || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", uri, err)
		}
	}
}
