package blockgraph_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/secrets"
)

var busKinds = map[blockgraph.Bus]string{
	blockgraph.BusVirtio: "vd", blockgraph.BusSCSI: "sd", blockgraph.BusUSB: "sd",
	blockgraph.BusIDE: "hd", blockgraph.BusSATA: "sd", blockgraph.BusFDC: "fd",
}

// anyDisk draws a valid disk, as a program would fill one in.
func anyDisk(t *rapid.T) *blockgraph.Disk {
	word := func(name string, words ...string) string {
		return rapid.SampledFrom(append([]string{""}, words...)).Draw(t, name)
	}
	d := &blockgraph.Disk{
		Bus: rapid.SampledFrom([]blockgraph.Bus{blockgraph.BusVirtio, blockgraph.BusSCSI, blockgraph.BusUSB,
			blockgraph.BusIDE, blockgraph.BusSATA, blockgraph.BusFDC}).Draw(t, "bus"),
		Device:    blockgraph.DeviceDisk,
		ReadOnly:  rapid.Bool().Draw(t, "readonly"),
		Image:     anyImage(t, "payload"),
		BootOrder: rapid.UintRange(0, 9).Draw(t, "boot"),
		Driver: blockgraph.Driver{
			Cache: word("cache", "none", "writethrough", "writeback", "directsync", "unsafe"), IO: word("io", "threads", "io_uring"),
			Discard: word("discard", "unmap", "ignore"), DetectZeroes: word("zeroes", "off", "on", "unmap"),
			ErrorPolicy: word("werror", "stop", "report", "ignore", "enospace"), ReadErrorPolicy: word("rerror", "stop", "report", "ignore"),
		},
		Serial: rapid.StringMatching(`[A-Za-z0-9_.+ -]{0,30}`).Draw(t, "serial"),
	}
	d.Target = busKinds[d.Bus] + rapid.StringMatching(map[bool]string{true: "[a-b]", false: "[a-z]{1,3}"}[d.Bus == blockgraph.BusIDE || d.Bus == blockgraph.BusFDC]).Draw(t, "target")
	switch {
	case d.Bus == blockgraph.BusFDC:
		d.Device, d.Serial, d.BootOrder = blockgraph.DeviceFloppy, "", 0
		d.Driver.ErrorPolicy, d.Driver.ReadErrorPolicy = "", ""
	case d.Bus != blockgraph.BusVirtio && rapid.Bool().Draw(t, "cdrom"):
		d.Device, d.ReadOnly = blockgraph.DeviceCDROM, true
	case d.Bus == blockgraph.BusIDE || d.Bus == blockgraph.BusSATA:
		d.ReadOnly = false
	}
	if d.Bus == blockgraph.BusIDE || d.Bus == blockgraph.BusSCSI {
		d.WWN = rapid.Uint64().Draw(t, "wwn")
	}
	if rapid.Bool().Draw(t, "alias") {
		d.Alias = "ua-" + rapid.StringMatching(`[A-Za-z0-9_-]{1,20}`).Draw(t, "alias name")
	}
	anyTuning(t, d)
	if !d.Shareable && rapid.Bool().Draw(t, "encrypted") {
		d.Image.Encryption = &blockgraph.Encryption{Secrets: []secrets.Reference{anySecret(t)}}
		if rapid.Bool().Draw(t, "detached") {
			h := anyImage(t, "header")
			d.Image.Encryption.Header = &h
		}
	}
	return d
}

// anyTuning draws what the disk's bus has of settings.
func anyTuning(t *rapid.T, d *blockgraph.Disk) {
	toggle := func(name string) blockgraph.Switch {
		return rapid.SampledFrom([]blockgraph.Switch{"", blockgraph.On, blockgraph.Off}).Draw(t, name)
	}
	number := func(name string, most uint) uint { return rapid.UintRange(0, most).Draw(t, name) }
	text := func(name, pattern string) string { return rapid.StringMatching(pattern).Draw(t, name) }
	d.Shareable = d.Image.Format == blockgraph.FormatRaw && rapid.Bool().Draw(t, "shareable")
	d.Tuning.BlockIO = blockgraph.BlockIO{Logical: number("logical", 4096), Physical: number("physical", 4096), DiscardGranularity: number("granularity", 1<<20)}
	switch d.Bus {
	case blockgraph.BusVirtio:
		d.Model = rapid.SampledFrom([]blockgraph.Model{"", blockgraph.ModelVirtio, blockgraph.ModelNonTransitional}).Draw(t, "model")
		v := &d.Driver
		v.Queues, v.QueueSize = number("queues", 8), number("queue size", 1024)
		v.IOEventFD, v.EventIdx, v.IOMMU = toggle("ioeventfd"), toggle("event_idx"), toggle("iommu")
		v.ATS, v.Packed, v.PagePerVQ = toggle("ats"), toggle("packed"), toggle("page_per_vq")
	case blockgraph.BusSCSI:
		d.Tuning.Vendor, d.Tuning.Product = text("vendor", "[ -~]{0,8}"), text("product", "[ -~]{0,16}")
		if d.Device == blockgraph.DeviceDisk {
			d.Tuning.RotationRate, d.Tuning.Removable, d.Tuning.DPOFUA = number("rotation", 65535), toggle("removable"), toggle("dpofua")
		}
	case blockgraph.BusUSB:
		d.Tuning.Removable = toggle("removable")
	case blockgraph.BusIDE, blockgraph.BusSATA:
		d.Tuning.Product = text("model", "[ -~]{0,40}")
	}
	if rapid.Bool().Draw(t, "limited") {
		limit := func(name string) blockgraph.Limit {
			return blockgraph.Limit{PerSecond: rapid.Uint64Range(0, 1e15).Draw(t, name), Max: rapid.Uint64Range(0, 1e15).Draw(t, name+" burst"), MaxLength: rapid.Uint64Range(0, 99).Draw(t, name+" length")}
		}
		d.IOTune = &blockgraph.IOTune{Bytes: blockgraph.Limits{Total: limit("bytes")}, Requests: blockgraph.Limits{Read: limit("reads"), Write: limit("writes")}}
	}
}

func anyImage(t *rapid.T, what string) blockgraph.Image {
	return blockgraph.Image{
		Format: rapid.SampledFrom([]blockgraph.Format{blockgraph.FormatRaw, blockgraph.FormatQcow2}).Draw(t, what+" format"),
		Source: blockgraph.Source{
			Kind: rapid.SampledFrom([]blockgraph.SourceKind{blockgraph.SourceFile, blockgraph.SourceBlock}).Draw(t, what+" kind"),
			// The folder keeps header and payload apart.
			Path: "/" + what + "/" + rapid.StringMatching(`[^\x00]{1,20}`).Draw(t, what+" path"),
		},
		Terminated: rapid.Bool().Draw(t, what+" terminated"),
	}
}

func anySecret(t *rapid.T) secrets.Reference {
	r := secrets.Reference{Type: secrets.Passphrase}
	if rapid.Bool().Draw(t, "by usage") {
		r.Usage = rapid.StringMatching(`[^\x00]{1,20}`).Draw(t, "usage")
		return r
	}
	r.UUID = uuid.UUID(rapid.SliceOfN(rapid.ByteRange(1, 255), 16, 16).Draw(t, "uuid"))
	return r
}

func anyMachine(t *rapid.T) blockgraph.Machine {
	m := blockgraph.Machine{Type: rapid.SampledFrom([]string{"", "q35", "pc", "pc-q35-9.0", "pc-i440fx-9.0"}).Draw(t, "machine"), USB: rapid.Bool().Draw(t, "usb")}
	for i := range rapid.IntRange(0, 4).Draw(t, "ports") {
		m.Ports = append(m.Ports, blockgraph.Port{Bus: fmt.Sprintf("pci.%d", i), Taken: rapid.Bool().Draw(t, "taken")})
	}
	if rapid.Bool().Draw(t, "scsi") {
		m.SCSI = []blockgraph.SCSIController{{ID: "scsi0"}}
	}
	return m
}

// anyPlan draws a disk and a VM that has room for it.
func anyPlan(t *rapid.T) (*blockgraph.Disk, blockgraph.Machine, *blockgraph.Plan) {
	d, m := anyDisk(t), anyMachine(t)
	g, err := blockgraph.Build(d, m, blockgraph.Unlock{})
	var full *blockgraph.PlacementError
	var unsupported *blockgraph.UnsupportedError
	if errors.As(err, &full) || errors.As(err, &unsupported) && d.Bus == blockgraph.BusIDE {
		t.Skip("no room")
	}
	if err != nil {
		t.Fatalf("%v: %+v", err, d)
	}
	return d, m, g.Plan()
}

// everything renders a plan in every form.
func everything(t fataler, p *blockgraph.Plan) string {
	doc, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	args, err := p.Arguments(goldenSecret)
	if (err != nil) != (p.Graph.Throttling != nil || p.Graph.Overlay != nil) {
		t.Fatal(err)
	}
	return strings.Join([]string{p.Text(), string(doc), blockgraph.QuoteArguments(args), p.Graph.DOT(), p.Graph.Mermaid(), p.Graph.SVG()}, "\x00")
}

func TestPlanIsDeterministic(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d, m, p := anyPlan(t)
		again, err := blockgraph.Build(d, m, blockgraph.Unlock{})
		if err != nil {
			t.Fatal(err)
		}
		first := everything(t, p)
		if second := everything(t, again.Plan()); first != second {
			t.Fatalf("two plans of one disk differ:\n%s\n%s", first, second)
		}
		if third := everything(t, p); first != third {
			t.Fatal("printing a plan changed it")
		}
	})
}

// TestPlanOrder checks that each step finds what it needs, and that undoing the
// steps from the last to the first never takes away what is still in use.
func TestPlanOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d, _, p := anyPlan(t)
		g := p.Graph
		made := map[string]bool{}
		added, released := map[string]int{}, map[string]int{}
		need := func(step int, name string) {
			if name != "" && !made[name] {
				t.Fatalf("step %d needs %s, which is not there:\n%s", step+1, name, p.Text())
			}
		}
		for i, s := range p.Steps {
			o := s.Do.Arguments
			switch s.Kind {
			case blockgraph.StepObject:
				added[s.Subject]++
			case blockgraph.StepNode:
				node := g.Nodes[slices.IndexFunc(g.Nodes, func(n blockgraph.Node) bool { return n.Name == s.Subject })]
				for _, c := range node.Children {
					need(i, c.Name)
					if o.Text(c.Member) != c.Name {
						t.Fatalf("the child %s of %s is not its %s", c.Name, node.Name, c.Member)
					}
				}
				for _, member := range []string{"file", "header", "key-secret"} {
					need(i, o.Text(member))
				}
				if e, ok := o.Get("encrypt").(blockgraph.Object); ok {
					need(i, e.Text("key-secret"))
				}
			case blockgraph.StepDevice:
				need(i, o.Text("drive"))
				if bus, ours := strings.CutSuffix(o.Text("bus"), ".0"); ours && strings.HasPrefix(bus, "luksplug-") {
					need(i, bus)
				}
			case blockgraph.StepLimit:
				need(i, s.Subject)
				if i != len(p.Steps)-1 || s.Undo.Execute != "" {
					t.Fatalf("limits are set last, and not undone: %+v", s)
				}
				continue
			case blockgraph.StepRelease:
				released[s.Subject] = i
				need(i, s.Subject)
				delete(made, s.Subject)
				if s.Undo.Execute != "" || s.Do.Execute != "object-del" || o.Text("id") != s.Subject {
					t.Fatalf("an odd release: %+v", s)
				}
				continue
			}
			if made[s.Subject] {
				t.Fatalf("%s is made twice", s.Subject)
			}
			made[s.Subject] = true
			want := map[string][3]string{
				"object-add": {"object-del", "id", "id"}, "blockdev-add": {"blockdev-del", "node-name", "node-name"}, "device_add": {"device_del", "id", "id"},
			}[s.Do.Execute]
			if s.Undo.Execute != want[0] || s.Undo.Arguments.Text(want[1]) != s.Subject || o.Text(want[2]) != s.Subject {
				t.Fatalf("step %d is not undone by its inverse: %+v", i+1, s)
			}
		}
		checkSecrets(t, d, p, added, released)
	})
}

// checkSecrets: each secret is added once, next to the one node that reads it,
// and gone right after.
func checkSecrets(t *rapid.T, d *blockgraph.Disk, p *blockgraph.Plan, added, released map[string]int) {
	readers := map[string]int{}
	lastReader := map[string]int{}
	for i, s := range p.Steps {
		if s.Kind != blockgraph.StepNode {
			continue
		}
		for _, text := range []blockgraph.Object{s.Do.Arguments, encryptOf(s)} {
			if id := text.Text("key-secret"); id != "" {
				readers[id]++
				lastReader[id] = i
			}
		}
	}
	if want := len(d.Secrets()); len(added) != want || len(readers) != want || len(released) != want {
		t.Fatalf("%d secrets: %v added, %v read, %v released", want, added, readers, released)
	}
	for id := range added {
		if added[id] != 1 || readers[id] != 1 {
			t.Fatalf("%s is added %d times and read by %d nodes", id, added[id], readers[id])
		}
		if released[id] != lastReader[id]+1 {
			t.Fatalf("%s is read in step %d and released in step %d", id, lastReader[id]+1, released[id]+1)
		}
	}
	// What the guest reads is decrypted: the encryption is in the top node.
	if d.Image.Encryption != nil {
		top := p.Graph.Top()
		if top.Options.Text("key-secret") == "" && encryptOf(blockgraph.Step{Do: blockgraph.Command{Arguments: top.Options}}) == nil {
			t.Fatalf("the device is on %s, which decrypts nothing", top.Name)
		}
	}
}

func encryptOf(s blockgraph.Step) blockgraph.Object {
	o, _ := s.Do.Arguments.Get("encrypt").(blockgraph.Object)
	return o
}

func TestNamesAreOurs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d, _, p := anyPlan(t)
		for _, s := range p.Steps {
			if s.Subject == d.Alias && d.Alias != "" {
				continue
			}
			target, role, ok := blockgraph.ParseName(s.Subject)
			if !ok || target != d.Target || blockgraph.Name(target, role) != s.Subject {
				t.Fatalf("%q is read as %q, %q, %v", s.Subject, target, role, ok)
			}
			if len(s.Subject) > 31 || s.Subject != "luksplug-"+d.Target && !strings.HasPrefix(s.Subject, "luksplug-"+d.Target+"-") {
				t.Fatalf("an odd name: %q", s.Subject)
			}
		}
	})
}

func TestParseNameRefusesOthers(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "libvirt-1-format", "luksplug", "luksplug-", "luksplug--luks", "luksplug-vdb-", "luksplug-vd-luks",
		"luksplug-vdb1", "luksplug-VDB", "Luksplug-vdb", "luksplug-foo-luks", "#block123"} {
		if target, role, ok := blockgraph.ParseName(name); ok {
			t.Errorf("%q is read as %q, %q", name, target, role)
		}
	}
}

func TestRenderingsAreWellFormed(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d, _, p := anyPlan(t)
		doc, err := p.JSON()
		if err != nil {
			t.Fatal(err)
		}
		var read struct {
			Objects   []map[string]any
			Blockdevs []map[string]any
			Device    map[string]any
			Chardevs  []any
		}
		decoder := json.NewDecoder(bytes.NewReader(doc))
		if err := decoder.Decode(&read); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		if len(read.Objects) != len(d.Secrets()) || len(read.Blockdevs) != len(p.Graph.Nodes) || read.Device["drive"] != p.Graph.Top().Name || read.Chardevs == nil {
			t.Fatalf("the JSON is not the graph:\n%s", doc)
		}
		for _, o := range read.Objects {
			if o["data"] != blockgraph.Redacted {
				t.Fatalf("a secret's data are %v", o["data"])
			}
		}
		// Paths arrive byte for byte, whatever characters they hold.
		paths := []string{d.Image.Source.Path}
		if h := d.Header(); h != nil {
			paths = append(paths, h.Source.Path)
		}
		for _, path := range paths {
			if !slices.ContainsFunc(read.Blockdevs, func(n map[string]any) bool { return n["filename"] == path }) {
				t.Fatalf("%q is in no node:\n%s", path, doc)
			}
		}
		if lines := strings.Count(p.Text(), "\n"); lines != len(p.Steps)+1 {
			t.Fatalf("the text has %d lines for %d steps:\n%q", lines, len(p.Steps), p.Text())
		}
		checkXML(t, p.Graph.SVG())
	})
}
