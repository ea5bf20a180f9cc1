package main

import "strings"

// levels are the levels of the module, the lowest first. A package belongs to the longest of these paths that is a
// prefix of its own, and may import packages of the same path or of a lower level, but of no other path of its level.
var levels = [][]string{
	{"internal"},
	{"blockgraph", "secrets", "qmp"},
	{"internal/schemacache", "internal/storetest", "internal/memtest"}, // of qmp; for the tests of secrets
	{"internal/testserver"},
	{"hotplug/internal/outcome", "hotplug/internal/domainxml"},
	{"hotplug/internal/monitor"},
	{"hotplug/internal/daemon", "hotplug/internal/overlay", "hotplug/internal/image", "hotplug/internal/access"},
	{"hotplug/internal/spec"},
	{"hotplug/internal/rundir", "hotplug/internal/record"},
	{"hotplug/internal/host"},
	{"hotplug/internal/inventory"},
	{"hotplug/internal/unlock", "hotplug/internal/guestagent", "hotplug/internal/foreign"},
	{"hotplug/internal/grant"},
	{"hotplug/internal/apply"},
	{"hotplug/internal/remoteimage", "hotplug/internal/startgraph"},
	{"hotplug/internal/check"},
	{"hotplug/internal/samedisk"},
	{"hotplug/coldstart"},
	{"hotplug"},
	{"hotplug/libvirtvm", "hotplug/hook", "hotplug/volume"},
	{"hotplug/reencrypt"},
	{"cmd"},
	{"integration", "scripts", "examples", "contrib"},
}

// reference are the names of secrets that blockgraph may use, although both are on one level: the type by which a disk
// refers to a secret.
var reference = strings.Fields("Reference ParseUUID Type Passphrase ISCSI Ceph TLS")

// promised are the packages whose exported names are luksplug's API.
var promised = strings.Fields(`
	hotplug hotplug/libvirtvm hotplug/hook hotplug/coldstart hotplug/volume hotplug/reencrypt
	blockgraph blockgraph/diskxml blockgraph/storagevol blockgraph/render
	secrets secrets/keystore secrets/luks secrets/masterkey
	secrets/age secrets/barbican secrets/credentials secrets/dir secrets/exec secrets/keyring secrets/kmip
	secrets/libvirtstore secrets/passphrase secrets/pkcs11 secrets/vmkeys
	qmp qmp/qmplibvirt qmp/goqemu`)

// place returns the path in the table to which a package belongs, and its level; "" for none. path is below the module.
func place(path string) (best string, level int) {
	for n, paths := range levels {
		for _, p := range paths {
			if (path == p || strings.HasPrefix(path, p+"/")) && len(p) > len(best) {
				best, level = p, n
			}
		}
	}
	return best, level
}
