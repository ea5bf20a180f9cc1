package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/volume"
)

// plain reports whether a volume is without encryption: its marks are attributes of its file.
func (v Volume) plain() bool { return v.UUID == "" }

// location returns where a volume is.
func (v Volume) location() volume.Location { return volume.Location{Path: v.Payload, Header: v.Header} }

// markable reports whether a volume without encryption can be marked.
func (v Volume) markable() bool {
	info, err := image.Inspect(v.Payload)
	return err == nil && !info.Block && image.AttributeIncomplete.Possible(v.Payload) == nil
}

// mark marks a volume as one that lacks data. id is that of the re-encryption. The error wraps [volume.ErrNoAttributes] for a volume
// without encryption that cannot be marked.
func (v Volume) mark(ctx context.Context, id string) error {
	if v.plain() {
		return volume.MarkPlain(v.Payload, id)
	}
	return volume.MarkIncomplete(ctx, v.location())
}

// complete removes the mark.
func (v Volume) complete(ctx context.Context) error {
	if v.plain() {
		return volume.CompletePlain(v.Payload)
	}
	return volume.Complete(ctx, v.location())
}

// state is what the marks of a volume say.
type state string

const (
	stateMissing  state = "missing" // there is none, or another one
	stateMarked   state = "marked"
	stateComplete state = "complete"
)

// state reads the marks. Of a volume without encryption, made is the re-encryption that has to have made it, "" for the old one.
func (v Volume) state(ctx context.Context, made string) (state, error) {
	if v.plain() {
		return v.plainState(made)
	}
	info, err := volume.Inspect(ctx, v.Payload, v.Header, nil)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, volume.ErrNoVolume), err == nil && !strings.EqualFold(info.LUKS.UUID, v.UUID):
		return stateMissing, nil
	case err != nil:
		return "", err
	case info.LUKS.Incomplete:
		return stateMarked, nil
	}
	return stateComplete, nil
}

func (v Volume) plainState(made string) (state, error) {
	by, marked, err := volume.PlainMarks(v.Payload)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && made != "" && by != made:
		return stateMissing, nil
	case err != nil:
		return "", err
	case marked != "":
		return stateMarked, nil
	}
	return stateComplete, nil
}

// remove removes the file of a volume without encryption. Another file that has the name stays, see [Volume.state].
func (v Volume) remove(uses []hotplug.Use, made string) error {
	switch found, err := v.plainState(made); {
	case err != nil:
		return err
	case found == stateMissing:
		return nil
	}
	for _, u := range uses {
		if image.SameFile(u.Payload, v.Payload) {
			return fmt.Errorf("%s is attached as %s of VM %s: %w", v.Payload, u.Target, u.VM, hotplug.ErrImageInUse)
		}
	}
	if block(v.Payload) {
		return nil // a device stays, with its data
	}
	if err := image.CheckLock(v.Payload, image.ReadWrite); err != nil {
		return err
	}
	return image.Remove(v.Payload)
}
