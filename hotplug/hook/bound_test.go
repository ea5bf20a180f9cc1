package hook_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/hotplug/internal/record"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/age"
	"github.com/luksplug/luksplug/secrets/dir"
)

// recorded returns the record of a disk with that payload, and a header unless it is "".
func recorded(t *testing.T, target, secret, payload, header string) record.Disk {
	t.Helper()
	if header != "" {
		header = "<header type='file'><source file='" + header + "'/></header>"
	}
	d := must.Get(record.New(fmt.Appendf(nil, `<disk type='file'><source file='%s'><encryption format='luks'><secret type='passphrase' %s/>%s</encryption></source><target dev='%s' bus='virtio'/></disk>`,
		payload, secret, header, target), nil, record.Reading{}))(t)
	return d
}

// TestBoundSecrets: the hook gives a secret that is bound to a volume to a disk whose payload
// or header that is, and to no other, however the disk names it and whatever store has it.
func TestBoundSecrets(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	mine, other, header := must.LUKS(t, "letmein", 4<<20), must.LUKS(t, "letmein", 4<<20), must.LUKS(t, "letmein", 4<<20)
	payload := must.File(t, make([]byte, 4<<20))

	bound := secrets.Document{UUID: uuid.New(), UsageType: secrets.UsageVolume, Usage: mine}
	ofHeader := secrets.Document{UUID: uuid.New(), UsageType: secrets.UsageVolume, Usage: header}
	free := secrets.Document{UUID: uuid.New()}
	named := secrets.Document{UUID: uuid.New(), UsageType: secrets.UsageVolume, Usage: "the second disk"}
	undocumented := filepath.Join(top, "undocumented")
	must.OK(t, os.Mkdir(undocumented, 0o700), os.Mkdir(filepath.Join(top, "keys"), 0o700))
	must.Write(t, filepath.Join(undocumented, dir.FileName(secrets.Reference{Type: secrets.Passphrase, Usage: other})), "letmein")
	for kind, store := range map[string]secrets.Keeper{"dir": dir.New(filepath.Join(top, "keys")), "age": age.New(filepath.Join(top, "age"), age.Options{})} {
		for _, d := range []secrets.Document{bound, ofHeader, free, named} {
			must.OK(t, store.Define(t.Context(), d), store.Set(t.Context(), d.Reference(), secrets.New([]byte("letmein"))))
		}
		byUUID := func(d secrets.Document) string { return "uuid='" + d.UUID.String() + "'" }
		for name, c := range map[string]struct {
			secret, payload, header string
			refused                 bool
		}{
			"its payload":                     {byUUID(bound), mine, "", false},
			"its payload, by usage":           {"usage='" + mine + "'", mine, "", false},
			"another payload":                 {byUUID(bound), other, "", true},
			"another payload, by usage":       {"usage='" + mine + "'", other, "", true},
			"its header":                      {byUUID(ofHeader), payload, header, false},
			"another header, payload":         {byUUID(bound), payload, header, true},
			"its payload under a header":      {byUUID(ofHeader), header, "", false},
			"without usage":                   {byUUID(free), other, "", false},
			"a usage that is not a path":      {byUUID(named), other, "", false},
			"a file without document":         {"usage='" + other + "'", other, "", false},
			"a file without document, stolen": {"usage='" + other + "'", mine, "", true},
		} {
			for _, any := range []bool{false, true} {
				h, _ := place(t)
				h.AnyVolume = any
				h.Store = secrets.Lazy("lazy", func() (secrets.Store, error) { return secrets.Chain(dir.New(undocumented), store), nil })
				checks := must.Get(h.CheckArrival(t.Context(), event(t, h, hook.Migrate, "-", recorded(t, "vdb", c.secret, c.payload, c.header)).XML))(t)
				err := checks[0].Err
				switch refused := c.refused && !any; {
				case refused && (!errors.Is(err, secrets.ErrOtherVolume) || !strings.Contains(err.Error(), c.payload)):
					t.Errorf("%s, %s: %v", kind, name, err)
				case !refused && err != nil:
					t.Errorf("%s, %s, for any volume %t: %v", kind, name, any, err)
				}
			}
		}
	}
}

// TestBoundSecretsAtAStart: the same at prepare, where the start fails with the reason.
func TestBoundSecretsAtAStart(t *testing.T) {
	t.Parallel()
	mine, other := must.LUKS(t, "letmein", 4<<20), must.LUKS(t, "letmein", 4<<20)
	keys := t.TempDir()
	must.OK(t, os.Chmod(keys, 0o700))
	store, d := dir.New(keys), secrets.Document{UUID: uuid.New(), UsageType: secrets.UsageVolume, Usage: mine}
	must.OK(t, store.Define(t.Context(), d), store.Set(t.Context(), d.Reference(), secrets.New([]byte("letmein"))))
	h, _ := place(t)
	h.Store = store
	_, err := h.Run(t.Context(), event(t, h, hook.Prepare, "-", recorded(t, "vdb", "uuid='"+d.UUID.String()+"'", other, "")))
	if !errors.Is(err, secrets.ErrOtherVolume) {
		t.Errorf("prepare: %v", err)
	}
}
