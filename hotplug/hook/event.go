package hook

import (
	"fmt"

	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
)

// Operation is what happens to the domain, in libvirt's word.
type Operation string

// The operations of libvirt's qemu hook that mean something here; others are
// ignored.
const (
	Prepare   Operation = "prepare"
	Started   Operation = "started"
	Stopped   Operation = "stopped"
	Release   Operation = "release"
	Restore   Operation = "restore"
	Migrate   Operation = "migrate"
	Reconnect Operation = "reconnect"
)

// MustSucceed reports whether a hook that fails at this operation costs the user
// the VM or its saved state: it has to exit with 0, whatever happens.
func (o Operation) MustSucceed() bool { return o == Restore || o == Reconnect }

// Event is one call of the hook.
type Event struct {
	Domain       string // its name
	Operation    Operation
	Suboperation string // begin, end
	Extra        string // for Release, why
	// XML is the domain's, as libvirt gives it on standard input.
	XML []byte
}

// Reasons of Release after which the domain's keys are not needed on this host.
const (
	ReasonMigrated  = "migrated"
	ReasonDestroyed = "destroyed"
	ReasonFailed    = "failed"
)

// Reasons returns libvirt's words for why a domain is gone: Extra of Release.
func Reasons() []string {
	return []string{"shutdown", ReasonDestroyed, "crashed", ReasonMigrated, "saved", "failed", "snapshot", "daemon"}
}

// domain is what the XML says.
type domain struct {
	doc    *domainxml.Document
	record record.Record
	uuid   string
	// targets are those of our disks among QEMU's arguments.
	targets []string
	// monitor is the socket of our own QMP monitor, "" for none.
	monitor string
}

// read takes the event's XML apart. A domain whose record cannot be read is
// returned with the error.
func (e Event) read() (*domain, error) {
	doc, err := domainxml.Parse(e.XML)
	if err != nil {
		return nil, fmt.Errorf("the XML of domain %s: %w", e.Domain, err)
	}
	d := &domain{doc: doc, uuid: doc.UUID()}
	arguments := doc.Arguments()
	d.targets, d.monitor = domainxml.Targets(arguments), MonitorSocket(arguments)
	d.record, err = record.FromDomain(doc)
	if err == nil && d.concerns() && d.uuid == "" {
		return nil, fmt.Errorf("the XML of domain %s has no <uuid>", e.Domain)
	}
	return d, err
}

// concerns reports whether there is anything of luksplug's in the domain.
func (d *domain) concerns() bool {
	return len(d.record.Disks) > 0 || len(d.targets) > 0 || d.monitor != ""
}

// UUID returns the UUID of the event's domain; "" where the XML does not say it.
func (e Event) UUID() string {
	doc, err := domainxml.Parse(e.XML)
	if err != nil {
		return ""
	}
	return doc.UUID()
}
