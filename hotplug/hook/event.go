package hook

import (
	"errors"
	"fmt"

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

// Event is one call of the hook.
type Event struct {
	Domain       string // its name
	Operation    Operation
	Suboperation string // begin, end
	Extra        string // of Release: the reason
	XML          []byte // the domain's, from standard input
}

// Reasons of [Release] after which the domain's keys are not needed on this host.
const (
	ReasonMigrated  = "migrated"
	ReasonDestroyed = "destroyed"
	ReasonFailed    = "failed"
)

// Reasons returns libvirt's words for the end of a domain: Extra of [Release].
func Reasons() []string {
	return []string{"shutdown", ReasonDestroyed, "crashed", ReasonMigrated, "saved", ReasonFailed, "snapshot", "daemon"}
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
	uuid    string
	targets []string // of luksplug's disks among QEMU's arguments
	monitor string   // the socket of luksplug's QMP monitor, "" if there is none
}

// read parses the event's XML. If only the record cannot be read, it returns the domain
// and the error.
func (e Event) read() (*domain, error) {
	doc, err := domainxml.Parse(e.XML)
	if err != nil {
		return nil, fmt.Errorf("the XML of domain %s: %w", e.Domain, err)
	}
	d := &domain{doc: doc, uuid: doc.UUID()}
	arguments := doc.Arguments()
	d.targets, d.monitor = domainxml.Targets(arguments), domainxml.MonitorSocket(arguments)
	d.record, err = record.FromDomain(doc)
	if err == nil && d.concerns() && d.uuid == "" {
		return nil, fmt.Errorf("the XML of domain %s has no <uuid>", e.Domain)
	}
	return d, err
}

// concerns reports whether the domain has anything of luksplug's.
func (d *domain) concerns() bool {
	return len(d.record.Disks) > 0 || len(d.targets) > 0 || d.monitor != ""
}

// ErrNoUser reports that the user that the domain's QEMU is going to run as is unknown.
var ErrNoUser = errors.New("neither the domain's XML nor luksplug's record in it names the user that its QEMU runs as: attach the disk again with this luksplug, or add a <seclabel model='dac'> with the user")

// user returns the user that the domain's QEMU runs as: that of libvirt's label, which
// usually exists once QEMU runs, or else the recorded one.
func (d *domain) user() (*hostproc.Credential, error) {
	for _, label := range []string{d.doc.Label("dac"), d.record.User} {
		if label != "" {
			return domainxml.ParseUser(label)
		}
	}
	return nil, ErrNoUser
}

// UUID returns the UUID of the event's domain; "" if the XML has none.
func (e Event) UUID() string {
	doc, err := domainxml.Parse(e.XML)
	if err != nil {
		return ""
	}
	return doc.UUID()
}
