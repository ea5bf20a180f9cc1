package hook_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
	"github.com/luksplug/luksplug/hotplug/internal/recordtest"
	"github.com/luksplug/luksplug/internal/must"
)

// TestUnverifiedRecord: a record that is not signed with this host's key is refused at the
// operations that can fail, changes nothing at the others, and is always logged or
// reported.
func TestUnverifiedRecord(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(h *hook.Host, e *hook.Event){
		"unsigned": func(_ *hook.Host, e *hook.Event) { e.XML = without(e.XML, "mac") },
		"changed":  func(_ *hook.Host, e *hook.Event) { e.XML = bytes.Replace(e.XML, []byte("/img"), []byte("/etc"), 1) },
		"another VM's": func(_ *hook.Host, e *hook.Event) {
			e.XML = bytes.ReplaceAll(e.XML, []byte(recordtest.DomainUUID), []byte("3e3fce45-4f53-4fa7-bb32-11f34168b82b"))
		},
		"another key's": func(h *hook.Host, _ *hook.Event) { _, h.RecordKey = recordtest.Signer(t) },
		"no key":        func(h *hook.Host, _ *hook.Event) { h.RecordKey += "2" },
		"a bad key":     func(h *hook.Host, _ *hook.Event) { must.OK(t, os.Chmod(h.RecordKey, 0o644)) },
	} {
		for _, op := range []hook.Operation{hook.Prepare, hook.Started, hook.Restore, hook.Migrate, hook.Reconnect} {
			h, _ := place(t)
			e := event(t, h, op, "-", recordtest.Disk(t, 1))
			spoil(&h, &e)
			output, err := h.Run(t.Context(), e)
			if !errors.Is(err, hook.ErrUnverified) || output != nil {
				t.Errorf("%s at %s: got %v, printed %q", name, op, err, output)
			}
			if made, _ := filepath.Glob(filepath.Join(h.MonitorDir, "*")); len(made) > 0 {
				t.Errorf("%s at %s: made %v", name, op, made)
			}
		}
		for _, op := range []hook.Operation{hook.Stopped, hook.Release} {
			h, log := place(t)
			e := event(t, h, op, hook.ReasonDestroyed, recordtest.Disk(t, 1))
			spoil(&h, &e)
			if _, err := h.Run(t.Context(), e); err != nil || !strings.Contains(log.String(), "is not verified") {
				t.Errorf("%s at %s: got %v, logged %s", name, op, err, log)
			}
		}
	}
}

// without removes an attribute from XML.
func without(xml []byte, name string) []byte {
	before, rest, _ := strings.Cut(string(xml), " "+name+`="`)
	_, after, _ := strings.Cut(rest, `"`)
	return []byte(before + after)
}

// TestNothingToDo: a hook that has nothing to do fails no start, whatever is wrong with the
// key, the domain's XML or QEMU's user.
func TestNothingToDo(t *testing.T) {
	t.Parallel()
	h, _ := place(t)
	h.RecordKey, h.QEMUUser = "/nonexistent", hook.QEMUUser{Noted: "/nonexistent", Config: "/nonexistent", State: "/nonexistent"}
	for name, xml := range map[string]string{
		"a plain domain":     string(recordtest.Domain(t, "q35", "").Text()),
		"another's metadata": string(recordtest.Domain(t, "q35", "<metadata><a:b xmlns:a='urn:a'/></metadata>").Text()),
		"a static label":     string(recordtest.Domain(t, "q35", "<seclabel type='static' model='dac'><label>root:root</label></seclabel>").Text()),
		"no UUID":            "<domain><name>vm1</name></domain>",
		"unreadable":         "<domain>&undefined;</domain>",
		"deep":               strings.Repeat("<domain>", 200),
		"empty":              "",
	} {
		for _, op := range []hook.Operation{hook.Prepare, "start", hook.Started, hook.Restore, hook.Migrate, hook.Reconnect, hook.Stopped, hook.Release} {
			e := hook.Event{Domain: "vm1", Operation: op, XML: []byte(xml)}
			if output, err := h.Run(t.Context(), e); err != nil || output != nil {
				t.Errorf("%s at %s: %v, printed %q", name, op, err, output)
			}
			if e.Concerns() {
				t.Errorf("%s has something of luksplug's", name)
			}
		}
	}
}

// TestSignedDevices: a device that is not one of luksplug's plan for the disk is refused by
// name and never becomes an argument of QEMU, also if the record is signed.
func TestSignedDevices(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		member string
		value  any
	}{
		"vfio-pci": {"driver", "vfio-pci"}, "romfile": {"romfile", "/etc/shadow"}, "share-rw": {"share-rw", true}, "invalid place bus": {"bus", "a,b"},
		"bootindex": {"bootindex", 7},
	} {
		h, _ := place(t)
		disk := recordtest.Disk(t, 1)
		disk.Devices = []blockgraph.Object{disk.Devices[0].With(c.member, c.value)}
		output, err := h.Run(t.Context(), event(t, h, hook.Restore, "-", disk))
		if err == nil || !strings.Contains(err.Error(), name) || bytes.Contains(output, []byte("<qemu:arg value='-device'/>\n    <qemu:arg value='{&quot;driver&quot;:&quot;vfio")) {
			t.Errorf("%s at restore: %v, printed %s", name, err, output)
		}
		doc := must.Get(domainxml.Parse(output))(t)
		if targets := domainxml.Targets(doc.Arguments()); len(targets) > 0 {
			t.Errorf("%s: the arguments have %v", name, targets)
		}
		if _, err := h.Run(t.Context(), event(t, h, hook.Prepare, "-", disk)); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s at prepare: %v", name, err)
		}
	}
}

// TestUserOfTheDefinition: a user that the definition names counts if the signed record
// names the same one. One that libvirt has generated counts before that of the host.
func TestUserOfTheDefinition(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	for name, c := range map[string]struct {
		kind, label, recorded string
		want                  uint32
		refused               bool
	}{
		"generated":             {"dynamic", "+4711:+4712", "+0:+0", 4711, false},
		"named and recorded":    {"static", "+4711:+4712", "+4711:+4712", 4711, false},
		"named alone":           {"static", "+4711:+4712", "+0:+0", 0, true},
		"named, another group":  {"static", "+4711:+4712", "+4711:+0", 0, true},
		"named, and none noted": {"static", "+4711:+4712", "", 0, true},
		"recorded alone":        {"", "", "+4711:+4712", 0, false},
	} {
		h, _ := place(t)
		key := must.Get(record.LoadKey(h.RecordKey))(t)
		disk := recordtest.Disk(t, 1)
		disk.Optional = true // its image does not exist
		r := must.Get(record.Signer{Key: key, UUID: recordtest.DomainUUID}.Sign(record.Record{User: c.recorded}.With(disk)))(t)
		inside := "<metadata>" + must.Get(r.XML())(t) + "</metadata>"
		if c.kind != "" {
			inside += fmt.Sprintf("<seclabel type='%s' model='dac' relabel='yes'><label>%s</label></seclabel>", c.kind, c.label)
		}
		doc := must.Get(recordtest.Domain(t, "q35", inside).WithArguments(domainxml.MonitorArguments(h.MonitorDir, recordtest.DomainUUID)))(t)
		_, err := h.Run(t.Context(), hook.Event{Domain: "vm1", Operation: hook.Prepare, XML: doc.Text()})
		if c.refused != errors.Is(err, hook.ErrUser) || !c.refused && err != nil {
			t.Errorf("%s: got %v", name, err)
		}
		own := filepath.Join(h.MonitorDir, recordtest.DomainUUID)
		info, err := os.Lstat(own)
		if c.refused != errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && owner(info) != c.want {
			t.Errorf("%s: the directory belongs to %d, want %d", name, owner(info), c.want)
		}
	}
}

func owner(info os.FileInfo) uint32 { return info.Sys().(*syscall.Stat_t).Uid }
