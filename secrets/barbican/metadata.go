package barbican

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
)

// namePrefix is the prefix of the names of secrets that luksplug defines; the uuid follows.
const namePrefix = "luksplug:"

// The keys of the metadata.
const (
	keyUUID        = "uuid"
	keyGeneration  = "generation"
	keyUsageType   = "usage-type"
	keyUsage       = "usage"
	keyPrivate     = "private"
	keyDescription = "description"

	yes = "yes"
)

// maxText is the longest name and metadata value, in characters, that Barbican's
// database keeps. Some databases silently truncate longer ones.
const maxText = 255

// owner returns the uuid of the secret that i is a version of; the zero UUID for
// a secret of another program.
func (i item) owner() uuid.UUID {
	text, ours := strings.CutPrefix(i.name, namePrefix)
	id, err := secrets.ParseUUID(text)
	if !ours || err != nil {
		return uuid.Nil
	}
	return id
}

// foreignVersion returns the version for a secret of another program.
func foreignVersion(i item) version {
	d := secrets.Document{UUID: i.id}
	kind, usage, found := strings.Cut(i.name, ":")
	if u := secrets.UsageType(kind); found && usage != "" && u != secrets.UsageNone && u.Valid() && secrets.IsText(usage) {
		d.UsageType, d.Usage = u, usage
	} else if secrets.IsText(i.name) && i.name != i.id.String() {
		d.Description = i.name
	}
	return version{item: i, document: d}
}

// metadataOf returns the metadata that holds a whole document.
func metadataOf(d secrets.Document, generation uint64) map[string]string {
	out := map[string]string{keyUUID: d.UUID.String(), keyGeneration: strconv.FormatUint(generation, 10)}
	if d.UsageType != secrets.UsageNone {
		out[keyUsageType], out[keyUsage] = string(d.UsageType), d.Usage
	}
	if d.Private {
		out[keyPrivate] = yes
	}
	if d.Description != "" {
		out[keyDescription] = d.Description
	}
	return out
}

// documentOf is the inverse of metadataOf, for the secret with that uuid. It
// ignores keys of other programs.
func documentOf(meta map[string]string, id uuid.UUID) (d secrets.Document, generation uint64, err error) {
	d = secrets.Document{
		UUID:        id,
		UsageType:   secrets.UsageType(meta[keyUsageType]),
		Usage:       meta[keyUsage],
		Private:     meta[keyPrivate] == yes,
		Description: meta[keyDescription],
	}
	generation, err = strconv.ParseUint(meta[keyGeneration], 10, 64)
	switch {
	case meta[keyUUID] != id.String():
		return d, 0, fmt.Errorf("its %s is of another secret", keyUUID)
	case err != nil || generation == 0:
		return d, 0, fmt.Errorf("its %s is not a number of 1 or more", keyGeneration)
	case meta[keyPrivate] != "" && !d.Private:
		return d, 0, fmt.Errorf("its %s is not %q", keyPrivate, yes)
	}
	if err := d.Validate(); err != nil {
		return d, 0, errors.New(err.Error()) // must not wrap ErrInvalidDocument
	}
	return d, generation, nil
}

// fits reports whether Barbican can keep the document.
func fits(d secrets.Document) error {
	for what, text := range map[string]string{keyUsage: d.Usage, keyDescription: d.Description} {
		if n := utf8.RuneCountInString(text); n > maxText {
			return fmt.Errorf("the %s has %d characters, and Barbican keeps %d: shorten it", what, n, maxText)
		}
	}
	return nil
}
