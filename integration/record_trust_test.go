package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// forger is a libvirt client that may edit one domain, on a host with files that are none of its business.
type forger struct {
	*hookHost
	domain     *peer.Domain
	definition string // with a signed record
	record     string // that record, as virsh metadata prints it
	precious   string // a directory of root's
	key        []byte
}

// newForger defines a domain with two disks, one of them among QEMU's arguments, whose QEMU runs as another user.
func newForger(ctx context.Context, t *testing.T) *forger {
	t.Helper()
	f := &forger{hookHost: newHookHost(t, qemuUser), precious: shortDir(t, "")}
	must.OK(t, errors.Join(os.Chmod(f.precious, 0o755), os.WriteFile(f.shadow(), []byte("root:secret"), 0o600),
		os.Mkdir(filepath.Join(f.precious, hookUUID), 0o700), os.WriteFile(filepath.Join(f.precious, hookUUID, "file"), nil, 0o600)))
	var disks []plugged
	for i, kind := range []peer.VolumeKind{peer.DetachedRaw, peer.EmbeddedLUKS} {
		v := userVolume(ctx, t, kind)
		must.OK(t, os.Chown(v.Payload, 64055, 64055))
		disks = append(disks, plugged{volume: v, target: []string{"vdb", "vdc"}[i], cold: i == 0})
	}
	f.domain = f.defineWith(ctx, t, peer.DomainOptions{}, disks...)
	f.definition = virsh(ctx, t, f.Libvirt, "dumpxml", "--inactive", "--security-info", f.domain.Name)
	f.record = metadata(ctx, f.Libvirt, f.domain.Name, "--config")
	f.key = must.Get(os.ReadFile(f.keyOfRecords()))(t)
	return f
}

func (f *forger) shadow() string { return filepath.Join(f.precious, "shadow") }

// snapshot lists the files, owners, modes and links of the host that the forger may not change, and what libvirt has
// logged of QEMU's starts and arguments.
func (f *forger) snapshot(ctx context.Context, t *testing.T) string {
	t.Helper()
	return f.shell(ctx, t, `mkdir -p -m 0700 /run/luksplug/lock; find "`+f.precious+`" "`+f.keys+`" /etc/luksplug /var/lib/luksplug /run/luksplug -path /run/luksplug/lock -prune -o -printf '%p %y %U:%G %m %s %l\n' | sort; `+
		`sha256sum "`+f.shadow()+`"; cat /var/log/libvirt/qemu/*.log 2>/dev/null | grep -Ev '^[0-9]{4}-' | sha256sum`)
}

// forgery is a change of a record, as virsh metadata prints it, or of another part of the definition.
type forgery struct {
	name     string
	old, new string // of the record's text
	// also is an old and a new text of the definition.
	also [2]string
	// release has an effect at the end of the domain, arrival where the domain arrives, for a luksplug that believes it.
	release, arrival bool
}

// forgeries changes every attribute and element of a record.
func (f *forger) forgeries(t *testing.T) []forgery {
	t.Helper()
	disks, first := "<disks ", `<disk target="vdb"`
	device := regexp.MustCompile(`<device>[^<]*</device>`).FindString(f.record)
	change := func(old, replacement string) string {
		t.Helper()
		out := strings.Replace(device, old, replacement, 1)
		if out == device {
			t.Fatalf("no %s in %s", old, device)
		}
		return out
	}
	owner := fmt.Sprintf(`<owner>{"path":%q,"uid":1000,"gid":1000}</owner>`, f.shadow())
	pool := fmt.Sprintf(`<pool>{"Name":"p","Type":"dir","Folder":%q,"Host":{},"Target":"","Auth":null,"Volumes":null}</pool>`, f.precious)
	monitor := hook.MonitorDir + "/" + hookUUID + "/qmp"
	all := []forgery{
		{name: "the user is root", old: `user="+0:+0"`, new: `user="+0:+1"`},
		{name: "the user is another one", old: `user="+0:+0"`, new: `user="+1000:+1000"`, release: true, arrival: true},
		{name: "no user", old: ` user="+0:+0"`, new: ""},
		{name: "cold-plug", old: disks, new: disks + `cold-plug="yes" `},
		{name: "another target", old: first, new: `<disk target="vdq"`},
		{name: "a target that is a path", old: first, new: `<disk target="../../etc"`, release: true, arrival: true},
		{name: "another start method", old: `start="ephemeral"`, new: `start="qemu"`},
		{name: "no start method", old: ` start="ephemeral"`, new: ""},
		{name: "optional", old: first, new: first + ` optional="yes"`, arrival: true},
		{name: "shared-header", old: first, new: first + ` shared-header="yes"`},
		{name: "relabel", old: first, new: first + ` relabel="yes"`, release: true, arrival: true},
		{name: "trust-image-chain", old: first, new: first + ` trust-image-chain="yes"`},
		{name: "guest-header", old: first, new: first + ` guest-header="yes"`},
		{name: "payload-signature", old: first, new: first + ` payload-signature="yes"`},
		{name: "unlock", old: first, new: first + ` unlock="qemu"`},
		{name: "max-stall", old: first, new: first + ` max-stall="1h"`},
		{name: "ignore-unknown", old: first, new: first + ` ignore-unknown="yes"`},
		{name: "tls-dir", old: first, new: first + ` tls-dir="` + f.precious + `"`, arrival: true},
		{name: "tls-secret", old: first, new: first + ` tls-secret="` + otherUUID + `"`},
		{name: "tls-psk", old: first, new: first + ` tls-psk="x"`},
		{name: "an image of root's", old: f.path(t, 0), new: f.shadow(), arrival: true},
		{name: "another secret", old: `<secret type="passphrase" uuid="`, new: `<secret type="passphrase" usage="x" uuid="`},
		{name: "another format", old: `<driver name="qemu" type="raw"/>`, new: `<driver name="qemu" type="qcow2"/>`},
		{name: "read-only", old: `<serial>serial-vdb</serial>`, new: `<serial>serial-vdb</serial><readonly/>`},
		{name: "another serial", old: `<serial>serial-vdb</serial>`, new: `<serial>serial-vdx</serial>`},
		{name: "another bus", old: `<target dev="vdb" bus="virtio"/>`, new: `<target dev="vdb" bus="scsi"/>`},
		{name: "another encryption", old: `<encryption format="luks">`, new: `<encryption format="qcow">`},
		{name: "vfio-pci", old: device, new: change("virtio-blk-pci", "vfio-pci"), arrival: true},
		{name: "a property of the device", old: device, new: change(`{"driver"`, `{"romfile":"`+f.shadow()+`","driver"`), arrival: true},
		{name: "another port", old: device, new: change("luksplug-port-0", "luksplug-port-1")},
		{name: "a bus with another option", old: device, new: change("luksplug-port-0", "a,romfile=/etc/shadow"), arrival: true},
		{name: "another node", old: device, new: change(`"drive":"luksplug-vdb-luks"`, `"drive":"libvirt-1-format"`)},
		{name: "no device", old: device, new: ""},
		{name: "a device more", old: device, new: device + change("virtio-blk-pci", "vfio-pci"), release: true, arrival: true},
		{name: "an owner", old: device, new: device + owner, release: true, arrival: true},
		{name: "a pool", old: device, new: device + pool},
		{name: "only one disk", old: f.second(t), new: ""},
		{name: "a disk twice", old: f.second(t), new: f.second(t) + strings.ReplaceAll(f.second(t), "vdc", "vdd"), arrival: true},
		{name: "a later version", old: disks, new: disks + `tomorrow="1" `, release: true, arrival: true},
		{name: "an unknown element", old: device, new: device + "<tomorrow/>"},
		{name: "damaged", old: device, new: "<device>}</device>", release: true, arrival: true},
		{name: "a monitor elsewhere", also: [2]string{monitor, filepath.Join(f.precious, hookUUID, "qmp")}},
		{name: "a monitor of another VM", also: [2]string{monitor, strings.Replace(monitor, hookUUID, otherUUID, 1)}},
	}
	return all
}

// path returns the payload of a disk, and second the element of the second disk.
func (f *forger) path(t *testing.T, n int) string {
	t.Helper()
	return regexp.MustCompile(`<source file="([^"]*)"`).FindAllStringSubmatch(f.record, -1)[n][1]
}

func (f *forger) second(t *testing.T) string {
	t.Helper()
	_, rest, ok := strings.Cut(f.record, `<disk target="vdc"`)
	inner, _, ok2 := strings.Cut(rest, "</disks>")
	if !ok || !ok2 {
		t.Fatalf("the record has no second disk: %s", f.record)
	}
	return `<disk target="vdc"` + strings.TrimRight(inner, " \n")
}

// The signatures of a forged record.
const (
	asSigned = "the signature of the true one"
	unsigned = "unsigned"
	wrongKey = "signed by another key"
)

// signaturesOf returns the signatures of the n-th case: one in turn, and all where there is time for them.
func signaturesOf(n int) []string {
	all := []string{unsigned, asSigned, wrongKey}
	if peer.IsLong() {
		return all
	}
	return all[n%len(all):][:1]
}

// forged returns the record with the change. One that cannot be signed, since it names what luksplug refuses, has the
// true record's signature by another key.
func (f *forger) forged(ctx context.Context, t *testing.T, c forgery, signature string) string {
	t.Helper()
	text := f.record
	if c.old != "" {
		text = strings.Replace(text, c.old, c.new, 1)
		if text == f.record {
			t.Fatalf("%s: no %s in %s", c.name, c.old, f.record)
		}
	}
	mac := regexp.MustCompile(` mac="[^"]*"`)
	switch signature {
	case asSigned:
		return text
	case unsigned:
		return mac.ReplaceAllString(text, "")
	}
	other := append([]byte("X"), f.key[1:]...)
	must.OK(t, os.WriteFile(f.keyOfRecords(), other, 0o600))
	defer func() { must.OK(t, os.WriteFile(f.keyOfRecords(), f.key, 0o600)) }()
	f.set(ctx, t, mac.ReplaceAllString(text, ""), "--config")
	if got := f.tool(ctx, t, f.domain, "repair", "--adopt", "--yes"); got.code == 0 {
		return metadata(ctx, f.Libvirt, f.domain.Name, "--config")
	}
	f.set(ctx, t, mac.ReplaceAllString(f.record, ""), "--config")
	f.adopt(ctx, t, f.domain)
	foreign := mac.FindString(metadata(ctx, f.Libvirt, f.domain.Name, "--config"))
	return mac.ReplaceAllString(text, foreign)
}

// set writes the record into the metadata, as any client may.
func (f *forger) set(ctx context.Context, t *testing.T, record string, scope ...string) {
	t.Helper()
	virsh(ctx, t, f.Libvirt, append([]string{"metadata", f.domain.Name, "--uri", libvirtvm.Namespace, "--key", "luksplug", "--set", record}, scope...)...)
}

// in returns a domain's XML with another record.
func (f *forger) in(t *testing.T, xml, record string, c forgery) string {
	t.Helper()
	element := regexp.MustCompile(`(?s)<luksplug:disks .*</luksplug:disks>`)
	if !element.MatchString(xml) {
		t.Fatalf("no record in %s", xml)
	}
	record = strings.Replace(record, "<disks", `<disks xmlns="`+libvirtvm.Namespace+`"`, 1)
	xml = element.ReplaceAllLiteralString(xml, record)
	if c.also[0] != "" {
		xml = edited(t, xml, c.also[0], c.also[1])
	}
	return xml
}

// wantRefused checks that an operation fails with one line of luksplug's and changes nothing.
func (f *forger) wantRefused(ctx context.Context, t *testing.T, name, before string, err error, advice bool) {
	t.Helper()
	_, said, ours := strings.Cut(fmt.Sprint(err), "luksplug: ")
	if err == nil || !ours || strings.Contains(strings.TrimSpace(said), "\n") || advice && !strings.Contains(said, "luksplug --domain VM repair --adopt") {
		t.Errorf("%s: got %v", name, err)
	}
	f.wantSame(ctx, t, name, before)
}

func (f *forger) wantSame(ctx context.Context, t *testing.T, name, before string) {
	t.Helper()
	if after := f.snapshot(ctx, t); after != before {
		t.Errorf("%s: the host was\n%s\nand is\n%s", name, before, after)
	}
}

// advises reports whether the refusal of the change names the way to adopt the record: the others have a reason of
// their own.
func (c forgery) advises() bool {
	return c.also[0] == "" && !strings.Contains(c.name, "later") && !strings.Contains(c.name, "unknown element") && c.name != "damaged" && c.name != "a target that is a path"
}

// TestForgedRecord changes every attribute and element of a record in turn, unsigned, with the signature of the true
// record and signed by another key, and takes the domain through start, restore and destroy: the host's files, owners
// and directories and the arguments of QEMU are as before. Only the long test has every change with every signature at
// every operation.
func TestForgedRecord(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	f := newForger(ctx, t)
	cases := 0

	before := f.snapshot(ctx, t)
	all := f.forgeries(t)
	type one struct {
		forgery
		signature, record string
	}
	var made []one
	for i, c := range all {
		for _, signature := range signaturesOf(i) {
			made = append(made, one{c, signature, f.forged(ctx, t, c, signature)})
		}
	}
	f.wantSame(ctx, t, "adopting with another key", before)
	for _, c := range made {
		cases++
		virsh(ctx, t, f.Libvirt, "define", writeFile(t, "domain.xml", f.in(t, f.definition, c.record, c.forgery)))
		_, err := f.Virsh(ctx, "start", "--paused", f.domain.Name)
		f.wantRefused(ctx, t, c.name+", "+c.signature+", start", before, err, c.advises())
	}

	// The true record still works, and its state is saved.
	virsh(ctx, t, f.Libvirt, "define", writeFile(t, "domain.xml", f.definition))
	virsh(ctx, t, f.Libvirt, "start", "--paused", f.domain.Name)
	virsh(ctx, t, f.Libvirt, "managedsave", f.domain.Name, "--paused")
	saved := virsh(ctx, t, f.Libvirt, "managedsave-dumpxml", "--security-info", f.domain.Name)
	before = f.snapshot(ctx, t)
	for i, c := range made {
		if !c.release && !c.arrival && i%3 != 0 && !peer.IsLong() {
			continue
		}
		cases++
		virsh(ctx, t, f.Libvirt, "managedsave-define", f.domain.Name, writeFile(t, "saved.xml", f.in(t, saved, c.record, c.forgery)))
		_, err := f.Virsh(ctx, "start", "--paused", f.domain.Name)
		f.wantRefused(ctx, t, c.name+", "+c.signature+", restore", before, err, c.advises())
	}
	virsh(ctx, t, f.Libvirt, "managedsave-define", f.domain.Name, writeFile(t, "saved.xml", saved))
	virsh(ctx, t, f.Libvirt, "start", "--paused", f.domain.Name)
	virsh(ctx, t, f.Libvirt, "destroy", f.domain.Name)
	clean := f.snapshot(ctx, t)

	for _, c := range made {
		if !c.release && !peer.IsLong() {
			continue
		}
		cases++
		name := c.name + ", " + c.signature + ", destroy"
		virsh(ctx, t, f.Libvirt, "start", "--paused", f.domain.Name)
		f.set(ctx, t, c.record, "--live")
		virsh(ctx, t, f.Libvirt, "destroy", f.domain.Name)
		f.wantOnlyLog(ctx, t, name, clean)
	}
	if !strings.Contains(f.logged(t), "nothing is done on its word") {
		t.Error("the log does not report that records were ignored")
	}
	if cases < 60 {
		t.Errorf("%d cases, want at least 60", cases)
	}
	t.Logf("%d cases", cases)
}

// wantOnlyLog is wantSame for an operation for which QEMU was started.
func (f *forger) wantOnlyLog(ctx context.Context, t *testing.T, name, before string) {
	t.Helper()
	cut := func(s string) string { return s[:strings.LastIndex(s, "\n")] }
	if after := f.snapshot(ctx, t); cut(after) != cut(before) {
		t.Errorf("%s: the host was\n%s\nand is\n%s", name, before, after)
	}
}

// TestForgedRecordMigrates takes such records to another host: nothing arrives, and neither host is changed.
func TestForgedRecordMigrates(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	f := newForger(ctx, t)
	to := &forger{hookHost: newHookHost(t, qemuUser), precious: f.precious}
	f.shareKey(t, to.hookHost)
	for _, file := range must.Get(os.ReadDir(f.keys))(t) {
		must.OK(t, os.WriteFile(filepath.Join(to.keys, file.Name()), must.Get(os.ReadFile(filepath.Join(f.keys, file.Name())))(t), 0o600))
	}
	must.Get(to.Receive(f.domain))(t)
	sockets := shortDir(t, "")
	must.OK(t, os.Chmod(sockets, 0o777)) // QEMU makes its socket there
	migrate := func() error {
		_, err := f.Virsh(ctx, "migrate", "--live", "--unsafe", "--migrateuri", "unix://"+filepath.Join(sockets, "migration"), f.domain.Name, to.URI)
		return err
	}
	var records []string
	var all []forgery
	for _, c := range f.forgeries(t) {
		if !c.arrival && !peer.IsLong() || c.also[0] != "" { // the latter is no change of the record
			continue
		}
		for _, signature := range signaturesOf(len(all)) {
			all = append(all, c)
			records = append(records, f.forged(ctx, t, c, signature))
		}
	}
	virsh(ctx, t, f.Libvirt, "define", writeFile(t, "domain.xml", f.definition))
	virsh(ctx, t, f.Libvirt, "start", "--paused", f.domain.Name)
	here, there := f.snapshot(ctx, t), to.snapshot(ctx, t)
	for i, c := range all {
		f.set(ctx, t, records[i], "--live")
		err := migrate()
		if state := virsh(ctx, t, f.Libvirt, "domstate", f.domain.Name); state != "paused" {
			t.Fatalf("%s: the domain is %s", c.name, state)
		}
		f.wantOnlyLog(ctx, t, c.name+", at the source", here)
		to.wantRefused(ctx, t, c.name+", migrate", there, err, c.advises())
	}
	f.set(ctx, t, f.record, "--live")
	must.OK(t, os.WriteFile(to.keyOfRecords(), append([]byte("X"), f.key[1:]...), 0o600))
	there = to.snapshot(ctx, t)
	to.wantRefused(ctx, t, "the destination has another key", there, migrate(), true)
	f.shareKey(t, to.hookHost)
	must.OK(t, migrate())
	virsh(ctx, t, to.Libvirt, "destroy", f.domain.Name)
	t.Logf("%d cases", len(all)+1)
}

// TestAdopt: a record that is not signed, of the definition or of a managed save, is shown and signed by repair
// --adopt, and the domain starts with it.
func TestAdopt(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	f := newForger(ctx, t)
	adopt := func(args ...string) result {
		return f.tool(ctx, t, f.domain, append([]string{"repair", "--adopt"}, args...)...)
	}
	adopt("--yes").want(t, 0).wantStdout(t, "nothing to sign")
	plain := regexp.MustCompile(` mac="[^"]*"`).ReplaceAllString(f.record, "")
	f.set(ctx, t, plain, "--config")
	shown := adopt().want(t, 2)
	for _, want := range []string{"it is not signed", "disk vdb", f.path(t, 0), `"driver":"virtio-blk-pci"`, "start=ephemeral", "secret"} {
		if !strings.Contains(shown.stdout, want) {
			t.Errorf("it does not show %s: %s", want, shown.stdout)
		}
	}
	if _, err := f.Virsh(ctx, "start", "--paused", f.domain.Name); err == nil {
		t.Error("the domain starts, and its record was not confirmed")
	}
	json := f.tool(ctx, t, f.domain, "--output", "json", "repair", "--adopt", "--yes").want(t, 0)
	for _, want := range []string{`"signed": true`, `"where": "persistent"`, `"target": "vdb"`} {
		if !strings.Contains(json.stdout, want) {
			t.Errorf("no %s in %s", want, json.stdout)
		}
	}
	virsh(ctx, t, f.Libvirt, "start", "--paused", f.domain.Name)
	if got := f.tool(ctx, t, f.domain, "list").want(t, 0); strings.Count(got.stdout, "attached") != 2 {
		t.Errorf("list shows %s", got.stdout)
	}

	// Of a running domain, both records are signed; of a saved one, that of its state.
	f.set(ctx, t, plain, "--config", "--live")
	f.tool(ctx, t, f.domain, "list").want(t, 0).wantStderr(t, "live: luksplug's record", "persistent: luksplug's record", "repair --adopt")
	f.tool(ctx, t, f.domain, "repair").want(t, 0).wantStderr(t, "is not verified", "repair --adopt")
	adopt("--yes").want(t, 0)
	f.set(ctx, t, plain, "--live")
	virsh(ctx, t, f.Libvirt, "managedsave", f.domain.Name, "--paused")
	if _, err := f.Virsh(ctx, "start", "--paused", f.domain.Name); err == nil || !strings.Contains(err.Error(), "repair --adopt") {
		t.Errorf("restored with an unsigned record: %v", err)
	}
	adopt("--yes").want(t, 0).wantStdout(t, "saved record: luksplug's record")
	virsh(ctx, t, f.Libvirt, "start", "--paused", f.domain.Name)
	virsh(ctx, t, f.Libvirt, "destroy", f.domain.Name)
	f.wantClean(ctx, t)

	// What luksplug would not do itself is refused by name, and not signed.
	f.set(ctx, t, strings.Replace(plain, "virtio-blk-pci", "vfio-pci", 1), "--config")
	adopt("--yes").want(t, 5).wantStderr(t, `"vfio-pci"`)
	f.tool(ctx, t, f.domain, "repair", "--yes").want(t, 2)
}
