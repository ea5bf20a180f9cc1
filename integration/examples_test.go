package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/dir"
)

// TestExampleAttachLibvirt: a program of forty lines, with public packages only, attaches a disk to a domain
// and records it.
func TestExampleAttachLibvirt(t *testing.T) {
	t.Parallel()
	const example = "github.com/luksplug/luksplug/examples/attach-libvirt"
	ctx := bounded(t)
	imports := run(ctx, t, exec.CommandContext(ctx, "go", "list", "-f", `{{join .Imports "\n"}}`, example)).want(t, 0)
	if strings.Contains(imports.stdout, "/internal/") {
		t.Errorf("the example imports %s", imports.stdout)
	}
	text, err := os.ReadFile("../examples/attach-libvirt/main.go")
	if lines := strings.Count(string(text), "\n"); err != nil || lines > 40 {
		t.Errorf("the example has %d lines (%v)", lines, err)
	}
	program := filepath.Join(t.TempDir(), "attach-libvirt")
	run(ctx, t, exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", program, example)).want(t, 0)

	l := peer.Libvirtd(t)
	d := must.Get(l.StartDomain(ctx, peer.DomainOptions{SCSI: true}))(t)
	v := peer.NewVolume(t, peer.DetachedRaw)
	xml, keys := v.DiskXML("sda", "scsi"), t.TempDir()
	disk := must.Get(diskxml.ParseDisk([]byte(xml)))(t)
	must.OK(t, os.WriteFile(filepath.Join(keys, dir.FileName(disk.Secrets()[0])), v.Passphrase, 0o600))
	got := run(ctx, t, exec.CommandContext(ctx, program, l.URI, d.Name, writeFile(t, "sda.xml", xml), "dir:"+keys)).want(t, 0)
	if !strings.HasPrefix(got.stdout, "sda: device luksplug-sda, ") {
		t.Errorf("it says %s", got.stdout)
	}
	wantRecorded(ctx, t, l, d, recordedDisk{"sda", "attached", "", []string{"live"}})
	viaLibvirt(ctx, t, l, d.Name, "detach", "sda").want(t, 0)
}
