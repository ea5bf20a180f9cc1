package libvirtvm

import (
	"context"
	"errors"
	"testing"

	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
	"github.com/luksplug/luksplug/hotplug/internal/recordtest"
	"github.com/luksplug/luksplug/internal/must"
)

// memory are the descriptions of a domain in memory. broken is a scope that cannot be
// written.
type memory struct {
	documents map[Scope]*domainxml.Document
	broken    Scope
	sign      record.Signer
	noted     []record.Record // which were written without a signature
}

func newMemory(t *testing.T) *memory {
	t.Helper()
	doc := recordtest.Domain(t, "pc-q35-10.0", "<devices><controller type='scsi' index='0' model='virtio-scsi'/></devices>")
	s, _ := recordtest.Signer(t)
	return &memory{documents: map[Scope]*domainxml.Document{Live: doc, Persistent: doc}, sign: s}
}

func (m *memory) read(_ context.Context, scope Scope) (record.Record, error) {
	return record.FromDomain(m.documents[scope])
}

var errBroken = errors.New("the description cannot be written")

func (m *memory) write(_ context.Context, scope Scope, r record.Record) error {
	if scope == m.broken {
		return errBroken
	}
	var element []byte
	if !r.Empty() {
		text, err := r.XML()
		if err != nil {
			return err
		}
		element = []byte(text)
	}
	doc, err := m.documents[scope].WithMetadata(Namespace, element)
	if err == nil {
		m.documents[scope] = doc
	}
	return err
}

func (m *memory) definition(context.Context) (*domainxml.Document, error) {
	return m.documents[Persistent], nil
}

func (m *memory) define(_ context.Context, doc *domainxml.Document) error {
	if m.broken == Persistent {
		return errBroken
	}
	m.documents[Persistent] = doc
	return nil
}

func (m *memory) user(context.Context) (string, error) { return "+64055:+994", nil }

func (m *memory) signer() (record.Signer, error) { return m.sign, nil }

func (m *memory) unsigned(r record.Record) { m.noted = append(m.noted, r) }

// recorded returns the record of a disk in a scope, nil if there is none.
func (m *memory) recorded(t *testing.T, scope Scope, target string) *record.Disk {
	t.Helper()
	r, err := m.read(t.Context(), scope)
	must.OK(t, err)
	return r.Disk(target)
}
