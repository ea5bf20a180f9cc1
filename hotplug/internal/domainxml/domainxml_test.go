package domainxml_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/internal/must"
)

const domain = `<?xml version="1.0"?>
<!-- kept -->
<domain type='qemu' id='7' xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>vm&amp;1</name>
  <uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid>
  <metadata>
    <app:x xmlns:app='urn:app'>one</app:x>
    <our:disks xmlns:our="urn:ours"><disk a='&lt;'/></our:disks>
  </metadata>
  <devices><emulator>/usr/bin/qemu</emulator><future  odd = "yes"/></devices>
  <seclabel type='dynamic' model='apparmor' relabel='yes'><label>libvirt-1</label></seclabel>
  <seclabel type='dynamic' model='dac' relabel='yes'>
    <label>+64055:+994</label><imagelabel>+64055:+994</imagelabel>
  </seclabel>
  <q:commandline>
    <q:arg value='-mon'/>
    <q:arg value='chardev=x'/>
    <q:env name='A' value='b'/>
    <q:arg value='-blockdev'/>
    <q:arg value='{"driver":"file","node-name":"luksplug-vdb-luks"}'/>
  </q:commandline>
</domain>
`

func parse(t *testing.T, text string) *domainxml.Document {
	t.Helper()
	doc, err := domainxml.Parse([]byte(text))
	must.OK(t, err)
	return doc
}

func TestValues(t *testing.T) {
	t.Parallel()
	doc := parse(t, domain)
	for want, got := range map[string]string{
		"vm&1": doc.Name(), "6695eb01-f6a4-8304-79aa-97f2502e193f": doc.UUID(), "/usr/bin/qemu": doc.Value("devices", "emulator"),
		"+64055:+994": doc.Label("dac"), "libvirt-1": doc.Label("apparmor"), "": doc.Label("selinux") + doc.GeneratedLabel("selinux") + doc.Value("devices", "none"),
		`<our:disks xmlns:our="urn:ours"><disk a='&lt;'/></our:disks>`: string(doc.Metadata("urn:ours")),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if doc.Metadata("urn:none") != nil {
		t.Error("metadata of a namespace that is not there")
	}
}

// TestWithArguments: all but the arguments stays, byte for byte.
func TestWithArguments(t *testing.T) {
	t.Parallel()
	doc := parse(t, domain)
	arguments := doc.Arguments()
	if want := []string{"-mon", "chardev=x", "-blockdev", `{"driver":"file","node-name":"luksplug-vdb-luks"}`}; !slices.Equal(arguments, want) {
		t.Fatalf("got %q", arguments)
	}
	want := append(domainxml.Foreign(arguments), "-device", `{"id":"it's <new> & \"quoted\""}`)
	changed, err := doc.WithArguments(want)
	must.OK(t, err)
	if got := changed.Arguments(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	text := string(changed.Text())
	before, after := strings.Index(domain, "<q:commandline>"), strings.Index(domain, "</q:commandline>")+len("</q:commandline>")
	if !strings.HasPrefix(text, domain[:before]) || !strings.HasSuffix(text, domain[after:]) || !strings.Contains(text, "<q:env name='A' value='b'/>") {
		t.Errorf("something else has changed:\n%s", text)
	}
	again, err := changed.WithArguments(want)
	if err != nil || string(again.Text()) != text {
		t.Errorf("again (%v):\n%s\nwas\n%s", err, again.Text(), text)
	}
}

func TestWithArgumentsWithoutACommandline(t *testing.T) {
	t.Parallel()
	const plain = "<domain>\n  <name>a</name>\n</domain>"
	doc := parse(t, plain)
	if doc.Arguments() != nil {
		t.Errorf("got %q", doc.Arguments())
	}
	changed, err := doc.WithArguments([]string{"-S"})
	if err != nil || !slices.Equal(changed.Arguments(), []string{"-S"}) {
		t.Fatal(err, changed)
	}
	back, err := changed.WithArguments(nil)
	if err != nil || strings.Join(strings.Fields(string(back.Text())), " ") != "<domain> <name>a</name> </domain>" {
		t.Errorf("got %q (%v)", back.Text(), err)
	}
	if same, err := doc.WithArguments(nil); err != nil || string(same.Text()) != plain {
		t.Errorf("got %v (%v)", same, err)
	}
}

func TestWithMetadata(t *testing.T) {
	t.Parallel()
	const mine = `<o:disks xmlns:o="urn:ours">new</o:disks>`
	for name, text := range map[string]string{
		"there": domain, "none": "<domain><name>a</name></domain>", "empty": "<domain><metadata/></domain>", "empty root": "<domain/>",
		"others": "<domain><metadata><x:a xmlns:x='urn:app'>one</x:a></metadata></domain>",
	} {
		before := parse(t, text)
		doc, err := before.WithMetadata("urn:ours", []byte(mine))
		if err != nil || string(doc.Metadata("urn:ours")) != mine || string(doc.Metadata("urn:app")) != string(before.Metadata("urn:app")) || doc.Name() != before.Name() {
			t.Errorf("%s: got %s (%v)", name, doc.Text(), err)
			continue
		}
		if doc, err = doc.WithMetadata("urn:ours", nil); err != nil || doc.Metadata("urn:ours") != nil || string(doc.Metadata("urn:app")) != string(before.Metadata("urn:app")) {
			t.Errorf("%s, removed: got %s (%v)", name, doc.Text(), err)
		}
	}
}

func TestForeign(t *testing.T) {
	t.Parallel()
	ours := []string{
		"-object", `{"qom-type":"secret","id":"luksplug-vdb-secret0"}`, "-blockdev", `{"node-name":"luksplug-vdb-b1-luks"}`,
		"-device", `{"driver":"virtio-blk-pci","id":"ua-x","drive":"luksplug-vdc-luks"}`, "-chardev", "socket,id=luksplug-vdd-chardev,path=/x",
		"-device", `{"driver":"virtio-scsi-pci","id":"luksplug-sda-scsi"}`,
	}
	others := []string{
		"-device", `{"driver":"pcie-root-port","id":"luksplug-port-0"}`, "-chardev", "socket,id=luksplug-monitor,path=/x", "-mon", "chardev=luksplug-monitor",
		"-blockdev", `{"node-name":"libvirt-1-format"}`, "-device", "virtio-blk-pci,drive=luksplug-vdb-luks", "-S", "-object", "not JSON", "-device",
	}
	all := append(append(slices.Clone(ours), others...), "-blockdev")
	if got := domainxml.Foreign(all); !slices.Equal(got, append(slices.Clone(others), "-blockdev")) {
		t.Errorf("got %q", got)
	}
	if got := domainxml.Targets(all); fmt.Sprint(got) != "[vdb vdc vdd sda]" {
		t.Errorf("got %v", got)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "<domain>", "<network/>", "<domain/><domain/>", "text", strings.Repeat("<domain>", 200) + strings.Repeat("</domain>", 200)} {
		if _, err := domainxml.Parse([]byte(text)); err == nil || !strings.HasPrefix(err.Error(), "domain XML: ") {
			t.Errorf("%.20q: got %v", text, err)
		}
	}
}

func TestParseUser(t *testing.T) {
	t.Parallel()
	if c, err := domainxml.ParseUser("+64055:+994"); err != nil || c.UID != 64055 || c.GID != 994 {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := domainxml.ParseUser("root:root"); err != nil || c.UID != 0 || c.GID != 0 { // in a definition
		t.Errorf("%+v, %v", c, err)
	}
	for _, wrong := range []string{"", "nobody-of-that-name:root", "+1", "+1:", "+-1:+1"} {
		if c, err := domainxml.ParseUser(wrong); err == nil {
			t.Errorf("%q: %+v", wrong, c)
		}
	}
}

// FuzzWithArguments: any arguments can be read again, and the rest of the document stays.
func FuzzWithArguments(f *testing.F) {
	f.Add(domain, "-device", `{"a":"'<&>"}`)
	f.Add("<domain/>", "", "\t\n")
	f.Add(`<domain xmlns="urn:d"><a/></domain>`, "x", "]]>")
	f.Fuzz(func(t *testing.T, text, a, b string) {
		doc, err := domainxml.Parse([]byte(text))
		if err != nil {
			return
		}
		if !isText(a) || !isText(b) {
			return // arguments that XML cannot hold
		}
		changed, err := doc.WithArguments([]string{a, b})
		must.OK(t, err)
		if got := changed.Arguments(); !slices.Equal(got, []string{a, b}) {
			t.Errorf("got %q, want %q", got, []string{a, b})
		}
		if changed.Name() != doc.Name() || changed.UUID() != doc.UUID() {
			t.Error("the domain is another")
		}
	})
}

// isText reports whether s consists of characters of XML (XML 1.0, section 2.2).
func isText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0xFFFE || r == 0xFFFF
	})
}

func Example() {
	doc, err := domainxml.Parse([]byte(`<domain><name>vm1</name></domain>`))
	if err != nil {
		panic(err)
	}
	doc, err = doc.WithArguments([]string{"-blockdev", `{"driver":"null-co","node-name":"n"}`})
	if err != nil {
		panic(err)
	}
	fmt.Println(doc.Name(), doc.Arguments())
	// Output: vm1 [-blockdev {"driver":"null-co","node-name":"n"}]
}

// TestGeneratedLabels: a label that a definition names is not one that libvirt has
// generated, and another VM's UUID, or none, is not the domain's.
func TestGeneratedLabels(t *testing.T) {
	t.Parallel()
	const labels = "<domain><uuid>%s</uuid><seclabel type='%s' model='%s'><label>a</label><imagelabel>b</imagelabel></seclabel></domain>"
	for _, model := range []string{"dac", "apparmor", "selinux"} {
		for kind, want := range map[string]string{"dynamic": "ab", "static": "", "none": ""} {
			doc := must.Get(domainxml.Parse(fmt.Appendf(nil, labels, "", kind, model)))(t)
			if got := doc.GeneratedLabel(model) + doc.GeneratedImageLabel(model); got != want || doc.Label(model) != "a" {
				t.Errorf("%s, %s: got %q and %q", model, kind, got, doc.Label(model))
			}
		}
	}
	for id, want := range map[string]string{
		"6695EB01-f6a4-8304-79aa-97f2502e193f": "6695eb01-f6a4-8304-79aa-97f2502e193f", "": "", "../x": "",
		"6695eb01f6a4830479aa97f2502e193f": "", "{6695eb01-f6a4-8304-79aa-97f2502e193f}": "", "6695eb01-f6a4-8304-79aa-97f2502e193f/": "",
	} {
		doc := must.Get(domainxml.Parse(fmt.Appendf(nil, labels, id, "none", "dac")))(t)
		if got := doc.CanonicalUUID(); got != want {
			t.Errorf("%q: got %q", id, got)
		}
	}
}
