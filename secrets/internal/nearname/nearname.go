// Package nearname finds the file that was probably meant to hold a secret.
package nearname

import (
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/similar"
	"github.com/luksplug/luksplug/secrets"
)

// Missing returns the error for a secret whose file, name, is not among names, which are
// those of a directory. It names a file that was probably meant: one with an extension, in
// upper case, whose usage is written in another way, or of another type.
func Missing(ref secrets.Reference, name string, names []string) error {
	text := "there is no file " + name
	if other, why := near(ref, name, names); other != "" {
		text += fmt.Sprintf(", but one named %s: %s", other, why)
	}
	return &secrets.NotFoundError{Detail: text}
}

func near(ref secrets.Reference, name string, names []string) (other, why string) {
	rename := "rename it to " + name
	wanted := map[string]bool{plain(name): true}
	if ref.UUID != uuid.Nil {
		wanted[strings.ReplaceAll(name, "-", "")] = true
	} else {
		wanted[plain(ref.Usage)] = true
		wanted[plain(path.Base(ref.Usage))] = true
	}
	for _, n := range names {
		if strings.HasPrefix(n, ".") || strings.HasSuffix(n, ".xml") && ref.UUID != uuid.Nil {
			continue // the files of writers, and documents
		}
		if wanted[plain(n)] || wanted[plain(strings.TrimSuffix(n, path.Ext(n)))] {
			return n, rename
		}
		kind, usage, found := strings.Cut(n, "-")
		if u := secrets.UsageType(kind); found && ref.Usage != "" && u.Valid() && u != ref.Type.UsageType() && plain(usage) == plain(ref.Usage) {
			return n, fmt.Sprintf("it is of type %s, and a reference of type %s needs %s", u, ref.Type, name)
		}
	}
	if meant := similar.Misspelt(name, names); meant != "" {
		return meant, "is it that one? Then " + rename + ", or correct the reference"
	}
	return "", ""
}

// plain returns a name without what writers of a usage as a file name differ in: case, the
// escaping, and what stands for a slash.
func plain(name string) string {
	if unescaped, err := url.PathUnescape(name); err == nil {
		name = unescaped
	}
	return strings.Trim(strings.NewReplacer("/", "-", "_", "-", ":", "-").Replace(strings.ToLower(name)), "-")
}
