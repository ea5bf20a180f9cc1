package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/keystore"
	"github.com/luksplug/luksplug/secrets/pkcs11"
)

// TestConfigurationsOfTheDocuments: every configuration in README.md and docs is valid, and so
// is every key store in it.
func TestConfigurationsOfTheDocuments(t *testing.T) {
	t.Parallel()
	files := append(must.Get(filepath.Glob("../../docs/*.md"))(t), "../../README.md")
	found := 0
	for _, file := range files {
		for number, text := range fenced(string(must.Get(os.ReadFile(file))(t)), "yaml") {
			found++
			where := fmt.Sprintf("%s, configuration %d", file, number+1)
			c, _, err := readConfig(must.File(t, text))
			if err != nil {
				t.Errorf("%s: %v", where, err)
			}
			for _, uri := range c.Keystores {
				if _, err := keystore.Open(uri, keystore.Options{}); err != nil && !errors.Is(err, pkcs11.ErrNotBuilt) {
					t.Errorf("%s: %s: %v", where, uri, err)
				}
			}
		}
	}
	if found < 10 {
		t.Errorf("%d configurations were found in %d files", found, len(files))
	}
}

// fenced returns the blocks of a document that are marked with the language.
func fenced(document, language string) []string {
	var out []string
	var block []string
	inside := false
	for line := range strings.Lines(document) {
		switch mark := strings.TrimSpace(line); {
		case !inside && mark == "```"+language:
			inside = true
		case inside && mark == "```":
			out = append(out, strings.Join(block, ""))
			inside, block = false, nil
		case inside:
			block = append(block, line)
		}
	}
	return out
}
