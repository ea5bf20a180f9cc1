package secrets

import (
	"strings"
	"time"
)

// A line of a description records when the data key of a LUKS volume was made:
//
//	data key of LUKS 7b00deeb-1c2f-4f5e-8d0b-3c8f6f1e2a4d: 2026-11-30T00:02:39Z
//
// libvirt drops elements of a <secret> document that it does not know, and keeps the description as it is.
const (
	birthPrefix = "data key of LUKS "
	birthMiddle = ": "
)

// KeyBirth returns when the data key of the LUKS volume with that UUID was made, as the description records it. The result
// is false if it records nothing for the volume. The record was written by those who may define the secret.
func (d Document) KeyBirth(volume string) (time.Time, bool) {
	for line := range strings.SplitSeq(d.Description, "\n") {
		id, text, ok := birthLine(line)
		if !ok || !strings.EqualFold(id, volume) {
			continue
		}
		if born, err := time.Parse(time.RFC3339, text); err == nil {
			return born.UTC(), true
		}
	}
	return time.Time{}, false
}

// KeyVolumes returns the UUIDs of the LUKS volumes whose data keys the description records.
func (d Document) KeyVolumes() []string {
	var volumes []string
	for line := range strings.SplitSeq(d.Description, "\n") {
		if id, _, ok := birthLine(line); ok {
			volumes = append(volumes, id)
		}
	}
	return volumes
}

// WithKeyBirth returns d with a record in its description, in seconds and UTC. It replaces an earlier record of the volume,
// and leaves the rest of the description as it is. volume is the UUID of the LUKS volume.
func (d Document) WithKeyBirth(volume string, born time.Time) Document {
	d = d.WithoutKeyBirth(volume)
	line := birthPrefix + volume + birthMiddle + born.UTC().Format(time.RFC3339)
	if d.Description != "" {
		line = "\n" + line
	}
	d.Description += line
	return d
}

// WithoutKeyBirth returns d without records of the volume in its description.
func (d Document) WithoutKeyBirth(volume string) Document {
	var kept []string
	for line := range strings.SplitSeq(d.Description, "\n") {
		if id, _, ok := birthLine(line); !ok || !strings.EqualFold(id, volume) {
			kept = append(kept, line)
		}
	}
	d.Description = strings.Join(kept, "\n")
	return d
}

// birthLine splits a record into the UUID of the volume and the time, which it does not check.
func birthLine(line string) (volume, born string, ok bool) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(line), birthPrefix)
	if !ok {
		return "", "", false
	}
	volume, born, ok = strings.Cut(rest, birthMiddle)
	return volume, born, ok && volume != ""
}
