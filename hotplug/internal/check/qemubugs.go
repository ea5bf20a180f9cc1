package check

import (
	"crypto/x509"
	"encoding/pem"
	"path/filepath"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/internal/fsutil"
)

// bug is a bug of some versions of QEMU in a command that their schema accepts.
type bug struct {
	// feature is the feature that does not work; its Since is the first version without
	// the bug.
	feature blockgraph.Feature
	// fixed are the first versions without the bug in older series, such as "10.0.7" for
	// 10.0.
	fixed []string
	// hits reports whether the command triggers the bug.
	hits func(h *host.Host, c blockgraph.Command) bool
}

// bugs are the bugs that a plan can trigger.
var bugs = []bug{
	// crypto/tlscredsx509.c required the key usage "key encipherment" of every certificate
	// that restricts its usage, which is wrong for all keys but RSA's (RFC 8813, section
	// 3). Fixed by QEMU's commit 3995fc238e05.
	{
		feature: blockgraph.Feature{
			Element: "disk/source@tls", Name: "a client's certificate whose usage has no key encipherment, as those with ECDSA keys", Since: "10.2",
			Instead: "use a certificate with an RSA key and this usage"},
		fixed: []string{"7.2.22", "10.0.7", "10.1.3"},
		hits:  withoutEncipherment,
	},
}

// knownBug returns the feature of the command that a bug of the VM's QEMU breaks, nil for
// none.
func (vm *VM) knownBug(h *host.Host, c blockgraph.Command) *blockgraph.Feature {
	version := vm.version()
	for _, b := range bugs {
		if b.in(version) && b.hits(h, c) {
			return &b.feature
		}
	}
	return nil
}

// in reports whether a version has the bug.
func (b bug) in(version string) bool {
	for _, m := range b.fixed {
		series := m[:strings.LastIndexByte(m, '.')+1]
		if strings.HasPrefix(version, series) {
			return outcome.OlderThan(version, m)
		}
	}
	return outcome.OlderThan(version, b.feature.Since)
}

const maxCertificate = 1 << 20 // bytes

// withoutEncipherment examines the client's certificate of an object tls-creds-x509, if
// it is a file of this host. A missing or invalid certificate is reported by QEMU.
func withoutEncipherment(h *host.Host, c blockgraph.Command) bool {
	if c.Execute != "object-add" || c.Arguments.Text("qom-type") != "tls-creds-x509" || !h.Local {
		return false
	}
	data, err := fsutil.ReadLinked(filepath.Join(c.Arguments.Text("dir"), "client-cert.pem"), maxCertificate)
	if err != nil {
		return false
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return false
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil || certificate.KeyUsage&x509.KeyUsageKeyEncipherment != 0 {
		return false
	}
	for _, e := range certificate.Extensions {
		if e.Id.String() == "2.5.29.15" { // key usage; QEMU checks it if it is critical
			return e.Critical
		}
	}
	return false
}
