package hook

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
	"github.com/luksplug/luksplug/internal/hostproc"
)

// Operation is what happens to the domain, in libvirt's word.
type Operation string

// The operations of libvirt's qemu hook that luksplug acts on. It ignores others.
const (
	Prepare   Operation = "prepare"
	Start     Operation = "start"
	Started   Operation = "started"
	Stopped   Operation = "stopped"
	Release   Operation = "release"
	Restore   Operation = "restore"
	Migrate   Operation = "migrate"
	Reconnect Operation = "reconnect"
)

// MustSucceed reports whether a failure of the hook at this operation costs the user the
// VM or its saved state: the hook has to exit with 0 then.
func (o Operation) MustSucceed() bool { return o == Restore || o == Reconnect }

// acted reports whether luksplug does anything at the operation.
func (o Operation) acted() bool {
	return slices.Contains([]Operation{Prepare, Start, Started, Restore, Migrate, Reconnect}, o)
}

// Event is one call of the hook.
type Event struct {
	Domain       string // its name
	Operation    Operation
	Suboperation string // begin, end
	Extra        string // of Release: the reason
	XML          []byte // the domain's, from standard input
}

// Reasons of [Release].
const (
	ReasonMigrated  = "migrated"
	ReasonDestroyed = "destroyed"
	ReasonFailed    = "failed"
	ReasonSaved     = "saved"
)

// Reasons returns libvirt's words for the end of a domain: Extra of [Release].
func Reasons() []string {
	return []string{"shutdown", ReasonDestroyed, "crashed", ReasonMigrated, ReasonSaved, ReasonFailed, "snapshot", "daemon"}
}

// MonitorDir is the parent of the directories in which QEMU creates the sockets of
// luksplug's monitors.
const MonitorDir = domainxml.MonitorDir

// Arguments returns the QEMU arguments that a domain needs for the hook: a monitor, and
// root ports for luksplug's disks.
func Arguments(uuid string, ports int) []string {
	return append(domainxml.MonitorArguments(MonitorDir, uuid), domainxml.PortArguments(ports)...)
}

// domain is the content of the event's XML.
type domain struct {
	doc     *domainxml.Document
	record  record.Record
	uuid    string   // in canonical form; "" if the XML has no valid one
	targets []string // of luksplug's disks among QEMU's arguments
	monitor string   // the socket of luksplug's QMP monitor as the XML has it, "" if there is none
}

// read parses the event's XML. If only the record cannot be read, it returns the domain
// and the error.
func (e Event) read() (*domain, error) {
	doc, err := domainxml.Parse(e.XML)
	if err != nil && !bytes.Contains(e.XML, []byte("luksplug")) {
		return &domain{}, nil // nothing of luksplug's can be in it
	}
	if err != nil {
		return nil, fmt.Errorf("the XML of domain %s: %w", e.Domain, err)
	}
	d := &domain{doc: doc, uuid: doc.CanonicalUUID()}
	arguments := doc.Arguments()
	d.targets, d.monitor = domainxml.Targets(arguments), domainxml.MonitorSocket(arguments)
	d.record, err = record.FromDomain(doc)
	if err == nil && d.concerns() && d.uuid == "" {
		return nil, fmt.Errorf("the XML of domain %s has no valid <uuid>", e.Domain)
	}
	return d, err
}

// Concerns reports whether the domain has anything of luksplug's. It returns true if the
// XML cannot be read and may have.
func (e Event) Concerns() bool {
	d, err := e.read()
	return err != nil || d.concerns()
}

// HasDisks reports whether the domain has disks of luksplug's, without which it can start
// whatever the configuration is. It returns true if the XML cannot be read and may have.
func (e Event) HasDisks() bool {
	d, err := e.read()
	return err != nil || d.hasDisks()
}

// concerns reports whether the domain has anything of luksplug's.
func (d *domain) concerns() bool { return d.hasDisks() || d.monitor != "" }

// hasDisks reports whether the domain has disks of luksplug's.
func (d *domain) hasDisks() bool { return len(d.record.Disks) > 0 || len(d.targets) > 0 }

// KeyPath returns the path of the key by which the records of domains are signed.
func KeyPath() (string, error) { return record.DefaultKey() }

// MakeKey makes the key at path if it is absent, and returns its fingerprint.
func MakeKey(path string) (fingerprint string, made bool, err error) {
	key, made, err := record.MakeKey(path)
	if err != nil {
		return "", false, err
	}
	return key.Fingerprint(), made, nil
}

// CheckKey returns the fingerprint of the key at path, by which hosts are compared. The
// error wraps [ErrUnverified] if there is none, or it cannot be trusted.
func CheckKey(path string) (fingerprint string, err error) {
	key, err := record.LoadKey(path)
	if err != nil {
		return "", err
	}
	return key.Fingerprint(), nil
}

// verify returns nil if the domain has no disks of luksplug's, or its record of them was
// signed with this host's key. Other errors wrap [ErrUnverified].
func (c call) verify() error {
	if !c.hasDisks() {
		return nil
	}
	path := c.RecordKey
	if path == "" {
		var err error
		if path, err = record.DefaultKey(); err != nil {
			return err
		}
	}
	key, err := record.LoadKey(path)
	if err != nil {
		return err
	}
	return record.Signer{Key: key, UUID: c.uuid}.Verify(c.record)
}

// ErrUnverified reports that a domain's record of its disks was not signed with this host's
// key: the domain does not start until root has adopted the record, by Domain.Adopt of
// package libvirtvm.
var ErrUnverified = record.ErrUnverified

// ErrUser reports that the user of the domain's QEMU is one that its definition names, and
// neither libvirt nor a signed record confirms it.
var ErrUser = errors.New("the definition names the user of its QEMU (<seclabel type='static' model='dac'>), and luksplug's record does not: attach a disk again with this luksplug, or remove the <seclabel>")

// user returns the user that the domain's QEMU is going to run as: that of the label that
// libvirt has generated, or else that of this host's configuration. A label that the
// definition names counts if the record, which must be verified, names the same user.
func (c call) user() (*hostproc.Credential, error) {
	if label := c.doc.GeneratedLabel("dac"); label != "" {
		return domainxml.ParseUser(label)
	}
	if label := c.doc.Label("dac"); label != "" {
		named, err := domainxml.ParseUser(label)
		if err != nil {
			return nil, err
		}
		if !c.hasDisks() {
			return named, nil // who gets an empty directory for the monitor, and nothing else
		}
		if recorded, err := domainxml.ParseUser(c.record.User); err != nil || recorded.UID != named.UID || recorded.GID != named.GID {
			return nil, ErrUser
		}
		return named, nil
	}
	return c.QEMUUser.Find()
}

// UUID returns the UUID of the event's domain, in canonical form; "" if the XML has no valid
// one.
func (e Event) UUID() string {
	doc, err := domainxml.Parse(e.XML)
	if err != nil {
		return ""
	}
	return doc.CanonicalUUID()
}
