package integration

import (
	"context"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/secrets"
)

// TestDocumentsAndLibvirt: libvirt and luksplug write the same documents, and refuse the same changes.
func TestDocumentsAndLibvirt(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	l := peer.Libvirtd(t)
	virsh := func(ctx context.Context, args ...string) result { return run(ctx, t, l.VirshCommand(ctx, args...)) }
	define := func(d secrets.Document) result {
		return virsh(ctx, "secret-define", writeFile(t, "secret.xml", string(d.XML())))
	}
	var all []secrets.Document
	for _, u := range []secrets.UsageType{secrets.UsageVolume, secrets.UsageCeph, secrets.UsageISCSI, secrets.UsageTLS, secrets.UsageVTPM} {
		all = append(all, secrets.Document{
			UUID: uuid.New(), Ephemeral: u == secrets.UsageTLS, Private: u == secrets.UsageCeph,
			Description: "a <b> & \"c\" 'd' ö > e", UsageType: u, Usage: "/var/<x> & \"y\" 'z' ü " + string(u),
		})
	}
	all = append(all, secrets.Document{UUID: uuid.New()}, secrets.Document{UUID: uuid.New(), Ephemeral: true, Private: true, Description: "two\nlines"})
	for _, d := range all {
		define(d).want(t, 0)
		theirs := virsh(ctx, "secret-dumpxml", d.UUID.String()).want(t, 0).stdout
		if ours := string(d.XML()); strings.TrimSpace(theirs) != strings.TrimSpace(ours) {
			t.Errorf("libvirt writes\n%s\nand luksplug\n%s", theirs, ours)
		}
		if read, err := secrets.ParseDocument([]byte(theirs)); err != nil || read != d {
			t.Errorf("%s\nis read as %+v, %v", theirs, read, err)
		}
	}
	changed := func(d secrets.Document, change func(*secrets.Document)) secrets.Document { change(&d); return d }
	for name, d := range map[string]secrets.Document{
		"the same again":           all[0],
		"another description":      changed(all[0], func(d *secrets.Document) { d.Description = "x" }),
		"private from now on":      changed(all[3], func(d *secrets.Document) { d.Private = true }),
		"public again":             changed(all[1], func(d *secrets.Document) { d.Private = false }),
		"another usage":            changed(all[0], func(d *secrets.Document) { d.Usage = "/other" }),
		"the usage of another":     {UUID: uuid.New(), UsageType: all[0].UsageType, Usage: all[0].Usage},
		"its name as another type": {UUID: uuid.New(), UsageType: secrets.UsageTLS, Usage: all[0].Usage},
	} {
		ours := secrets.CheckDefine(all, d)
		theirs := define(d)
		if (theirs.code == 0) != (ours == nil) {
			t.Errorf("%s: luksplug says %v, and libvirt %s", name, ours, theirs.stderr)
		}
	}
}
