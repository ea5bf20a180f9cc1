package main

import (
	"path/filepath"
	"testing"
)

// FuzzConfig: a configuration is refused, or all that it says is as documented.
func FuzzConfig(f *testing.F) {
	for _, text := range []string{
		"keystores:\n  - \"vm:\"\n  - age:/var/lib/luksplug/secrets\n", "keystores:\n  - vm:\n", "state: /a\nephemeral: /b\n", "connect: qemu:///system\n",
		"hook:\n  timeout: 20s\n  log: /x\n  forget: [migrated, destroyed]\n  any-volume: true\n", "hook: {timeout: -1s}", "# nothing\n", "a: &a [*a]\n", "---\n---\n", "\xff\x00",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := loadConfig([]byte(text))
		if err != nil {
			return
		}
		for _, path := range []string{c.State, c.Ephemeral, c.Hook.Log} {
			if path != "" && !filepath.IsAbs(path) {
				t.Errorf("the path %q", path)
			}
		}
		if c.Hook.Timeout < 0 || len(c.Keystores) > 0 && c.State != "" {
			t.Errorf("%+v", c)
		}
	})
}
