package libvirtvm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
	"github.com/luksplug/luksplug/hotplug/internal/recordtest"
	"github.com/luksplug/luksplug/internal/must"
)

const theirs = `<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:arg value='-foo'/></qemu:commandline>`

func TestEnableAndDisable(t *testing.T) {
	t.Parallel()
	ctx, m := context.Background(), newMemory(t)
	before := recordtest.Domain(t, "pc-q35-10.0", theirs)
	on, err := enable(ctx, m, before, EnableOptions{Ports: 3})
	must.OK(t, err)
	arguments := on.Arguments()
	if arguments[0] != "-foo" || domainxml.MonitorSocket(arguments) != domainxml.MonitorDir+"/"+recordtest.DomainUUID+"/qmp" || len(domainxml.Ports(arguments)) != 3 {
		t.Errorf("got %q", arguments)
	}
	again, err := enable(ctx, m, on, EnableOptions{Ports: 3})
	if err != nil || string(again.Text()) != string(on.Text()) {
		t.Errorf("again (%v): %s", err, again.Text())
	}
	fewer, err := enable(ctx, m, on, EnableOptions{Ports: 1, ColdPlug: true})
	if err != nil || len(domainxml.Ports(fewer.Arguments())) != 1 {
		t.Errorf("fewer (%v): %s", err, fewer.Text())
	}
	for name, doc := range map[string]*domainxml.Document{"enabled": on, "twice": fewer, "never": before} {
		off, err := disable(doc)
		if err != nil || !slices.Equal(off.Arguments(), []string{"-foo"}) || off.Metadata(record.Namespace) != nil {
			t.Errorf("%s: got %s (%v)", name, off.Text(), err)
		}
	}
}

func TestEnableOfOtherMachines(t *testing.T) {
	t.Parallel()
	for machine, want := range map[string]int{"pc-i440fx-10.0": 0, "q35": 2, "virt-9.2": 2, "pseries": 0} {
		on, err := enable(context.Background(), newMemory(t), recordtest.Domain(t, machine, ""), EnableOptions{Ports: 2})
		if err != nil || len(domainxml.Ports(on.Arguments())) != want || domainxml.MonitorSocket(on.Arguments()) == "" {
			t.Errorf("%s: got %v (%v)", machine, on.Arguments(), err)
		}
	}
}

// TestWithRecord: disks that are plugged cold are among the arguments, and follow
// the record.
func TestWithRecord(t *testing.T) {
	t.Parallel()
	ctx, m := context.Background(), newMemory(t)
	signed := func(r record.Record) record.Record {
		t.Helper()
		return must.Get(m.sign.Sign(r))(t)
	}
	on, err := enable(ctx, m, recordtest.Domain(t, "q35", theirs), EnableOptions{Ports: 2, ColdPlug: true})
	must.OK(t, err)
	r, err := record.FromDomain(on)
	if err != nil || !r.ColdPlug {
		t.Fatal(err, r)
	}
	with, err := withRecord(ctx, on, signed(r.With(recordtest.Disk(t, 1))))
	must.OK(t, err)
	text := strings.Join(with.Arguments(), "\n")
	for _, want := range []string{"-foo", `/` + recordtest.DomainUUID + `/vdb/luksplug-vdb-secret0"`, `"bus":"luksplug-port-1"`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	if got := domainxml.Targets(with.Arguments()); !slices.Equal(got, []string{"vdb"}) {
		t.Errorf("got %v", got)
	}
	if _, err := disable(with); !errors.Is(err, ErrDisks) {
		t.Errorf("disable with a disk: %v", err)
	}
	if _, err := enable(ctx, m, with, EnableOptions{Ports: 1, ColdPlug: true}); !errors.Is(err, ErrPorts) {
		t.Errorf("the port of a disk goes: %v", err)
	}
	if _, err := enable(ctx, m, with, EnableOptions{Ports: 9}); !errors.Is(err, ErrPorts) {
		t.Errorf("too many ports: %v", err)
	}
	hot, err := enable(ctx, m, with, EnableOptions{Ports: 2})
	if err != nil || domainxml.Targets(hot.Arguments()) != nil || hot.Metadata(record.Namespace) == nil {
		t.Errorf("no longer cold: %v %s", err, hot.Text())
	}
	optional := recordtest.Disk(t, 1)
	optional.Optional = true
	if hot, err = withRecord(ctx, on, signed(r.With(optional))); err != nil || domainxml.Targets(hot.Arguments()) != nil {
		t.Errorf("an optional one: %v %s", err, hot.Text())
	}
	without, err := withRecord(ctx, with, r)
	if err != nil || strings.Join(without.Arguments(), "\n") != strings.Join(on.Arguments(), "\n") {
		t.Errorf("removed again: %v %q", err, without.Arguments())
	}
}

// TestBootOrder: libvirt numbers its own devices from 1 on where the domain has a
// <boot>, and QEMU refuses a number that two devices have.
func TestBootOrder(t *testing.T) {
	for _, c := range []struct {
		boot  string
		order int
		want  string
	}{
		{"", 1, `"bootindex":1`}, {"", 2, `"bootindex":2`},
		{"<boot dev='hd'/>", 1, `"bootindex":0`}, {"<boot dev='hd'/>", 2, `"bootindex":1002`},
		{"<boot dev='hd'/>", 0, ""},
	} {
		text := strings.Replace(string(recordtest.Domain(t, "q35", "").Text()), "</os>", c.boot+"</os>", 1)
		doc, err := domainxml.Parse([]byte(text))
		must.OK(t, err)
		d := recordtest.Disk(t, 0)
		if c.order > 0 {
			d.Devices[0] = d.Devices[0].With("bootindex", c.order)
			d.XML = strings.Replace(d.XML, "</disk>", fmt.Sprintf("<boot order='%d'/></disk>", c.order), 1)
		}
		doc, err = withRecord(context.Background(), doc, record.Record{ColdPlug: true}.With(d))
		must.OK(t, err)
		arguments := strings.Join(doc.Arguments(), "\n")
		if !strings.Contains(arguments, c.want) || c.want == "" && strings.Contains(arguments, "bootindex") {
			t.Errorf("%s with order %d: %s, want %s", c.boot, c.order, arguments, c.want)
		}
		if r, err := record.FromDomain(doc); err != nil || c.order > 0 && !strings.Contains(r.Disks[0].Devices[0].String(), fmt.Sprintf(`"bootindex":%d`, c.order)) {
			t.Errorf("the record has %v, error %v", r, err)
		}
	}
}
