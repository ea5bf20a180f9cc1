package libvirtvm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
	"github.com/luksplug/luksplug/hotplug/internal/recordtest"
	"github.com/luksplug/luksplug/internal/must"
)

// parsed returns a disk; inside is more of its XML.
func parsed(t *testing.T, target, bus, inside string) *Disk {
	t.Helper()
	d, err := ParseDisk(fmt.Appendf(nil, `<disk type='file'><source file='/img'><encryption format='luks'><secret type='passphrase' uuid='%s'/></encryption></source>
  <target dev='%s' bus='%s'/>%s</disk>`, recordtest.SecretUUID, target, bus, inside), Reading{})
	must.OK(t, err)
	return d
}

// prepared is the argument of Before.
var prepared = hotplug.Prepared{Method: blockgraph.MethodEphemeralHeader, Devices: []blockgraph.Object{{{Name: "driver", Value: "scsi-hd"}, {Name: "bus", Value: "scsi0.0"}}}}

func recorderOf(t *testing.T, m *memory, disk *Disk, options AttachOptions) *recorder {
	t.Helper()
	log, _ := test.NewNullLogger()
	r, err := newRecorder(m, disk, options, log)
	if err != nil || r == nil {
		t.Fatal(r, err)
	}
	return r
}

// TestRecorder: a disk is recorded before it is attached, and no longer when the
// attach has failed.
func TestRecorder(t *testing.T) {
	t.Parallel()
	for _, persistent := range []bool{false, true} {
		m := newMemory(t)
		r := recorderOf(t, m, parsed(t, "sda", "scsi", ""), AttachOptions{Persistent: persistent, Optional: persistent})
		kept, err := r.before(t.Context(), prepared)
		if err != nil {
			t.Fatal(kept, err)
		}
		live := m.recorded(t, Live, "sda")
		if live == nil || live.Start != blockgraph.MethodEphemeralHeader || len(live.Devices) != 1 || live.Optional != persistent {
			t.Errorf("recorded live: %+v", live)
		}
		if (m.recorded(t, Persistent, "sda") != nil) != persistent {
			t.Errorf("persistent %t: %+v", persistent, m.recorded(t, Persistent, "sda"))
		}
		h := &hotplug.AttachedDisk{Target: "sda", Device: "luksplug-sda", Kept: kept}
		if again := keptRecord(h); again == nil || again.XML != live.XML {
			t.Errorf("kept on the host: %+v", again)
		}
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		if err := r.undo(canceled); err != nil {
			t.Error(err)
		}
		if m.recorded(t, Live, "sda") != nil || m.recorded(t, Persistent, "sda") != nil {
			t.Error("still recorded after a failed attach")
		}
	}
}

// TestRecorderFails: if one description cannot be written, the other does not change.
func TestRecorderFails(t *testing.T) {
	t.Parallel()
	for _, broken := range []Scope{Live, Persistent} {
		m := newMemory(t)
		r := recorderOf(t, m, parsed(t, "sda", "scsi", ""), AttachOptions{Persistent: true})
		m.broken = broken
		if _, err := r.before(t.Context(), prepared); !errors.Is(err, errBroken) {
			t.Errorf("%s: %v", broken, err)
		}
		if m.recorded(t, Live, "sda") != nil || m.recorded(t, Persistent, "sda") != nil {
			t.Errorf("%s: recorded", broken)
		}
	}
}

// TestNotRecorded: what cannot be recorded is attached with a warning, and refused
// if it is to belong to the domain.
func TestNotRecorded(t *testing.T) {
	t.Parallel()
	cookie, err := ParseDisk([]byte(`<disk type='network'><source protocol='https' name='a'><host name='h'/><cookies><cookie name='a'>b</cookie></cookies></source><target dev='sda' bus='scsi'/></disk>`), Reading{})
	must.OK(t, err)
	for name, disk := range map[string]*Disk{"transient": parsed(t, "sda", "scsi", "<transient/>"), "cookies": cookie} {
		log, logged := test.NewNullLogger()
		r, err := newRecorder(newMemory(t), disk, AttachOptions{}, log)
		if err != nil || r != nil || len(logged.Entries) != 1 || logged.LastEntry().Level != logrus.WarnLevel {
			t.Errorf("%s: %v, %v, logged %v", name, r, err, logged.Entries)
		}
		_, err = newRecorder(newMemory(t), disk, AttachOptions{Persistent: true}, log)
		var unsupported *blockgraph.UnsupportedError
		if !errors.As(err, &unsupported) && !errors.Is(err, ErrSecretInXML) {
			t.Errorf("%s, persistent: %v", name, err)
		}
	}
}

// TestRecordedAgain: a disk that is attached already is recorded if it is not.
func TestRecordedAgain(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	disk := parsed(t, "sda", "scsi", "")
	kept, err := recorderOf(t, m, disk, AttachOptions{}).before(t.Context(), prepared)
	must.OK(t, err)
	again := func(h hotplug.AttachedDisk, options AttachOptions) bool {
		t.Helper()
		ok, err := recorderOf(t, m, disk, options).again(t.Context(), &h)
		must.OK(t, err)
		return ok
	}
	h := hotplug.AttachedDisk{Target: "sda", Device: "luksplug-sda"}
	if !again(h, AttachOptions{Persistent: true}) || len(m.recorded(t, Persistent, "sda").Devices) != 1 {
		t.Errorf("not made persistent: %+v", m.recorded(t, Persistent, "sda"))
	}
	must.OK(t, forget(t.Context(), m, Live, "sda"))
	if again(h, AttachOptions{}) {
		t.Error("recorded, although its devices are unknown")
	}
	h.Kept = kept
	if !again(h, AttachOptions{}) || m.recorded(t, Live, "sda") == nil {
		t.Error("not recorded from what this host has kept")
	}
}

// TestPersistentOff: a disk is added to a domain that is off, and removed.
func TestPersistentOff(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	ctx := t.Context()
	persistent := AttachOptions{Persistent: true}
	must.OK(t, recorderOf(t, m, parsed(t, "sda", "scsi", ""), persistent).define(ctx))
	if d := m.recorded(t, Persistent, "sda"); d == nil || len(d.Devices) == 0 || m.recorded(t, Live, "sda") != nil {
		t.Errorf("got %+v", d)
	}
	var refused *hotplug.PreflightError
	err := recorderOf(t, m, parsed(t, "sda", "scsi", ""), persistent).define(ctx)
	if !errors.As(err, &refused) || !errors.Is(err, ErrRecorded) {
		t.Errorf("a second time: %v", err)
	}
	err = recorderOf(t, m, parsed(t, "vdb", "virtio", ""), persistent).define(ctx)
	if !errors.As(err, &refused) || !errors.Is(err, ErrNoPort) {
		t.Errorf("without a port: %v", err)
	}
	var missing *hotplug.NotHeldError
	if _, err := detachOff(ctx, m, "sdb", DetachOptions{}); !errors.As(err, &missing) || fmt.Sprint(missing.Held) != "[sda]" {
		t.Errorf("a disk that does not belong to it: %v", err)
	}
	if _, err := detachOff(ctx, m, "sda", DetachOptions{}); err != nil || m.recorded(t, Persistent, "sda") != nil {
		t.Errorf("not removed: %v", err)
	}
}

// TestColdPlug: what belongs to a domain whose disks are plugged cold is among QEMU's
// arguments in its definition.
func TestColdPlug(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	ctx := t.Context()
	change, err := newChange(ctx, m, func(doc *domainxml.Document) (*domainxml.Document, error) {
		return enable(ctx, m, doc, EnableOptions{Ports: 2, ColdPlug: true})
	})
	if err != nil || change.Before == change.After || m.documents[Persistent].Arguments() != nil {
		t.Fatalf("%+v (%v)", change, err)
	}
	if err := change.Apply(ctx); err != nil || string(m.documents[Persistent].Text()) != change.After {
		t.Fatal(err)
	}
	must.OK(t, recorderOf(t, m, parsed(t, "vdb", "virtio", ""), AttachOptions{Persistent: true}).define(ctx))
	if got := domainxml.Targets(m.documents[Persistent].Arguments()); fmt.Sprint(got) != "[vdb]" {
		t.Errorf("among the arguments: %v", got)
	}
	var refused *hotplug.PreflightError
	if _, err := newChange(ctx, m, disable); !errors.As(err, &refused) || !errors.Is(err, ErrDisks) {
		t.Errorf("disabled with a disk: %v", err)
	}
	if _, err := detachOff(ctx, m, "vdb", DetachOptions{}); err != nil || domainxml.Targets(m.documents[Persistent].Arguments()) != nil {
		t.Errorf("still among the arguments: %v %q", err, m.documents[Persistent].Arguments())
	}
}

// TestOffDomain: the list and the repair of a domain that is off are about its definition.
func TestOffDomain(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	ctx := t.Context()
	log, logged := test.NewNullLogger()
	if r, err := repairOff(ctx, m, log); err != nil || !r.Off || len(r.Redefined) > 0 {
		t.Errorf("without a disk: %+v, %v", r, err)
	}
	change, err := newChange(ctx, m, func(doc *domainxml.Document) (*domainxml.Document, error) {
		return enable(ctx, m, doc, EnableOptions{Ports: 2, ColdPlug: true})
	})
	must.OK(t, err)
	must.OK(t, change.Apply(ctx))
	must.OK(t, recorderOf(t, m, parsed(t, "vdb", "virtio", "<readonly/>"), AttachOptions{Persistent: true}).define(ctx))
	r, err := m.read(ctx, Persistent)
	must.OK(t, err)
	want := State{Target: "vdb", Persistent: true, Off: true, Payload: "/img", ReadOnly: true, Encrypted: true}
	if l, err := listOff(ctx, m, r); err != nil || !l.Off || len(l.States) != 1 || l.States[0] != want || want.Difference() != "" {
		t.Errorf("list: %+v, %v", l, err)
	}
	// A client has removed the disk from QEMU's arguments, and given its target to another one.
	text := strings.Replace(string(m.documents[Persistent].Text()), "<devices>", "<devices><disk type='file' device='disk'><source file='/other'/><target dev='vdb' bus='virtio'/></disk>", 1)
	doc, err := domainxml.Parse([]byte(text))
	must.OK(t, err)
	full := doc.Arguments()
	m.documents[Persistent], err = doc.WithArguments(domainxml.Foreign(full))
	must.OK(t, err)
	if l, err := listOff(ctx, m, r); err != nil || !l.States[0].Twice || !strings.Contains(l.States[0].Difference(), "libvirt has another disk") {
		t.Errorf("list, of a target that libvirt has as well: %+v, %v", l, err)
	}
	if got, err := repairOff(ctx, m, log); err != nil || fmt.Sprint(got.Redefined) != "[vdb]" || fmt.Sprint(m.documents[Persistent].Arguments()) != fmt.Sprint(full) {
		t.Errorf("repaired: %+v, %v", got, err)
	}
	if got, err := repairOff(ctx, m, log); err != nil || len(got.Redefined) > 0 {
		t.Errorf("repaired again: %+v, %v", got, err)
	}
	// A record that does not verify is not acted on.
	must.OK(t, m.write(ctx, Persistent, record.Record{ColdPlug: true, Disks: r.Disks}))
	m.documents[Persistent], err = m.documents[Persistent].WithArguments(domainxml.Foreign(full))
	must.OK(t, err)
	if got, err := repairOff(ctx, m, log); err != nil || len(got.Redefined) > 0 || len(logged.Entries) != 1 {
		t.Errorf("with a record that does not verify: %+v, %v, logged %v", got, err, logged.Entries)
	}
}

// TestDetachedTarget: a text that is no target is an error, not a disk that is missing.
func TestDetachedTarget(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"/dev/vdb", "", "vdb1", "vdb-luks"} {
		var invalid *blockgraph.InvalidError
		if _, err := (&Domain{}).Detach(t.Context(), target, DetachOptions{IgnoreMissing: true}); !errors.As(err, &invalid) {
			t.Errorf("%q: %v", target, err)
		}
	}
}

// TestForgetDetached: the removal from the definition of a disk that is not attached is a change.
func TestForgetDetached(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	_, err := recorderOf(t, m, parsed(t, "sda", "scsi", ""), AttachOptions{Persistent: true}).before(t.Context(), prepared)
	must.OK(t, err)
	for _, want := range []int{1, 0} {
		out := &Detached{Detached: hotplug.Detached{Target: "sda"}}
		if err := forgetDetached(t.Context(), m, out, DetachOptions{Persistent: true}); err != nil || len(out.Removed) != want {
			t.Errorf("%+v, %v; want %d", out, err, want)
		}
	}
}

// TestStatesAndRepair: the live record is made to match the attached disks.
func TestStatesAndRepair(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	ctx := t.Context()
	var disks []*hotplug.AttachedDisk
	for _, target := range []string{"sda", "sdb", "sdc"} {
		kept, err := recorderOf(t, m, parsed(t, target, "scsi", ""), AttachOptions{Persistent: target == "sdc"}).before(ctx, prepared)
		must.OK(t, err)
		disks = append(disks, &hotplug.AttachedDisk{Target: target, Device: "luksplug-" + target, Kept: kept})
	}
	disks[1].Device = "" // a leftover
	for _, target := range []string{"sda", "sdc"} {
		must.OK(t, forget(ctx, m, Live, target))
	}
	disks[2].Kept = ""
	want := []State{{Target: "sda", Attached: true}, {Target: "sdb", Live: true, Payload: "/img", Encrypted: true},
		{Target: "sdc", Attached: true, Persistent: true, Payload: "/img", Encrypted: true}}
	if got, err := states(ctx, m, disks); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %+v (%v)", got, err)
	}
	log, logged := test.NewNullLogger()
	repaired := &Repaired{}
	if err := repaired.records(ctx, m, disks, log); err != nil || fmt.Sprint(repaired.Fixed) != fmt.Sprint(want[:2]) {
		t.Errorf("fixed %+v (%v)", repaired.Fixed, err)
	}
	if m.recorded(t, Live, "sda") == nil || m.recorded(t, Live, "sdb") != nil {
		t.Error("the live record is not what is attached")
	}
	if len(logged.Entries) != 1 || logged.LastEntry().Data["disk"] != "sdc" {
		t.Errorf("logged %v", logged.Entries)
	}
	for _, s := range want {
		if s.Difference() == "" {
			t.Errorf("%+v: no difference", s)
		}
	}
	if s := (State{Target: "sda", Attached: true, Live: true, Persistent: true}); s.Difference() != "" || fmt.Sprint(s.Recorded()) != "[live persistent]" {
		t.Errorf("%+v: %s, %v", s, s.Difference(), s.Recorded())
	}
}

// TestClear: no secret crosses a network in clear.
func TestClear(t *testing.T) {
	t.Parallel()
	plain, err := ParseDisk([]byte(`<disk type='file'><source file='/img'/><target dev='vdb'/></disk>`), Reading{})
	must.OK(t, err)
	secret := parsed(t, "vdb", "virtio", "")
	var refused *hotplug.PreflightError
	if err := CheckClear("qemu+tcp://192.0.2.1/system", secret.Disk); !errors.As(err, &refused) || !errors.Is(err, ErrClear) {
		t.Errorf("in clear: %v", err)
	}
	for uri, disk := range map[string]*Disk{"qemu+tcp://192.0.2.1/system": plain, "qemu+tls://192.0.2.1/system": secret, "qemu:///system": secret} {
		if err := CheckClear(uri, disk.Disk); err != nil {
			t.Errorf("%s: %v", uri, err)
		}
	}
	if err := CheckClear("qemu", secret.Disk); !errors.Is(err, ErrInvalidURI) {
		t.Errorf("no URI: %v", err)
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	r := Report{}
	r.Goodf("disk %s", "vdb")
	r.Uncheckedf("unknown")
	if !r.InOrder() {
		t.Error("not in order")
	}
	r.Badf("%v", errors.Join(errBroken, errBroken))
	if r.InOrder() || strings.Contains(r.Findings[2].Text, "\n") {
		t.Errorf("got %+v", r)
	}
}

// TestPoolsThatAreKnown: known pools are not looked up in libvirt.
func TestPoolsThatAreKnown(t *testing.T) {
	t.Parallel()
	disk, err := ParseDisk([]byte(`<disk type='volume'><source pool='p' volume='v'/><target dev='sda' bus='scsi'/></disk>`), Reading{})
	must.OK(t, err)
	pools := blockgraph.Pools{"p": {Name: "p", Type: "dir", Dir: "/pool"}}
	if pools, err = LookUpPools(t.Context(), "nothing", disk.Disk, pools); err != nil {
		t.Fatal(err)
	}
	located, err := disk.Locate(pools)
	if err != nil || located.Image.Source.Path != "/pool/v" {
		t.Errorf("got %+v (%v)", located, err)
	}
	r := recorderOf(t, newMemory(t), located, AttachOptions{})
	if len(r.disk.Pools) != 1 || !strings.Contains(r.disk.XML, "volume='v'") {
		t.Errorf("recorded %+v", r.disk)
	}
	if _, err := LookUpPools(t.Context(), "nothing", disk.Disk, nil); !errors.Is(err, ErrInvalidURI) {
		t.Errorf("got %v", err)
	}
}

// TestRecordStays: a record that cannot be removed after a failed attach is reported as
// left behind, in addition to what the attach itself has left.
func TestRecordStays(t *testing.T) {
	t.Parallel()
	for name, failed := range map[string]error{
		"refused":     &hotplug.PreflightError{Target: "sda", Cause: hotplug.ErrImageInUse, Reason: "the image is in use"},
		"rolled back": &hotplug.RolledBackError{Target: "sda", Err: errors.New("QEMU has refused it")},
		"left behind": &hotplug.LeftBehindError{Target: "sda", Left: []string{"node luksplug-sda-luks"}, Err: errors.New("QEMU has refused it")},
	} {
		m := newMemory(t)
		r := recorderOf(t, m, parsed(t, "sda", "scsi", ""), AttachOptions{})
		if err := r.undoAfter(t.Context(), failed); !errors.Is(err, failed) || err.Error() != failed.Error() {
			t.Errorf("%s, and nothing is recorded: %v", name, err)
		}
		_, err := r.before(t.Context(), prepared)
		must.OK(t, err)
		m.broken = Live
		err = r.undoAfter(t.Context(), failed)
		var left *hotplug.LeftBehindError
		if !errors.As(err, &left) || !errors.Is(err, errBroken) || left.Left[len(left.Left)-1] != "the record of disk sda in the domain's metadata" {
			t.Errorf("%s: got %v", name, err)
		}
		if was := (*hotplug.LeftBehindError)(nil); errors.As(failed, &was) && (left == nil || len(left.Left) != 1+len(was.Left)) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestNoSignatureForForeignRecords: no change signs what this host has not written. Such a
// record is refused with the cause that names the way on; a disk that is gone is removed
// from it, and it stays without a signature.
func TestNoSignatureForForeignRecords(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	other, _ := recordtest.Signer(t)
	for name, foreign := range map[string]func(record.Record) record.Record{
		"unsigned":      func(r record.Record) record.Record { r.MAC = ""; return r },
		"another key's": func(r record.Record) record.Record { return must.Get(other.Sign(r))(t) },
		"changed":       func(r record.Record) record.Record { r.User = "+0:+0"; return r },
	} {
		m := newMemory(t)
		for _, target := range []string{"sda", "sdb"} {
			_, err := recorderOf(t, m, parsed(t, target, "scsi", ""), AttachOptions{Persistent: true}).before(ctx, prepared)
			must.OK(t, err)
		}
		for _, scope := range []Scope{Live, Persistent} {
			must.OK(t, m.write(ctx, scope, foreign(must.Get(m.read(ctx, scope))(t))))
		}
		untouched := func(what string) {
			t.Helper()
			for _, scope := range []Scope{Live, Persistent} {
				r := must.Get(m.read(ctx, scope))(t)
				if err := m.sign.Verify(r); !errors.Is(err, ErrUnverified) {
					t.Errorf("%s, %s: the %s record verifies: %v", name, what, scope, err)
				}
			}
		}
		if _, err := recorderOf(t, m, parsed(t, "sdc", "scsi", ""), AttachOptions{Persistent: true}).before(ctx, prepared); !errors.Is(err, ErrUnverified) {
			t.Errorf("%s: another disk is recorded: %v", name, err)
		}
		untouched("an attach")
		if err := recorderOf(t, m, parsed(t, "sdc", "scsi", ""), AttachOptions{Persistent: true}).define(ctx); !errors.Is(err, ErrUnverified) {
			t.Errorf("%s: a disk is added to the definition: %v", name, err)
		}
		if _, err := newChange(ctx, m, func(doc *domainxml.Document) (*domainxml.Document, error) {
			return enable(ctx, m, doc, EnableOptions{Ports: 2, ColdPlug: true})
		}); !errors.Is(err, ErrUnverified) {
			t.Errorf("%s: enabled: %v", name, err)
		}
		// Its devices would be copied into the definition.
		h := &hotplug.AttachedDisk{Target: "sda", Device: "luksplug-sda"}
		if _, err := recorderOf(t, m, parsed(t, "sda", "scsi", ""), AttachOptions{Persistent: true}).again(ctx, h); !errors.Is(err, ErrUnverified) {
			t.Errorf("%s: attached again: %v", name, err)
		}
		untouched("the same disk again")
		must.OK(t, forget(ctx, m, Live, "sda"))
		if m.recorded(t, Live, "sda") != nil || m.recorded(t, Live, "sdb") == nil {
			t.Errorf("%s: the live record has %v", name, must.Get(m.read(ctx, Live))(t).Targets())
		}
		untouched("a detach")
		log, logged := test.NewNullLogger()
		repaired := &Repaired{}
		if err := repaired.records(ctx, m, nil, log); err != nil || m.recorded(t, Live, "sdb") != nil || len(logged.Entries) == 0 {
			t.Errorf("%s: repaired %+v (%v), logged %v", name, repaired, err, logged.Entries)
		}
	}
}

// TestUnsignedElsewhere: without the host's key a record is written without a signature,
// and every time that is noted.
func TestUnsignedElsewhere(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	here := m.sign
	_, err := recorderOf(t, m, parsed(t, "sda", "scsi", ""), AttachOptions{}).before(t.Context(), prepared)
	must.OK(t, err)
	must.OK(t, here.Verify(must.Get(m.read(t.Context(), Live))(t)))
	m.sign.Key = nil
	_, err = recorderOf(t, m, parsed(t, "sdb", "scsi", ""), AttachOptions{}).before(t.Context(), prepared)
	must.OK(t, err)
	r := must.Get(m.read(t.Context(), Live))(t)
	if err := here.Verify(r); !errors.Is(err, ErrUnsigned) || len(r.Disks) != 2 || len(m.noted) != 1 {
		t.Errorf("got %v of %v, noted %v", err, r.Targets(), m.noted)
	}
}

// TestKeysAreCompared: a destination with another key, or none, is reported.
func TestKeysAreCompared(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		here, there, want string
		good              bool
	}{{"a", "a", "the same key", true}, {"a", "b", "another key", false}, {"a", "", "no key", false}} {
		check := &migrateCheck{}
		check.RecordKey = c.here
		check.compareKeys(c.there)
		if len(check.Findings) != 1 || check.Findings[0].Good != c.good || !strings.Contains(check.Findings[0].Text, c.want) {
			t.Errorf("%q and %q: got %+v", c.here, c.there, check.Findings)
		}
	}
}

// TestRecoveryIsNotPersistent: a recovered disk is recorded as long as it is attached, and does
// not belong to the domain.
func TestRecoveryIsNotPersistent(t *testing.T) {
	t.Parallel()
	m := newMemory(t)
	disk := must.Get(ParseDisk(fmt.Appendf(nil, `<disk type='file'><source file='/img'><encryption format='luks'><secret type='passphrase' uuid='%s'/><header recover='read-only'><source file='/h'/></header></encryption></source>
  <target dev='sda' bus='scsi'/></disk>`, recordtest.SecretUUID), Reading{}))(t)
	must.Get(recorderOf(t, m, disk, AttachOptions{}).before(t.Context(), prepared))(t)
	live := m.recorded(t, Live, "sda")
	var s State
	if s.describe(*live); !s.ReadOnly || s.Recovery != blockgraph.RecoveryReadOnly {
		t.Errorf("recorded: %+v", s)
	}
	log, _ := test.NewNullLogger()
	var unsupported *blockgraph.UnsupportedError
	if _, err := newRecorder(m, disk, AttachOptions{Persistent: true}, log); !errors.As(err, &unsupported) || !strings.Contains(err.Error(), "restore the header") {
		t.Errorf("persistent: %v", err)
	}
}
