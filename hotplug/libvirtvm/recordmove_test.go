package libvirtvm

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sirupsen/logrus/hooks/test"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/coldstart"
	"github.com/luksplug/luksplug/hotplug/internal/record"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// moveXML is a disk with much that is the device's. %s is its source and format.
const moveXML = `<disk type='file' device='disk'><driver name='qemu' type='%s' cache='none' discard='unmap' queues='2'/>%s<target dev='vdb' bus='virtio'/><serial>one</serial><address type='pci' domain='0x0000' bus='0x05' slot='0x00' function='0x0'/></disk>`

// newSecret is the secret of a new volume.
const newSecret = "3e3fce45-4f53-4fa7-bb32-11f34168b82b"

// withVolume returns the document of the disk on another volume.
func withVolume(t *testing.T, xml, path, header string, format blockgraph.Format) []byte {
	t.Helper()
	v := diskxml.LocalVolume{Format: format, Payload: diskxml.LocalImage{Path: path}, Header: diskxml.LocalImage{Path: header}}
	v.Secret = secrets.Reference{Type: secrets.Passphrase, UUID: must.Get(secrets.ParseUUID(newSecret))(t)}
	return must.Get(diskxml.WithVolume([]byte(xml), v))(t)
}

// inDomain records the disk of a document in both scopes, as an attach does, and returns what the host keeps.
func inDomain(t *testing.T, m *memory, xml string, options AttachOptions) *hotplug.AttachedDisk {
	t.Helper()
	disk := must.Get(ParseDisk([]byte(xml), Reading{}))(t)
	method := blockgraph.MethodQEMU
	if disk.Encrypted() && options.Unlock != hotplug.UnlockQEMU {
		method = blockgraph.MethodEphemeralHeader
	}
	graph := must.Get(blockgraph.Build(disk.Disk, blockgraph.Machine{Type: "q35", PCI: true, Ports: []blockgraph.Port{{Bus: "pci.5"}}}, blockgraph.Unlock{Method: method}))(t)
	p := hotplug.Prepared{Method: method}
	for _, d := range graph.Devices {
		p.Devices = append(p.Devices, d.Options)
	}
	kept := must.Get(recorderOf(t, m, disk, options).before(t.Context(), p))(t)
	return &hotplug.AttachedDisk{Target: disk.Target, Instance: disk.Target, Device: "luksplug-" + disk.Target, Kept: kept}
}

const (
	plainSource = `<source file='/old.img'/>`
	luksSource  = `<source file='/old.img'><encryption format='luks'><secret type='passphrase' uuid='0a81f5b2-8403-4b23-88d6-21ccc2f80d6f'/></encryption></source>`
)

// TestMoveRecords: the records get the new volume, with the same device, and are afterwards as they were, wherever the move ended.
func TestMoveRecords(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		source       string
		from         blockgraph.Format
		path, header string
		format       blockgraph.Format
		start        blockgraph.Method
		drive        string
		options      AttachOptions
		coldPlug     bool
	}{
		"plain to LUKS":           {source: plainSource, from: "raw", path: "/new.img", format: "raw", start: "ephemeral", drive: "luksplug-vdb-luks"},
		"persistent":              {source: luksSource, from: "raw", path: "/new.img", format: "raw", start: "ephemeral", drive: "luksplug-vdb-luks", options: AttachOptions{Persistent: true, Optional: true}},
		"cold plug":               {source: luksSource, from: "raw", path: "/new.img", header: "/new.hdr", format: "raw", start: "ephemeral", drive: "luksplug-vdb-luks", options: AttachOptions{Persistent: true}, coldPlug: true},
		"qcow2 with LUKS":         {source: luksSource, from: "raw", path: "/new.qcow2", format: "qcow2", start: "qemu", drive: "luksplug-vdb-payload-format", options: AttachOptions{Persistent: true}},
		"qcow2 to a detached one": {source: luksSource, from: "qcow2", path: "/new.qcow2", header: "/h", format: "qcow2", start: "ephemeral", drive: "luksplug-vdb-luks"},
		"by QEMU":                 {source: luksSource, from: "raw", path: "/new.img", format: "raw", start: "qemu", drive: "luksplug-vdb-luks", options: AttachOptions{Persistent: true, AttachOptions: hotplug.AttachOptions{Unlock: hotplug.UnlockQEMU}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMemory(t)
			if c.coldPlug {
				must.OK(t, m.write(t.Context(), Persistent, must.Get(m.sign.Sign(record.Record{ColdPlug: true}))(t)))
			}
			xml := fmt.Sprintf(moveXML, c.from, c.source)
			at := inDomain(t, m, xml, c.options)
			texts := func() string { return string(m.documents[Live].Text()) + string(m.documents[Persistent].Text()) }
			before := texts()
			was := must.Get(recorded(t.Context(), m, "vdb", at))(t)
			if string(was.XML) != xml || was.Persistent != c.options.Persistent || was.Optional != c.options.Optional || len(was.Spec.Devices) != 1 {
				t.Errorf("recorded is %+v", was)
			}
			to := withVolume(t, xml, c.path, c.header, c.format)
			move := must.Get(moveRecords(t.Context(), m, at, was.XML, to))(t)
			if texts() != before {
				t.Error("the preparation has changed something")
			}
			for range 2 {
				must.OK(t, move.Move(t.Context()))
				for scope, there := range map[Scope]bool{Live: true, Persistent: c.options.Persistent} {
					got := m.recorded(t, scope, "vdb")
					if (got != nil) != there {
						t.Fatalf("%s: %+v", scope, got)
					}
					if got == nil {
						continue
					}
					disk := must.Get(got.Parsed())(t)
					if disk.Image.Source.Path != c.path || got.Start != c.start || got.Optional != c.options.Optional || got.Devices[0].Text("drive") != c.drive || got.Devices[0].Text("bus") != "pci.5" || got.Devices[0].Text("serial") != "one" {
						t.Errorf("%s: moved to %+v", scope, got)
					}
					r := must.Get(m.read(t.Context(), scope))(t)
					must.OK(t, m.sign.Verify(r))
					must.Get(coldstart.RecordedDisk(m.documents[scope], *got))(t)
				}
				if c.coldPlug && !strings.Contains(string(m.documents[Persistent].Text()), "/new.img") {
					t.Error("QEMU's arguments are of the old volume")
				}
			}
			if k := keptRecord(&hotplug.AttachedDisk{Target: "vdb", Kept: move.Kept()}); k == nil || k.Start != c.start || !sameVolume(*k, *m.recorded(t, Live, "vdb")) {
				t.Errorf("kept: %+v", k)
			}
			after := texts()
			for range 2 {
				must.OK(t, move.MoveBack(t.Context()))
				if texts() != before {
					t.Errorf("before %s\nafter  %s", before, texts())
				}
			}
			// A run that is killed after the first of two writes, and the next run.
			must.OK(t, move.put(t.Context(), Live, move.scopes[0].now))
			again := must.Get(moveRecords(t.Context(), m, at, was.XML, to))(t)
			must.OK(t, again.MoveBack(t.Context()))
			if texts() != before {
				t.Errorf("taken back by the next run: before %s\nafter  %s", before, texts())
			}
			must.OK(t, move.put(t.Context(), Live, move.scopes[0].now))
			must.OK(t, must.Get(moveRecords(t.Context(), m, at, was.XML, to))(t).Move(t.Context()))
			if texts() != after {
				t.Error("not completed by the next run")
			}
			// The VM is gone, and with it what this host has kept.
			last := must.Get(moveRecords(t.Context(), m, nil, was.XML, to))(t)
			if last.Kept() != move.Kept() {
				t.Errorf("kept then: %s", last.Kept())
			}
			must.OK(t, last.MoveBack(t.Context()))
			if texts() != before {
				t.Errorf("taken back without a VM: before %s\nafter  %s", before, texts())
			}
		})
	}
}

// TestMoveRecordsFails: a move that fails half-way is taken back.
func TestMoveRecordsFails(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	xml := fmt.Sprintf(moveXML, "raw", luksSource)
	at := inDomain(t, m, xml, AttachOptions{Persistent: true})
	before := string(m.documents[Live].Text()) + string(m.documents[Persistent].Text())
	move := must.Get(moveRecords(t.Context(), m, at, []byte(xml), withVolume(t, xml, "/new.img", "", "raw")))(t)
	m.broken = Persistent
	if err := move.Move(t.Context()); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
	if m.recorded(t, Live, "vdb").XML == xml || m.recorded(t, Persistent, "vdb").XML != xml {
		t.Error("the live record is not the first one")
	}
	m.broken = ""
	must.OK(t, move.MoveBack(t.Context()))
	if after := string(m.documents[Live].Text()) + string(m.documents[Persistent].Text()); after != before {
		t.Errorf("before %s\nafter  %s", before, after)
	}
}

// TestMoveRecordsRefused: what would change the guest's device, or another disk's record, is refused.
func TestMoveRecordsRefused(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	xml := fmt.Sprintf(moveXML, "raw", luksSource)
	at := inDomain(t, m, xml, AttachOptions{Persistent: true})
	to := string(withVolume(t, xml, "/new.img", "", "raw"))
	for name, c := range map[string]struct {
		from, to string
		want     error
		says     string
	}{
		"another serial":  {xml, strings.Replace(to, ">one<", ">two<", 1), ErrOtherDevice, "Serial"},
		"another address": {xml, strings.Replace(to, "bus='0x05'", "bus='0x06'", 1), ErrOtherDevice, "Address"},
		"another cache":   {xml, strings.Replace(to, "cache='none'", "cache='writethrough'", 1), ErrOtherDevice, "write-cache"},
		"read-only":       {xml, strings.Replace(to, "<target", "<readonly/><target", 1), ErrOtherDevice, "ReadOnly"},
		"queues":          {xml, strings.Replace(to, "queues='2'", "queues='3'", 1), ErrOtherDevice, "Driver"},
		"another target":  {xml, strings.Replace(to, "vdb", "vdc", 1), ErrOtherDevice, "Target"},
		"another volume":  {strings.Replace(xml, "/old.img", "/older.img", 1), to, ErrOtherVolume, ""},
	} {
		if _, err := moveRecords(t.Context(), m, at, []byte(c.from), []byte(c.to)); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A record that does not verify gets no signature.
	r := must.Get(m.read(t.Context(), Persistent))(t)
	r.User = "+0:+0"
	must.OK(t, m.write(t.Context(), Persistent, r))
	if _, err := moveRecords(t.Context(), m, at, []byte(xml), []byte(to)); !errors.Is(err, ErrUnverified) {
		t.Errorf("unverified: %v", err)
	}
	if _, err := recorded(t.Context(), newMemory(t), "vdb", nil); !errors.Is(err, ErrNoRecord) {
		t.Errorf("not recorded: %v", err)
	}
}

// TestMoveRecordsOfOneScope: a disk that belongs to the domain by another volume stays, and one that nothing records moves nothing.
func TestMoveRecordsOfOneScope(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	xml := fmt.Sprintf(moveXML, "raw", luksSource)
	other := strings.Replace(xml, "/old.img", "/other.img", 1)
	inDomain(t, m, other, AttachOptions{Persistent: true})
	at := inDomain(t, m, xml, AttachOptions{})
	to := withVolume(t, xml, "/new.img", "", "raw")
	if r := must.Get(recorded(t.Context(), m, "vdb", at))(t); r.Persistent || string(r.XML) != xml {
		t.Errorf("recorded is %+v", r)
	}
	must.OK(t, must.Get(moveRecords(t.Context(), m, at, []byte(xml), to))(t).Move(t.Context()))
	if !strings.Contains(m.recorded(t, Live, "vdb").XML, "/new.img") || m.recorded(t, Persistent, "vdb").XML != other {
		t.Error("the disk of the next start was moved")
	}

	// A disk that only this host knows has its new record kept; one without a record has none.
	empty := newMemory(t)
	known := must.Get(moveRecords(t.Context(), empty, at, []byte(xml), to))(t)
	if !strings.Contains(known.Kept(), "/new.img") {
		t.Errorf("kept: %q", known.Kept())
	}
	at.Kept = ""
	none := must.Get(moveRecords(t.Context(), empty, at, []byte(xml), to))(t)
	for _, move := range []*RecordMove{known, none} {
		must.OK(t, move.Move(t.Context()))
		must.OK(t, move.MoveBack(t.Context()))
	}
	if none.Kept() != "" || empty.recorded(t, Live, "vdb") != nil {
		t.Error("recorded by the move")
	}
}

// TestMovedStates: list and repair, in each state that a run can leave that was killed. A disk with the parts of its other instance
// is the recorded disk.
func TestMovedStates(t *testing.T) {
	t.Parallel()
	xml := fmt.Sprintf(moveXML, "raw", luksSource)
	to := withVolume(t, xml, "/new.img", "", "raw")
	for name, c := range map[string]struct {
		moved   int  // scopes
		copying bool // the VM has both volumes
		pivoted bool
		differs bool
	}{
		"copying":                       {0, true, false, false},
		"one scope moved":               {1, true, false, false},
		"moved":                         {2, true, false, false},
		"moved, switched":               {2, true, true, false},
		"ended":                         {2, false, true, false},
		"moved, and the copy has ended": {2, false, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMemory(t)
			old := inDomain(t, m, xml, AttachOptions{Persistent: true})
			before := string(m.documents[Live].Text()) + string(m.documents[Persistent].Text())
			move := must.Get(moveRecords(t.Context(), m, old, []byte(xml), to))(t)
			for _, s := range move.scopes[:c.moved] {
				must.OK(t, move.put(t.Context(), s.scope, s.now))
			}
			now := string(m.documents[Live].Text()) + string(m.documents[Persistent].Text())
			used, other := *old, hotplug.AttachedDisk{Target: "vdb", Instance: blockgraph.OtherInstance("vdb"), Kept: move.Kept()}
			if c.pivoted {
				other.Device = old.Device
				used, other = other, used
				other.Device = ""
			}
			if c.copying {
				used.Copy = &other
			}
			disks := []*hotplug.AttachedDisk{&used}
			all := must.Get(states(t.Context(), m, disks))(t)
			if len(all) != 1 || !all[0].Attached || !all[0].Live || !all[0].Persistent || all[0].OtherVolume != c.differs || (all[0].Difference() != "") != c.differs {
				t.Errorf("states %+v: %s", all, all[0].Difference())
			}
			log, _ := test.NewNullLogger()
			var r Repaired
			must.OK(t, r.records(t.Context(), m, disks, log))
			want := now
			if c.differs {
				want = before
			}
			if after := string(m.documents[Live].Text()) + string(m.documents[Persistent].Text()); after != want || len(r.Fixed) != len(all)-1 && !c.differs {
				t.Errorf("after the repair %s, want %s", after, want)
			}
			must.Get(recorded(t.Context(), m, "vdb", &used))(t)
		})
	}
}
