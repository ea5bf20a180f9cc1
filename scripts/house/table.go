package main

import "strings"

// entry is a place in the house: a package, and all below it that no longer path names.
type entry struct {
	path  string
	level int
	only  map[string][]string // an import of a package on the same level, and the names that may be used of it
}

// entries are the levels of the house, the lowest first. Imports point from a higher level to a lower one, or stay
// within one entry.
var entries = []entry{
	{path: "internal", level: 0},
	// Nothing but the type by which a disk refers to a secret.
	{path: "blockgraph", level: 1, only: map[string][]string{"secrets": {"Reference", "ParseUUID", "Type", "Passphrase", "ISCSI", "Ceph", "TLS"}}},
	{path: "secrets", level: 1},
	{path: "qmp", level: 1},
	{path: "hotplug/internal", level: 2},
	{path: "hotplug/samedisk", level: 2},
	{path: "hotplug", level: 3},
	{path: "hotplug/coldstart", level: 4},
	{path: "hotplug/libvirtvm", level: 5},
	{path: "hotplug/hook", level: 5},
	{path: "cmd", level: 6},
	{path: "integration", level: 7},
	{path: "scripts", level: 7},
	{path: "examples", level: 7},
	{path: "contrib", level: 7},
}

// firstProgram is the lowest level that is no library.
const firstProgram = 6

// exceptions are imports against the table, "importer imported". One that is no longer needed is an error.
var exceptions = []string{
	"hotplug/internal/overlay hotplug/daemon",
}

// promised are the packages whose exported names are luksplug's API.
var promised = strings.Fields(`
	hotplug hotplug/libvirtvm hotplug/hook hotplug/coldstart
	blockgraph blockgraph/diskxml blockgraph/render
	secrets secrets/keystore secrets/luks secrets/masterkey
	secrets/age secrets/barbican secrets/credentials secrets/dir secrets/exec secrets/keyring secrets/kmip
	secrets/libvirtstore secrets/passphrase secrets/pkcs11 secrets/vmkeys
	qmp qmp/qmplibvirt qmp/goqemu`)

// entryOf returns the entry that a package belongs to; path is below the module.
func entryOf(path string) (best entry, ok bool) {
	for _, e := range entries {
		if (path == e.path || strings.HasPrefix(path, e.path+"/")) && len(e.path) >= len(best.path) {
			best, ok = e, true
		}
	}
	return best, ok
}
