package secrets_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// The kit with libvirt's documents is not part of this repository, because its
// files have another licence. By default it is in a directory next to it.
var kit = filepath.Join("..", "..", "shared", "conformance", "secret")

func TestConformance(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv("LUKSPLUG_CONFORMANCE"); dir != "" {
		kit = filepath.Join(dir, "secret")
	}
	files := must.Get(filepath.Glob(filepath.Join(kit, "*.xml")))(t)
	if len(files) == 0 {
		t.Skipf("the conformance kit is not here: %s has no documents; LUKSPLUG_CONFORMANCE names its directory", kit)
	}
	for _, path := range files {
		text := must.Get(os.ReadFile(path))(t)
		expected := must.Get(os.ReadFile(strings.TrimSuffix(path, ".xml") + ".expected.json"))(t)
		var want struct {
			UUID        string
			Ephemeral   bool
			Private     bool
			Description string
			UsageType   secrets.UsageType `json:"usage_type"`
			Usage       string
		}
		must.OK(t, json.Unmarshal(expected, &want))
		got, err := secrets.ParseDocument(text)
		if err != nil || got.UUID.String() != want.UUID || got.Ephemeral != want.Ephemeral || got.Private != want.Private ||
			got.Description != want.Description || got.UsageType != want.UsageType || got.Usage != want.Usage {
			t.Errorf("%s: %+v, %v, want %+v", path, got, err, want)
		}
		if written := string(got.XML()); strings.TrimSpace(written) != strings.TrimSpace(string(text)) {
			t.Errorf("%s is written as\n%s", path, written)
		}
	}
	t.Logf("%d documents of libvirt", len(files))
}
