package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
)

// TestConfigErrors: the errors of a configuration name the line and key, and speak neither of
// Go's types nor as YAML's parser does.
func TestConfigErrors(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"keystore: dir:one":                     `line 1: unknown key "keystore": did you mean keystores?`,
		"stores: []":                            `line 1: unknown key "stores": known are connect, keystores`,
		"hook:\n  timeot: 5s":                   `line 2: unknown key "timeot" of hook: did you mean timeout?`,
		"connect: a\nkeystores: []\nconnect: b": "line 3: connect is already in line 1",
		"- dir:one":                             "line 1: the configuration is not a list of KEY: VALUE",
		"text":                                  "line 1: the configuration is not a list of KEY: VALUE",
		"hook: x":                               "line 1: hook is not a list of KEY: VALUE",
		"keystores: dir:x":                      "line 1: keystores is not a list",
		"keystores: [[dir:x]]":                  "line 1: an item of keystores is not a text",
		"connect: {a: b}":                       "line 1: connect is not a text",
		"hook: {any-volume: maybe}":             "line 1: hook, any-volume is not true or false",
		"hook: {timeout: soon}":                 "line 1: hook, timeout: not a time: give a number of seconds, or a time with its unit",
		"hook: {timeout: [5s]}":                 "line 1: hook, timeout is not a time",
		"a: b: c":                               "line 1, column 5: it is not valid YAML: mapping values are not allowed in this context",
		"\tx: y":                                "line 1, column 1: it is not valid YAML",
		"keystores: [a":                         "line 2, column 1: it is not valid YAML: did not find expected ',' or ']'",
		"connect: *a":                           "line 1, column 10: it is not valid YAML: unknown anchor 'a' referenced",
		"keystores: &a [*a]":                    "an item of keystores is not a text",
		"--- {connect: a}\n--- {connect: b}":    "it has more than one document",
		"keystores: [dir:/a]\n\nstate: relative/": "remove the one or the other",
	} {
		_, found, err := readConfig(must.File(t, text+"\n"))
		if usage := (*usageError)(nil); !found || !errors.As(err, &usage) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
			continue
		}
		for _, word := range []string{"yaml:", "main.", "!!", "struct", "unmarshal", "construct", "go-yaml", "\n"} {
			if strings.Contains(err.Error(), word) {
				t.Errorf("%q: %v has %q", text, err, word)
			}
		}
	}
	for _, text := range []string{"", "# nothing", "hook:", "keystores: &a ['dir:/a']", "connect: 5"} {
		if _, _, err := readConfig(must.File(t, text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}
