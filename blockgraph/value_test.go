package blockgraph_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/secrets"
)

func TestObjectKeepsItsOrder(t *testing.T) {
	t.Parallel()
	o := blockgraph.Object{{"z", 1}, {"a", []any{true, nil, int64(-2), uint64(1 << 63), "é<&>\"\\\n"}}, {"m", blockgraph.Object{{"k", "v"}}}}
	const want = `{"z":1,"a":[true,null,-2,9223372036854775808,"é\u003c\u0026\u003e\"\\\n"],"m":{"k":"v"}}`
	b, err := json.Marshal(o)
	if err != nil || string(b) != want || o.String() != want {
		t.Errorf("got  %s %v\nand  %s\nwant %s", b, err, o, want)
	}
}

func TestObjectRefusesOtherTypes(t *testing.T) {
	t.Parallel()
	for _, o := range []blockgraph.Object{
		{{"a", 1.5}}, {{"a", []any{map[string]any{}}}}, {{"a", blockgraph.Object{{"b", struct{}{}}}}},
	} {
		if _, err := json.Marshal(o); err == nil || !strings.Contains(err.Error(), "has no place in a plan") {
			t.Errorf("got %v", err)
		}
		if !strings.HasPrefix(o.String(), "invalid object") {
			t.Errorf("got %s", o)
		}
	}
}

func TestObjectCopies(t *testing.T) {
	t.Parallel()
	o := blockgraph.Object{{"a", "1"}, {"b", "2"}}
	for want, got := range map[string]blockgraph.Object{
		`{"a":"1","b":"9"}`:          o.With("b", "9"),
		`{"a":"1","b":"2","c":true}`: o.With("c", true),
		`{"b":"2"}`:                  o.Without("a"),
		`{"a":"1","b":"2"}`:          o.Without("x"),
	} {
		if got.String() != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if o.String() != `{"a":"1","b":"2"}` || o.Get("x") != nil || o.Text("a") != "1" || o.With("n", 1).Text("n") != "" {
		t.Errorf("the object is %s", o)
	}
}

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
