package volume

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Claim is a secret in a key store that may name a volume.
type Claim struct {
	Store    secrets.Store
	Document secrets.Document
}

// Claims returns the secrets that name a volume: first those whose usage is its path, then those that one of the references
// names, then those whose description records its LUKS UUID. It reads no value.
func Claims(i *Info, documents []Claim, references []secrets.Reference) []Claim {
	return newClaims(documents).of(i.Path, i.LUKS, references)
}

// claims finds the secrets that name a volume.
type claims struct {
	documents []Claim
	byFile    map[string][]int // by the identity of the file that is the usage
	byVolume  map[string][]int // by the LUKS UUID in the description, in lower case
	byName    map[secrets.Reference][]int
}

func newClaims(documents []Claim) claims {
	c := claims{documents, map[string][]int{}, map[string][]int{}, map[secrets.Reference][]int{}}
	for i, s := range documents {
		if path := s.Document.Volume(); path != "" {
			c.byFile[identity(path)] = append(c.byFile[identity(path)], i)
		}
		for _, id := range s.Document.KeyVolumes() {
			id = strings.ToLower(id)
			c.byVolume[id] = append(c.byVolume[id], i)
		}
		for _, ref := range []secrets.Reference{{UUID: s.Document.UUID}, {Usage: s.Document.Usage}} {
			c.byName[ref] = append(c.byName[ref], i)
		}
	}
	return c
}

// of returns the secrets that name a volume. h is nil if its header cannot be read.
func (c claims) of(path string, h *luks.Header, references []secrets.Reference) []Claim {
	found := slices.Clone(c.byFile[identity(path)])
	for _, ref := range references {
		for _, i := range c.byName[secrets.Reference{UUID: ref.UUID, Usage: ref.Usage}] {
			if answers, err := c.documents[i].Document.Answers(ref); answers && err == nil {
				found = append(found, i)
			}
		}
	}
	if h != nil && h.UUID != "" {
		found = append(found, c.byVolume[strings.ToLower(h.UUID)]...)
	}
	var out []Claim
	for at, i := range found {
		if !slices.Contains(found[:at], i) {
			out = append(out, c.documents[i])
		}
	}
	return out
}

// documentsOf returns the documents of secrets.
func documentsOf(all []Claim) []secrets.Document {
	var out []secrets.Document
	for _, s := range all {
		out = append(out, s.Document)
	}
	return out
}

// identity returns a text that is equal for paths that lead to the same file or block device, also through links; the path
// itself if there is none.
func identity(path string) string {
	var stat unix.Stat_t
	switch err := unix.Stat(path, &stat); {
	case err != nil:
		return filepath.Clean(path)
	case stat.Mode&unix.S_IFMT == unix.S_IFBLK:
		return fmt.Sprintf("device %d", stat.Rdev)
	}
	return fmt.Sprintf("file %d %d", stat.Dev, stat.Ino)
}
