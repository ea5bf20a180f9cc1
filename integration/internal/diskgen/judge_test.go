package diskgen_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/integration/internal/canon"
	"github.com/luksplug/luksplug/integration/internal/diskgen"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// judge compares luksplug with a private libvirtd.
type judge struct {
	daemon  *peer.Libvirt
	libvirt *libvirt.Libvirt

	mu     sync.Mutex
	agreed map[string]int   // disks without a difference, by result
	kinds  map[string][]int // differences, and the seeds of their disks
	gone   bool             // libvirtd has ended
}

func newJudge(t *testing.T) *judge {
	t.Helper()
	daemon := peer.Libvirtd(t)
	l := libvirt.NewWithDialer(dialers.NewLocal(dialers.WithSocket(daemon.Socket)))
	must.OK(t, l.ConnectToURI(libvirt.QEMUSystem))
	t.Cleanup(func() { _ = l.Disconnect() }) // libvirtd may have ended
	types := map[secrets.Type]secrets.UsageType{secrets.Passphrase: secrets.UsageVolume, secrets.ISCSI: secrets.UsageISCSI, secrets.Ceph: secrets.UsageCeph}
	for _, s := range diskgen.Secrets() {
		d := secrets.Document{UUID: s.Reference.UUID, UsageType: types[s.Reference.Type], Usage: s.Reference.Usage}
		handle, err := l.SecretDefineXML(string(d.XML()), 0)
		if err == nil {
			err = l.SecretSetValue(handle, s.Value(), 0)
		}
		must.OK(t, err)
	}
	return &judge{daemon: daemon, libvirt: l, agreed: map[string]int{}, kinds: map[string][]int{}}
}

// verdict is the result of a comparison.
type verdict struct {
	agreed     string // the common result, "" if they differ
	difference string // its kind
	details    []string
}

// try compares one case. It reports the first difference of each kind, reduced.
func (j *judge) try(t *testing.T, seed int, c diskgen.Case) {
	v := j.compare(c)
	if !j.note(seed, v) {
		return
	}
	small := diskgen.Reduce(c, func(c diskgen.Case) bool { return j.compare(c).difference == v.difference })
	v = j.compare(small)
	t.Errorf("seed %d, %s (luksplug | libvirt):\n%s\n%s", seed, v.difference, strings.Join(v.details, "\n"), small.XML())
}

// note counts a verdict and reports whether it is a new difference.
func (j *judge) note(seed int, v verdict) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if v.difference == "" {
		j.agreed[v.agreed]++
		return false
	}
	j.kinds[v.difference] = append(j.kinds[v.difference], seed)
	return len(j.kinds[v.difference]) == 1 && !j.gone
}

// hopeless reports whether to stop: libvirtd has ended, or there are many kinds of difference.
func (j *judge) hopeless() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.gone || len(j.kinds) >= 20
}

// report logs the results. It fails if too few cases are equal: then too few of the drawn disks are valid, or
// the exceptions are too wide.
func (j *judge) report(t *testing.T) {
	t.Helper()
	all := 0
	for _, n := range j.agreed {
		all += n
	}
	t.Logf("%d disks without a difference: %v", all, j.agreed)
	for kind, seeds := range j.kinds {
		t.Logf("%d disks, %s: seeds %v", len(seeds), kind, seeds)
	}
	for what, share := range map[string]float64{equal: 0.55, refused: 0.10} {
		if n := float64(j.agreed[what]); all >= 100 && n < share*float64(all) {
			t.Errorf("only %.0f of %d disks were %s", n, all, what)
		}
	}
}

const (
	equal   = "equal"
	refused = "refused by both"
)

// compare has both sides plan a case.
func (j *judge) compare(c diskgen.Case) verdict {
	ours, ourErr := plan(c)
	theirs, err := j.native(c)
	var refusal libvirt.Error
	switch {
	case err != nil && !errors.As(err, &refusal):
		j.mu.Lock()
		j.gone = j.gone || !j.libvirt.IsConnected()
		j.mu.Unlock()
		return verdict{difference: "no answer of libvirt's: " + gist(err.Error()), details: []string{err.Error(), c.XML()}}
	case err != nil && ourErr != nil:
		return verdict{agreed: refused}
	case err != nil && laxer.MatchString(err.Error()):
		return verdict{agreed: "refused by libvirt, and not by a plan"}
	case err != nil:
		return verdict{difference: "libvirt alone refuses: " + gist(err.Error()), details: []string{err.Error(), ours.String()}}
	case ourErr != nil && stricter.MatchString(ourErr.Error()):
		return verdict{agreed: "refused by luksplug on purpose"}
	case ourErr != nil:
		return verdict{difference: "luksplug alone refuses: " + gist(ourErr.Error()), details: []string{ourErr.Error()}}
	}
	if d := ours.Without(c.Free()...).Diff(theirs.Without(c.Free()...)); d != nil {
		what, _, _ := strings.Cut(gist(d[0]), ":")
		return verdict{difference: "different: " + what, details: append(d, ours.String(), theirs.String())}
	}
	return verdict{agreed: equal}
}

// native returns libvirt's plan. A refusal is a [libvirt.Error].
func (j *judge) native(c diskgen.Case) (canon.Form, error) {
	text, err := j.libvirt.ConnectDomainXMLToNative("qemu-argv", c.XML(), 0)
	if err != nil {
		return canon.Form{}, err
	}
	f, err := canon.Native(text, diskgen.OtherAlias)
	if err != nil {
		return f, fmt.Errorf("%w: %s", err, text)
	}
	return f, nil
}

// plan returns luksplug's plan.
func plan(c diskgen.Case) (canon.Form, error) {
	m, err := diskxml.ParseDomain([]byte(c.Context()))
	if err != nil {
		return canon.Form{}, err
	}
	d, err := diskxml.ParseDisk([]byte(c.DiskXML()))
	if err != nil {
		return canon.Form{}, err
	}
	g, err := blockgraph.Build(d, m, blockgraph.Unlock{})
	if err != nil {
		return canon.Form{}, err
	}
	if err := again(d, g); err != nil {
		return canon.Form{}, err
	}
	return canon.Planned(g, length)
}

// again returns an error if the devices of a plan are not accepted from a record.
func again(d *blockgraph.Disk, g *blockgraph.Graph) error {
	var devices []blockgraph.Object
	for _, device := range g.Devices {
		var o blockgraph.Object
		if err := json.Unmarshal([]byte(device.Options.String()), &o); err != nil {
			return err
		}
		devices = append(devices, o)
	}
	if _, _, ours := blockgraph.ParseName(g.Devices[0].ID); !ours && len(devices) > 1 {
		return nil // libvirt's controller is not recorded
	}
	if _, err := blockgraph.Build(d, blockgraph.Machine{Devices: devices}, blockgraph.Unlock{}); err != nil {
		return fmt.Errorf("its devices are not accepted from a record: %w", err)
	}
	return nil
}

func length(ref secrets.Reference) (int, error) {
	s, ok := diskgen.Find(ref)
	if !ok {
		return 0, fmt.Errorf("no such secret: %v", ref)
	}
	return s.Length, nil
}

// stricter matches errors of luksplug for disks that libvirt takes: QEMU refuses the setting, or libvirt ignores it.
var stricter = regexp.MustCompile(strings.Join([]string{
	// QEMU has no such setting.
	"QEMU's floppy drive does not have this setting",
	"CHS geometry can not be set for '[a-z]+' bus and device='(cdrom|floppy|lun)'",
	"cookies have no meaning to the protocol (ftps?|tftp)",
	"there is no certificate to verify in the protocol (http|ftp|tftp)",
	"iothreads is not supported with vhostuser disk",
	"needs tls=.yes., as QEMU does",

	// libvirt ignores it.
	"only a mainframe .s390x. reads it",
	"target must be 0 for controller model '(dc390|am53c974)'",
	"does not belong to this kind of source, and libvirt would ignore it",
	"storage format 'raw' does not support backing store",
	"librbd encryption is supported only with RBD backed disks",
	"has no <secret>: encryption needs a passphrase",
	"a data store is encrypted by the qcow2 image",
	"<encryption> in <source>: luksplug does not support this", // of a data store, as above

	"an empty drive has nothing to throttle",
	"only TCP can be used with the protocol (https?|ftps?|tftp|iscsi|rbd|ssh|vxhs)", // libvirt calls the server "(null)"
	"have identical serial",                                                         // libvirt checks that at a hot plug only
	"the VM has no PCI bus ",                                                        // libvirt adds one, which a running VM cannot have
	"the PCI bus (ua-[a-z0-9]+|pci.[0-9]+) is in use or takes no hot plug",          // a running VM's port takes one device
}, "|"))

// laxer matches errors of libvirt for disks that luksplug plans.
var laxer = regexp.MustCompile(strings.Join([]string{
	// A plan does not know the QEMU. An attach checks its schema.
	"not supported with this QEMU binary",
	// The conformance kit has such a disk, with a plan; luksplug warns.
	"CCW addresses are not supported by machine type",
	// The kit also has vhost-user disks in domains that do not define their memory. An attach queries QEMU.
	"'vhostuser' requires shared memory",
}, "|"))

// gist returns a message without names and numbers.
func gist(message string) string { return particulars.ReplaceAllString(message, "_") }

var particulars = regexp.MustCompile(`'[^']*'|"[^"]*"|[0-9]+|\b[shvf]d[a-z]+\b`)
