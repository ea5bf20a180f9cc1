package render_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
	"github.com/luksplug/luksplug/blockgraph/render"
)

func TestArgumentsOfEphemeralHeaders(t *testing.T) {
	t.Parallel()
	disk := blocktest.Parse(t, `<disk><source file='/a'><encryption format='luks'><secret type='passphrase' uuid='`+blocktest.AnyUUID+`'/>`+
		`<header type='file'><source file='/h'/></header></encryption></source><target dev='vdb'/></disk>`)
	file := func(o blockgraph.GraphObject) (string, error) { return "/run/x/" + o.ID, nil }
	g := blocktest.Build(t, disk, blockgraph.Machine{}, blockgraph.Unlock{Method: blockgraph.MethodEphemeralHeader, Dir: "/run/x"})
	args, err := render.Arguments(g.Plan(), file)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(args, "\n")
	for _, want := range []string{`"filename":"/run/x/luksplug-vdb-header-storage"`, `"file":"/run/x/luksplug-vdb-secret0"`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	g = blocktest.Build(t, disk, blockgraph.Machine{}, blockgraph.Unlock{Method: blockgraph.MethodEphemeralHeader, FDSet: blockgraph.FirstFDSet})
	var unsupported *blockgraph.UnsupportedError
	if _, err := render.Arguments(g.Plan(), file); !errors.As(err, &unsupported) {
		t.Errorf("descriptors as arguments: %v", err)
	}
}

func TestArgumentsWithoutSecretFile(t *testing.T) {
	t.Parallel()
	g := blocktest.Build(t, blocktest.Parse(t, blocktest.Detached), blocktest.Machines["q35"], blockgraph.Unlock{})
	missing := errors.New("no file")
	if _, err := render.Arguments(g.Plan(), func(blockgraph.GraphObject) (string, error) { return "", missing }); !errors.Is(err, missing) {
		t.Errorf("got %v", err)
	}
	if _, err := render.SealedArguments(g.Plan(), func(blockgraph.GraphObject) (render.SealedSecret, error) {
		return render.SealedSecret{}, missing
	}); !errors.Is(err, missing) {
		t.Errorf("got %v", err)
	}
	args, err := render.SealedArguments(g.Plan(), func(o blockgraph.GraphObject) (render.SealedSecret, error) {
		return render.SealedSecret{KeyID: "masterKey0", Data: "Y2lwaGVy", IV: "aXY="}, nil
	})
	if want := `{"qom-type":"secret","id":"luksplug-vdb-secret0","data":"Y2lwaGVy","format":"base64","keyid":"masterKey0","iv":"aXY="}`; err != nil || !slices.Contains(args, want) {
		t.Errorf("%q, error %v", args, err)
	}
}
