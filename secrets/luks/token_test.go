package luks_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/luks"
)

// TestBirth: the header keeps when its key was made, also when cryptsetup changes its key slots, tokens and label.
func TestBirth(t *testing.T) {
	t.Parallel()
	born := time.Date(2026, 11, 30, 1, 2, 39, 500, time.FixedZone("", 3600))
	f := luks.Format{Version: 2, PayloadOffset: 16 << 20, Birth: born}
	path := formatted(t, f, f.MinimumCost(), 1<<20)
	check := func(when string) {
		t.Helper()
		h := open(t, path)
		if got, ok := h.Birth(); !ok || !got.Equal(born.Truncate(time.Second)) || got.Location() != time.UTC {
			t.Errorf("%s: born %s, %v", when, got, ok)
		}
	}
	check("new")
	if out := run(t, "cryptsetup", "luksDump", path); !strings.Contains(out, "luksplug-data-key") {
		t.Errorf("luksDump: %s", out)
	}
	if out := run(t, "cryptsetup", "repair", "--batch-mode", path); strings.TrimSpace(out) != "" {
		t.Errorf("repair: %s", out)
	}
	addKey(t, path, "second passphrase", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
	run(t, "cryptsetup", "luksKillSlot", "--batch-mode", path, "0", "--key-file", must.File(t, "second passphrase"))
	run(t, "cryptsetup", "config", "--label", "x", path)
	run(t, "cryptsetup", "token", "add", "--key-description", "desc", path)
	check("changed by cryptsetup")
	tokens := open(t, path).LUKS2.Tokens
	if len(tokens) != 2 || tokens[0].Type != "luksplug-data-key" || len(tokens[0].KeySlots) != 0 || tokens[1].ID != 1 || !bytes.Contains(tokens[1].JSON, []byte(`"desc"`)) {
		t.Errorf("tokens %+v", tokens)
	}
	if _, ok := open(t, formatted(t, luks.Format{}, luks.Format{}.MinimumCost(), 0)).Birth(); ok {
		t.Error("a LUKS1 header has a birth")
	}
	if _, err := (luks.Format{Birth: born}).NewKey(); !errors.Is(err, luks.ErrUnsupported) {
		t.Errorf("a birth in LUKS1: %v", err)
	}
}

// TestTokens: tokens are kept as they are, and those that claim a birth in another way do not count.
func TestTokens(t *testing.T) {
	t.Parallel()
	const birth = "2026-11-30T00:02:39Z"
	good := dict{"type": "luksplug-data-key", "keyslots": []any{}, "version": 1, "birth": birth, "more": []any{1}}
	with := func(name string, value any) dict {
		d := dict{}
		for k, v := range good {
			d[k] = v
		}
		d[name] = value
		return d
	}
	for name, test := range map[string]struct {
		tokens dict
		born   bool
	}{
		"none":            {dict{}, false},
		"ours":            {dict{"7": good}, true},
		"after another":   {dict{"0": dict{"type": "clevis", "keyslots": []any{"1"}, "jwe": dict{}}, "31": good}, true},
		"another version": {dict{"0": with("version", 2)}, false},
		"a number":        {dict{"0": with("birth", 1)}, false},
		"no time":         {dict{"0": with("birth", "yesterday")}, false},
		"another type":    {dict{"0": with("type", "luksplug")}, false},
		"the second":      {dict{"0": with("birth", ""), "1": good}, true},
	} {
		h := must.Get(luks.ReadHeader(bytes.NewReader(assemble(changed(set("", "tokens", test.tokens))))))(t)
		born, ok := h.Birth()
		if ok != test.born || ok && born.Format(time.RFC3339) != birth || len(h.LUKS2.Tokens) != len(test.tokens) {
			t.Errorf("%s: %s, %v, %+v", name, born, ok, h.LUKS2.Tokens)
		}
		for _, token := range h.LUKS2.Tokens {
			if !json.Valid(token.JSON) || token.Type == "" {
				t.Errorf("%s: %+v", name, token)
			}
		}
	}
	for name, tokens := range map[string]any{
		"tokens has the wrong type": []any{},
		`"32"`:                      dict{"32": good},
		"tokens.0.type":             dict{"0": dict{"keyslots": []any{}}},
		"tokens.0.keyslots":         dict{"0": dict{"type": "x"}},
		`"x"`:                       dict{"0": dict{"type": "x", "keyslots": []any{"x"}}},
	} {
		_, err := luks.ReadHeader(bytes.NewReader(assemble(changed(set("", "tokens", tokens)))))
		if !errors.Is(err, luks.ErrDamaged) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
