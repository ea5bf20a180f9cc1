package blockgraph_test

import (
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
	"github.com/luksplug/luksplug/secrets"
)

func TestSecretDataIsRedacted(t *testing.T) {
	t.Parallel()
	s := blockgraph.SecretData{Ref: secrets.Reference{Type: secrets.Passphrase, UUID: uuid.MustParse(blocktest.AnyUUID)}}
	if got := fmt.Sprintf("%v %s %+v", s, s, s); got != "[redacted] [redacted] [redacted]" {
		t.Error(got)
	}
	if got := (blockgraph.Object{{"data", s}}).String(); got != `{"data":"[redacted]"}` {
		t.Error(got)
	}
}

func TestHostCDROM(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{"/dev/cdrom": "host_cdrom", "/dev/vg0/iso": "host_device"} {
		d := blocktest.Parse(t, "<disk type='block' device='cdrom'><source dev='"+path+"'/><target dev='sda' bus='usb'/></disk>")
		g := blocktest.Build(t, d, blockgraph.Machine{}, blockgraph.Unlock{})
		if got := g.Top().Options.Text("driver"); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
