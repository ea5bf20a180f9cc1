package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// FindVolumes returns the volumes among the files of a directory whose headers a secret opens: its value, or that of a
// change that was begun. Directories in it, and what is no LUKS header, are left out. It tries each header for as long as
// its derivations take. The error wraps [ErrIncomplete] if the secret opens an incomplete volume, and those of the file system.
func FindVolumes(ctx context.Context, dir string, secret Stored) ([]Location, error) {
	values, err := secret.values(ctx)
	defer func() {
		for _, v := range values {
			v.Wipe()
		}
	}()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("find volumes: %w", err)
	}
	var out []Location
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		l, header, err := headerIn(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("find volumes: %w", err)
		}
		if header == nil {
			continue
		}
		switch opens, err := anyOpens(ctx, l, values); {
		case err != nil:
			return nil, fmt.Errorf("find volumes: %s: %w", l.file(), err)
		case opens && header.Incomplete:
			return nil, fmt.Errorf("find volumes: %s: %w, whose passphrase is this secret", l.file(), ErrIncomplete)
		case opens:
			out = append(out, l)
		}
	}
	return out, nil
}

// values returns the value of the secret, and those of a change that was begun. The caller wipes them, also with an error.
func (s Stored) values(ctx context.Context) ([]*secrets.Secret, error) {
	var out []*secrets.Secret
	for _, one := range []Stored{s, s.staged(), s.previous()} {
		value, err := one.value(ctx)
		if err != nil {
			return out, err
		}
		if value != nil {
			out = append(out, value)
		}
	}
	return out, nil
}

// headerIn returns the header in a file, nil if it has none that can be opened.
func headerIn(path string) (Location, *luks.Header, error) {
	l := Location{Path: path}
	probed, err := image.ProbeIncomplete(path)
	switch {
	case errors.Is(err, luks.ErrDamaged), errors.Is(err, luks.ErrUnsupported), errors.Is(err, image.ErrDamaged), errors.Is(err, image.ErrUnsupported),
		errors.Is(err, luks.ErrReencryption):
		return l, nil, nil
	case err != nil:
		return l, nil, err
	case probed.Qcow2 != nil:
		return l, probed.Qcow2.LUKS, nil
	case probed.LUKS != nil && probed.LUKS.PayloadOffset() == 0:
		l.Header = path // of a payload elsewhere
	}
	return l, probed.LUKS, nil
}

// anyOpens reports whether one of the passphrases opens the header at l.
func anyOpens(ctx context.Context, l Location, passphrases []*secrets.Secret) (bool, error) {
	p, err := incomplete().locate(l.Path, l.Header, 0)
	if err != nil {
		return false, err
	}
	content, err := os.Open(p.path)
	if err != nil {
		return false, err
	}
	defer fsutil.CloseRead(content)
	header, err := luks.ReadIncomplete(part{durable{content}, p.offset, p.length})
	for i := 0; err == nil && i < len(passphrases); i++ {
		var key *luks.VolumeKey
		if key, err = tryUnlock(ctx, header, passphrases[i]); key != nil {
			key.Wipe()
			return true, nil
		}
	}
	if errors.Is(err, luks.ErrUnsupported) || errors.Is(err, luks.ErrDamaged) {
		err = nil
	}
	return false, err
}
