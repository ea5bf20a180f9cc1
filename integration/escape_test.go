package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// wantPrintable checks that the program printed nothing that controls a terminal, and no line of another author.
func (r result) wantPrintable(t *testing.T, forged string) result {
	t.Helper()
	for where, text := range map[string]string{"standard output": r.stdout, "standard error": r.stderr} {
		for line := range strings.Lines(text) {
			line = strings.TrimSuffix(line, "\n")
			if strings.ContainsFunc(line, func(r rune) bool { return !strconv.IsPrint(r) }) || strings.HasPrefix(line, forged) {
				t.Errorf("%s: %q", where, line)
			}
		}
	}
	return r
}

// TestPrintableOutput: names of files, devices and serials that a real QEMU takes, with control characters, are shown
// by every command and control nothing. In JSON they are as they are.
func TestPrintableOutput(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Paused: true, SCSI: true})
	const forged = "luksplug: FORGED"
	const evil = "x\x1b[2J\x1b]0;title\x07\u009b2J\u202e\x7f\t\n" + forged
	image := filepath.Join(t.TempDir(), evil)
	must.OK(t, os.WriteFile(image, make([]byte, 1<<20), 0o600))
	for _, c := range []struct {
		command string
		args    map[string]any
	}{
		{"blockdev-add", map[string]any{"driver": "file", "node-name": "foreign", "filename": image, "read-only": true}},
		{"blockdev-add", map[string]any{"driver": "file", "node-name": "luksplug-vdb-payload-storage", "filename": image, "read-only": true}},
		{"blockdev-add", map[string]any{"driver": "file", "node-name": "luksplug-sda-payload-storage", "filename": image, "read-only": true}},
		{"device_add", map[string]any{"driver": "scsi-hd", "id": "luksplug-sda", "drive": "luksplug-sda-payload-storage", "serial": "\x1b[2J\nFORGED\u202e"}},
	} {
		must.Get(q.Query(ctx, c.command, c.args))(t)
	}
	// Newer versions of QEMU refuse such an id; this one may.
	_, err := q.Query(ctx, "device_add", map[string]any{"driver": "scsi-hd", "id": evil, "drive": "foreign", "device_id": "x"})
	t.Logf("a device with such an id: %v", err)

	shown := strings.NewReplacer("\x1b", `\x1b`, "\x07", `\a`, "\u009b", `\u009b`, "\u202e", `\u202e`, "\x7f", `\x7f`, "\t", `\t`, "\n", `\n`).Replace(image)
	tool(ctx, t, q.Socket, "list").want(t, 0).wantPrintable(t, forged).wantStdout(t, shown)
	tool(ctx, t, q.Socket, "list", "--all").want(t, 0).wantPrintable(t, forged).wantStdout(t, "foreign", shown)
	tool(ctx, t, q.Socket, "-vv", "list").want(t, 0).wantPrintable(t, forged).wantStderr(t, "query-named-block-nodes")
	var nodes struct{ Nodes []struct{ File string } }
	tool(ctx, t, q.Socket, "list", "--all", "--output", "json").want(t, 0).decode(t, &nodes)
	found := 0
	for _, n := range nodes.Nodes {
		if n.File == image {
			found++
		}
	}
	if found != 3 {
		t.Errorf("%d nodes of the image in JSON: %+v", found, nodes)
	}

	v := peer.NewVolume(t, peer.DetachedRaw)
	missing := writeFile(t, "missing.xml", "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/nonexistent/&#x202e;&#x9b;2J'/><target dev='sdc' bus='scsi'/></disk>")
	tool(ctx, t, q.Socket, "attach", missing).want(t, 5).wantPrintable(t, forged).wantStderr(t, `/nonexistent/\u202e\u009b2J`)
	tool(ctx, t, q.Socket, attachArgs(t, v, serialXML(t, v.DiskXML("sda", "scsi"), "another"))...).want(t, 5).wantPrintable(t, forged)
	tool(ctx, t, q.Socket, "plan", missing).want(t, 0).wantPrintable(t, forged).wantStdout(t, `\u202e\u009b2J`)
	tool(ctx, t, q.Socket, "-vv", "repair").want(t, 0).wantPrintable(t, forged).wantStdout(t, "vdb: removed node luksplug-vdb-payload-storage")
	tool(ctx, t, q.Socket, "-vv", "detach", "sda").want(t, 0).wantPrintable(t, forged)
}
