package nearname_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
	"github.com/luksplug/luksplug/secrets/internal/nearname"
)

func TestMissing(t *testing.T) {
	t.Parallel()
	const id = "0a81f5b2-8403-4b23-88d6-21ccc2f80d6f"
	byUUID := secrets.Reference{Type: secrets.Passphrase, UUID: must.Get(secrets.ParseUUID(id))(t)}
	byUsage := secrets.Reference{Type: secrets.Passphrase, Usage: "/var/lib/vm1 a.img"}
	for _, c := range []struct {
		ref   secrets.Reference
		names string // separated by commas
		near  string // "" for none
		says  string
	}{
		{byUUID, "", "", ""},
		{byUUID, "x,y.txt,lock", "", ""},
		{byUUID, strings.ToUpper(id), strings.ToUpper(id), "rename it to " + id},
		{byUUID, id + ".txt", id + ".txt", "rename it to " + id},
		{byUUID, strings.ToUpper(id) + ".KEY", strings.ToUpper(id) + ".KEY", "rename it"},
		{byUUID, strings.ReplaceAll(id, "-", ""), strings.ReplaceAll(id, "-", ""), "rename it"},
		{byUUID, id[:35] + "e", id[:35] + "e", "is it that one?"},
		{byUUID, id + ".xml", "", ""},       // a document without a value
		{byUUID, "." + id + ".txt", "", ""}, // of a writer
		{byUUID, "1" + id[1:8] + "-x", "", ""},
		{byUsage, "vm1 a.img", "vm1 a.img", "rename it to volume-%2Fvar%2Flib%2Fvm1%20a.img"},
		{byUsage, "volume-%2fvar%2flib%2fvm1%20a.img", "volume-%2fvar%2flib%2fvm1%20a.img", "rename it"},
		{byUsage, "volume-%2Fvar%2Flib%2Fvm1%20a.img.txt", "volume-%2Fvar%2Flib%2Fvm1%20a.img.txt", "rename it"},
		{byUsage, "var-lib-vm1 a.img", "var-lib-vm1 a.img", "rename it"},
		{byUsage, "ceph-%2Fvar%2Flib%2Fvm1%20a.img", "ceph-%2Fvar%2Flib%2Fvm1%20a.img", "it is of type ceph"},
		{byUsage, "volume-%2Fvar%2Flib%2Fvm2%20b.img", "volume-%2Fvar%2Flib%2Fvm2%20b.img", "is it that one?"},
		{byUsage, "volume-other", "", ""},
	} {
		err := nearname.Missing(c.ref, dir.FileName(c.ref), strings.Split(c.names, ","))
		text := err.Error()
		if !errors.Is(err, secrets.ErrNotFound) || !strings.Contains(text, "there is no file "+dir.FileName(c.ref)) {
			t.Errorf("%s: %s", c.names, text)
		}
		if c.near == "" && strings.Contains(text, "named") || c.near != "" && !strings.Contains(text, ", but one named "+c.near+": ") || !strings.Contains(text, c.says) {
			t.Errorf("%s: %s, want %q %q", c.names, text, c.near, c.says)
		}
	}
}
