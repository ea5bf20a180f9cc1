package render_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
	"github.com/luksplug/luksplug/blockgraph/render"
	"github.com/luksplug/luksplug/internal/must"
)

// qemuImages are real images, made by qemu-img, with names that break incorrect
// quoting.
type qemuImages struct {
	passphrase            string // file with the passphrase
	raw, qcow2            string
	luks, qcow2LUKS       string
	header, headerInQcow2 string
	floppy                string
}

func makeImages(t *testing.T) qemuImages {
	t.Helper()
	for _, program := range []string{"qemu-system-x86_64", "qemu-img", "sh"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed", program)
		}
	}
	dir := filepath.Join(t.TempDir(), "it's \"nasty\" $HOME `id` \\ é,日本;&\n#")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	i := qemuImages{}
	for name, path := range map[string]*string{"passphrase": &i.passphrase, "raw": &i.raw, "qcow2": &i.qcow2, "luks": &i.luks,
		"qcow2-luks": &i.qcow2LUKS, "header": &i.header, "header.qcow2": &i.headerInQcow2, "floppy": &i.floppy} {
		*path = filepath.Join(dir, name)
	}
	if err := os.WriteFile(i.passphrase, []byte("correct horse"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "qemu-img", args...).CombinedOutput(); err != nil {
			t.Fatalf("qemu-img %q: %v\n%s", args, err, out)
		}
	}
	object := `{"qom-type":"secret","id":"s","file":` + string(mustJSON(t, i.passphrase)) + `}`
	run("create", "-q", "-f", "raw", i.raw, "8M")
	run("create", "-q", "-f", "raw", i.floppy, "1440K")
	run("create", "-q", "-f", "qcow2", i.qcow2, "8M")
	run("create", "-q", "--object", object, "-f", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", i.qcow2LUKS, "1M")
	// The header of an embedded volume also works as a detached one: the
	// payload then only begins later, at the end of the key slots.
	volume := must.Get(os.ReadFile(must.LUKS(t, "correct horse", 3<<20)))(t)
	must.Write(t, i.luks, volume)
	must.Write(t, i.header, volume[:len(volume)-1<<20])
	run("convert", "-q", "-f", "raw", "-O", "qcow2", i.header, i.headerInQcow2)
	return i
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestQEMUTakesArguments starts a real QEMU with the rendered arguments, read
// by a real shell, and queries its nodes and devices.
func TestQEMUTakesArguments(t *testing.T) {
	t.Parallel()
	images := makeImages(t)
	q35 := []string{"-machine", "q35", "-device", "pcie-root-port,id=pci.1,chassis=1", "-device", "qemu-xhci,addr=0x3"}
	pc := []string{"-machine", "pc"}
	q35Machine := blockgraph.Machine{Type: "q35", Ports: []blockgraph.Port{{Bus: "pci.1"}}, USB: true}
	pcMachine := blockgraph.Machine{Type: "pc", RootSlots: []uint{0, 1}}
	threads := func(m blockgraph.Machine) blockgraph.Machine {
		m.IOThreads = []uint{1, 2}
		return m
	}
	withThreads := func(options []string) []string {
		return append(options[:len(options):len(options)], "-object", "iothread,id=iothread1", "-object", "iothread,id=iothread2")
	}

	for _, c := range []struct {
		name, format, path, header, headerFormat, target, more string
		machine                                                blockgraph.Machine
		options                                                []string
	}{
		{"detached raw, virtio", "raw", images.raw, images.header, "raw", "dev='vdb'",
			"<serial>A b</serial><boot order='3'/><driver type='raw' cache='writethrough' io='threads' discard='unmap' detect_zeroes='unmap' error_policy='enospace' rerror_policy='report'/>", q35Machine, q35},
		{"detached qcow2, virtio on i440fx", "qcow2", images.qcow2, images.header, "raw", "dev='vdb'", "<backingStore/>", pcMachine, pc},
		{"qcow2 header, new scsi controller", "qcow2", images.qcow2, images.headerInQcow2, "qcow2", "dev='sdb'", "<wwn>5000c50015ea71ad</wwn><serial>1</serial>", q35Machine, q35},
		{"read-only detached, usb", "raw", images.raw, images.header, "raw", "dev='sdb' bus='usb'", "<readonly/><serial>1</serial><driver error_policy='stop'/>", q35Machine, q35},
		{"embedded, scsi", "raw", images.luks, "", "", "dev='sdb'", "<alias name='ua-data'/>",
			blockgraph.Machine{Type: "q35", SCSI: []blockgraph.SCSIController{{ID: "scsi0"}}}, append(q35[:4:4], "-device", "virtio-scsi-pci,id=scsi0,bus=pci.1")},
		{"embedded, sata", "raw", images.luks, "", "", "dev='sdb' bus='sata'", "<boot order='1'/><serial>1</serial>", q35Machine, q35},
		{"qcow2 with luks, ide", "qcow2", images.qcow2LUKS, "", "", "dev='hdb'", "<wwn>5000c50015ea71ad</wwn>", pcMachine, pc},
		{"plain, floppy", "raw", images.floppy, "", "", "dev='fda'", "<driver type='raw' cache='writeback'/><boot order='2'/>", pcMachine, pc},
		{"virtio, all options", "raw", images.floppy, "", "", "dev='vdb'", "<driver queues='2' queue_size='64' event_idx='off' ioeventfd='on' iommu='off' ats='off' packed='on' page_per_vq='on' iothread='1'/>" +
			"<blockio logical_block_size='512' physical_block_size='4096' discard_granularity='4096'/><geometry cyls='20' heads='16' secs='63'/><shareable/>", threads(q35Machine), withThreads(q35)},
		{"virtio, queues by thread", "raw", images.floppy, "", "", "dev='vdb'", "<driver queues='2'><iothreads><iothread id='2'><queue id='0'/></iothread><iothread id='1'><queue id='1'/></iothread></iothreads></driver>", threads(q35Machine), withThreads(q35)},
		{"scsi, with another vendor", "raw", images.floppy, "", "", "dev='sdb' rotation_rate='7200' removable='on' dpofua='on'", "<vendor>ACME</vendor><product>Disk 1</product><serial>a b</serial>", q35Machine, q35},
		{"scsi, the first of a domain", "raw", images.floppy, "", "", "dev='sdc'", "", blockgraph.Machine{Type: "pc", Domain: true}, pc},
		{"usb, removable", "raw", images.floppy, "", "", "dev='sdb' bus='usb' removable='on'", "", q35Machine, q35},
		{"ide, geometry", "raw", images.floppy, "", "", "dev='hda'", "<geometry cyls='20' heads='16' secs='63' trans='lba'/><product>Old disk</product>", pcMachine, pc},
	} {
		// One after the other: QEMU locks the images that they share.
		t.Run(c.name, func(t *testing.T) {
			d := blocktest.Parse(t, qemuDisk(c.format, c.path, c.header, c.headerFormat, c.target, c.more))
			g := blocktest.Build(t, d, c.machine, blockgraph.Unlock{})
			args, err := render.Arguments(g.Plan(), func(blockgraph.GraphObject) (string, error) { return images.passphrase, nil })
			if err != nil {
				t.Fatal(err)
			}
			script := "exec qemu-system-x86_64 -S -nodefaults -display none -m 64 -accel tcg -qmp stdio " +
				strings.Join(c.options, " ") + " " + render.QuoteArguments(args)
			nodes, devices := queryQEMU(t, script)
			for _, n := range g.Nodes {
				if !nodes[n.Name] {
					t.Errorf("QEMU has no node %s: it has %v", n.Name, nodes)
				}
			}
			for _, d := range g.Devices {
				if !devices[d.ID] {
					t.Errorf("QEMU has no device %s: it has %v", d.ID, devices)
				}
			}
		})
	}
}

func qemuDisk(format, path, header, headerFormat, target, more string) string {
	var encryption, device string
	if format != "raw" || strings.HasSuffix(path, "luks") || header != "" {
		encryption = "<secret type='passphrase' uuid='" + blocktest.AnyUUID + "'/>"
		if header != "" {
			encryption += "<header><format type='" + headerFormat + "'/><source file='" + xmlText(header) + "'/></header>"
		}
		encryption = "<encryption format='luks'>" + encryption + "</encryption>"
	}
	if strings.Contains(target, "fda") {
		device = " device='floppy'"
	}
	if !strings.Contains(more, "<driver") {
		more += "<driver type='" + format + "'/>"
	}
	return fmt.Sprintf("<disk%s><source file='%s'>%s</source><target %s/>%s</disk>", device, xmlText(path), encryption, target, more)
}

func xmlText(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder takes everything
	return b.String()
}

// queryQEMU runs the script, which starts a QEMU with QMP on its standard input
// and output, and returns its block nodes and devices.
func queryQEMU(t *testing.T, script string) (nodes, devices map[string]bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	cmd.Stdin = strings.NewReader(`{"execute":"qmp_capabilities"}{"execute":"query-named-block-nodes","arguments":{"flat":true}}` +
		`{"execute":"qom-list","arguments":{"path":"/machine/peripheral"}}{"execute":"quit"}`)
	cmd.WaitDelay = 30 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s\n%s\n%s", err, stderr.Bytes(), script, out)
	}
	if strings.Contains(stderr.String(), "rror") {
		t.Errorf("QEMU complains: %s", stderr.Bytes())
	}
	nodes, devices = map[string]bool{}, map[string]bool{}
	for decoder := json.NewDecoder(bytes.NewReader(out)); decoder.More(); {
		var reply struct {
			Return json.RawMessage
			Error  map[string]string
		}
		if err := decoder.Decode(&reply); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if reply.Error != nil {
			t.Fatalf("QEMU answers %v", reply.Error)
		}
		if !bytes.HasPrefix(bytes.TrimSpace(reply.Return), []byte("[")) {
			continue
		}
		var items []struct {
			Node string `json:"node-name"`
			Name string `json:"name"`
		}
		if err := json.Unmarshal(reply.Return, &items); err != nil {
			t.Fatal(err)
		}
		for _, item := range items {
			nodes[item.Node], devices[item.Name] = true, true
		}
	}
	return nodes, devices
}
