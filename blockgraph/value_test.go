package blockgraph_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/secrets"
)

func TestSecretDataIsRedacted(t *testing.T) {
	t.Parallel()
	s := blockgraph.SecretData{Ref: secrets.Reference{Type: secrets.Passphrase, UUID: uuid.MustParse(anyUUID)}}
	if got := fmt.Sprintf("%v %s %+v", s, s, s); got != "[redacted] [redacted] [redacted]" {
		t.Error(got)
	}
	if got := (blockgraph.Object{{"data", s}}).String(); got != `{"data":"[redacted]"}` {
		t.Error(got)
	}
}

func TestArgumentsWithoutSecretFile(t *testing.T) {
	t.Parallel()
	g, err := blockgraph.Build(mustParse(t, detached), machines["q35"], blockgraph.Unlock{})
	if err != nil {
		t.Fatal(err)
	}
	missing := errors.New("no file")
	if _, err := g.Plan().Arguments(func(blockgraph.GraphObject) (string, error) { return "", missing }); !errors.Is(err, missing) {
		t.Errorf("got %v", err)
	}
	if _, err := g.Plan().SealedArguments(func(blockgraph.GraphObject) (blockgraph.SealedSecret, error) {
		return blockgraph.SealedSecret{}, missing
	}); !errors.Is(err, missing) {
		t.Errorf("got %v", err)
	}
	args, err := g.Plan().SealedArguments(func(o blockgraph.GraphObject) (blockgraph.SealedSecret, error) {
		return blockgraph.SealedSecret{KeyID: "masterKey0", Data: "Y2lwaGVy", IV: "aXY="}, nil
	})
	if want := `{"qom-type":"secret","id":"luksplug-vdb-secret0","data":"Y2lwaGVy","format":"base64","keyid":"masterKey0","iv":"aXY="}`; err != nil || !slices.Contains(args, want) {
		t.Errorf("%q, error %v", args, err)
	}
}

func TestHostCDROM(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{"/dev/cdrom": "host_cdrom", "/dev/vg0/iso": "host_device"} {
		d := mustParse(t, "<disk type='block' device='cdrom'><source dev='"+path+"'/><target dev='sda' bus='usb'/></disk>")
		g, err := blockgraph.Build(d, blockgraph.Machine{}, blockgraph.Unlock{})
		if err != nil {
			t.Fatal(err)
		}
		if got := g.Top().Options.Text("driver"); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
