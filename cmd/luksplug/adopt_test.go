package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/hotplug/libvirtvm"
)

// TestAdoptFlags: --adopt is for a libvirt domain, and --yes for --adopt.
func TestAdoptFlags(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		o      adoptOptions
		domain string
		ok     bool
	}{
		{adoptOptions{}, "", true}, {adoptOptions{adopt: true}, "vm1", true}, {adoptOptions{adopt: true, yes: true}, "vm1", true},
		{adoptOptions{adopt: true}, "", false}, {adoptOptions{yes: true}, "vm1", false},
	} {
		if err := c.o.check(&flags{domain: c.domain}); (err == nil) != c.ok || err != nil && exitCode(err) != exitUsage {
			t.Errorf("%+v of %q: %v", c.o, c.domain, err)
		}
	}
}

// TestAdoptionIsShown: everything that a record says is shown, on lines of its own, with
// control characters escaped: another user has written it.
func TestAdoptionIsShown(t *testing.T) {
	t.Parallel()
	var text strings.Builder
	describeAdoption(&text, libvirtvm.Adoption{
		Scope: libvirtvm.Persistent, Reason: libvirtvm.ErrUnsigned, User: "+1:+2", ColdPlug: true,
		Disks: []libvirtvm.RecordedDisk{{
			Target: "vdb", XML: "<disk>\n\t<a/></disk>", Images: []string{"/a\x1b[2Jb\nimage /c"}, Secrets: []string{"uuid u"},
			Devices: []string{`{"driver":"virtio-blk-pci"}`}, Options: []string{"tls-dir=/\u202ex"}, Problem: errors.New("it is \rnot so"),
		}},
	})
	for _, want := range []string{
		"persistent record: luksplug's record", "it is not signed", "user", "+1:+2", "cold-plug", "disk vdb", `/a\x1b[2Jb\nimage /c`, "uuid u",
		`{"driver":"virtio-blk-pci"}`, `tls-dir=/\u202ex`, `it is \rnot so`, `\t<a/></disk>`,
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %s in %s", want, text.String())
		}
	}
	if strings.ContainsAny(text.String(), "\x1b\r\t\u202e") {
		t.Errorf("it has control characters: %q", text.String())
	}
}
