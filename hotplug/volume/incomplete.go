package volume

import (
	"context"
	"fmt"
	"os"

	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Complete removes the mark of an incomplete volume, once all of its data are written. It stores the image before, so that no crash
// leaves a volume without the mark and without its data, and returns once all is stored. The volume may be attached. It
// does nothing but that for a volume without the mark, so that an interrupted call can be repeated: after a crash the
// volume is incomplete or complete.
//
// The errors wrap [ErrBusy], [ErrNoVolume], [ErrPlace], those of luks.ReadIncomplete, and those of the file system.
func Complete(ctx context.Context, l Location) error {
	err := changeMark(ctx, l, completed)
	if err != nil {
		return fmt.Errorf("mark %s as complete: %w", l.Path, err)
	}
	return nil
}

// completed stores what is written to s, and removes the mark of the header in it.
func completed(s luks.Storage) error {
	if err := s.Sync(); err != nil {
		return err
	}
	return luks.Complete(s)
}

// MarkIncomplete marks a volume as incomplete, for example after QEMU has opened a qcow2 image with the header inside, which it
// does not with the mark; or when a disk goes back to the volume whose data this one has. It returns once the mark is stored. The
// volume may be attached. It does nothing for a volume that has the mark.
//
// The errors are those of [Complete].
func MarkIncomplete(ctx context.Context, l Location) error {
	if err := changeMark(ctx, l, luks.MarkIncomplete); err != nil {
		return fmt.Errorf("mark %s as incomplete: %w", l.Path, err)
	}
	return nil
}

// changeMark calls change with the header of a volume, after the image is stored.
func changeMark(ctx context.Context, l Location, change func(luks.Storage) error) error {
	h, err := incomplete().hold(ctx, l)
	if err != nil {
		return err
	}
	defer h.close()
	if l.Header != "" {
		if err := syncImage(l.Path); err != nil {
			return err
		}
	}
	return change(h)
}

// syncImage stores what was written to an image by any process.
func syncImage(path string) error {
	f, err := image.Open(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer fsutil.CloseRead(f) // synced
	return f.Sync()
}
