package diskgen

import (
	"strconv"
	"strings"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/luksplug/luksplug/secrets"
)

// Case is a disk and a domain for it.
type Case struct {
	Domain *Element // without the disk
	Disk   *Element
	Wild   bool // some settings do not fit the disk
}

// OtherAlias begins the aliases of the domain's other disks.
const OtherAlias = "ua-other"

// Context returns the XML of the domain without the disk.
func (c Case) Context() string { return c.Domain.String() }

// DiskXML returns the XML of the disk.
func (c Case) DiskXML() string { return c.Disk.String() }

// XML returns the XML of the domain with the disk in it, after its other disks.
func (c Case) XML() string {
	domain := c.Domain.clone()
	devices := domain.child("devices")
	if devices == nil { // reduced away
		devices = element("devices")
		domain.add(devices)
	}
	devices.add(c.Disk)
	return domain.String()
}

// Free returns the members of the disk's device that its XML leaves open and that the program which starts
// the VM may choose: the address and the boot index.
func (c Case) Free() []string {
	var out []string
	if c.Disk.child("boot") == nil {
		out = append(out, "bootindex")
	}
	a := c.Disk.child("address")
	switch {
	case a.attr("type") == "pci" && strings.Trim(a.attr("bus")+a.attr("slot")+a.attr("function"), "0x") != "":
	case a.attr("type") == "drive", a.attr("type") == "usb" && a.attr("port") != "":
	case a.attr("type") == "usb":
		out = append(out, "port")
	default:
		if bus := c.Disk.child("target").attr("bus"); bus == "virtio" || bus == "usb" || bus == "" && c.Disk.child("target").attr("dev")[:1] == "v" {
			out = append(out, "bus", "addr", "port", "multifunction")
		}
	}
	return out
}

// Secret is a secret that disks refer to.
type Secret struct {
	Reference secrets.Reference // with both the uuid and the usage
	// Length is that of its value, in bytes; see [Secret.Value].
	Length int
}

// Value returns a value of the length of the secret.
func (s Secret) Value() []byte { return []byte(strings.Repeat("x", s.Length)) }

// Secrets returns the secrets that cases refer to. Encrypted in blocks of 16 bytes, no two values have the
// same length.
func Secrets() []Secret {
	var out []Secret
	for _, typ := range []secrets.Type{secrets.Passphrase, secrets.ISCSI, secrets.Ceph} {
		for i := range 3 {
			n := len(out) + 1
			id := uuid.MustParse("5ec4e700-0000-4000-8000-00000000000" + strconv.Itoa(n))
			usage := string(typ) + " of test, no. " + strconv.Itoa(i)
			out = append(out, Secret{secrets.Reference{Type: typ, UUID: id, Usage: usage}, 16*n + 8})
		}
	}
	return out
}

// Find returns the secret of [Secrets] to which a reference refers.
func Find(ref secrets.Reference) (Secret, bool) {
	for _, s := range Secrets() {
		if s.Reference.Type == ref.Type && (ref.Usage == s.Reference.Usage || ref.UUID == s.Reference.UUID) {
			return s, true
		}
	}
	return Secret{}, false
}

// Cases returns a generator of cases.
func Cases() *rapid.Generator[Case] {
	return rapid.Custom(func(t *rapid.T) Case {
		m := &maker{draw: draw{t: t, wild: rapid.IntRange(0, 4).Draw(t, "wild") == 4}}
		domain := m.domain()
		return Case{Domain: domain, Disk: m.disk(), Wild: m.wild}
	})
}

// draw draws names, numbers and parts that do not depend on the rest of the case.
type draw struct {
	t    *rapid.T
	wild bool // settings need not fit the disk
	made int  // the number of names drawn, which makes them unique
}

// maker draws a case.
type maker struct {
	draw

	// Parts of the domain to which the disk can refer.
	q35      bool
	threads  []string
	groups   []string
	scsi     []string // models, by index; "" for none
	usb      int      // controllers
	usbPorts int      // the minimum
	ports    int      // PCI Express ports

	// Properties of the disk on which further settings depend.
	device, bus, kind, format string
	readOnly, shareable       bool
	encrypted, empty          bool
}

// one draws one of several words. "" means none.
func (m *draw) one(what string, words ...string) string {
	return rapid.SampledFrom(words).Draw(m.t, what)
}

// often is true in about half of all cases, seldom in one of n.
func (m *draw) often(what string) bool { return rapid.Bool().Draw(m.t, what) }

func (m *draw) seldom(n int, what string) bool {
	return rapid.IntRange(0, n-1).Draw(m.t, what) == n-1
}

// fits returns ok; in a wild case it sometimes returns true although ok is false.
func (m *draw) fits(ok bool, what string) bool {
	return ok || m.wild && m.seldom(12, what+" anyway")
}

func (m *draw) number(what string, least, most int) string {
	return strconv.Itoa(rapid.IntRange(least, most).Draw(m.t, what))
}

// name returns a name that is unique in the case.
func (m *draw) name(prefix string) string {
	m.made++
	return prefix + strconv.Itoa(m.made)
}

// attribute adds an attribute with one of several values to e if when is true.
func (m *draw) attribute(when bool, e *Element, name string, values ...string) {
	if when {
		e.set(name, m.only(name, values))
	}
}

// text and child add a child that holds text, or that has one attribute.
func (m *draw) text(when bool, e *Element, name string, values ...string) {
	if when {
		e.add(text(name, m.only(name, values)))
	}
}

func (m *draw) child(when bool, e *Element, name, attribute string, values ...string) {
	if when {
		e.add(element(name, attribute, m.only(name, values)))
	}
}

// only is like one, but draws nothing if there is a single value.
func (m *draw) only(what string, values []string) string {
	if len(values) == 1 {
		return values[0]
	}
	return m.one(what, values...)
}
