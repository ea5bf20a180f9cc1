package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/secrets"
)

// Source is where the name of a volume was found.
type Source string

// The sources.
const (
	SourceAttached Source = "attached" // luksplug has attached it to a VM of this host
	SourceKeyStore Source = "keystore" // a secret has its path as usage
	SourcePool     Source = "pool"     // it is in a directory
)

// Search is where [List] looks for volumes.
type Search struct {
	// Pools are directories, whose own files are examined and not those of directories below.
	Pools []string
	// Documents are the secrets of the key stores.
	Documents []Claim
	// Uses are the attached disks, see [hotplug.Uses].
	Uses []hotplug.Use
}

// Listed is a volume, or a LUKS header, that [List] has found. Of one that cannot be read, Err is the reason, and of Info only
// Path, Header and what uses the image are known. Slots are not measured.
type Listed struct {
	Info
	Err     error
	Sources []Source
	// Secrets are those that name the volume, see [Claims].
	Secrets []Claim
	Birth   Birth
}

// errNotHere is why the image of an attached disk is not read.
var errNotHere = errors.New("it is not in a file or block device of this host")

// List returns the volumes of this host that a search finds, sorted by path. It needs no passphrase, changes nothing, and
// measures nothing. A volume that several sources name is listed once, under the name of the first of: attached, key
// store, pool. Of a pool, files are listed that are LUKS volumes, qcow2 images with LUKS inside, or LUKS headers, and
// those that cannot be examined. Links are followed, except for those of other users in directories that all may write.
//
// A payload without header is listed with the header if the disk is attached, or if a secret has its path as usage and
// records the UUID of exactly one header in the pools.
//
// The error joins those of directories that cannot be read; the volumes of the others are returned with it. If ctx ends, the
// error is that of ctx.
func List(ctx context.Context, s Search, now time.Time) ([]Listed, error) {
	found, failed := s.candidates()
	headers := map[string]bool{} // the identities of headers that belong to a volume
	var out []*Listed
	for _, l := range found {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if l.Header != "" {
			headers[identity(l.Header)] = true
		}
		if l.read() {
			out = append(out, l)
		}
	}
	pair(out, newClaims(s.Documents), headers)
	out = slices.DeleteFunc(out, func(l *Listed) bool { return l.HeaderAlone && headers[identity(l.Path)] })
	s.complete(out, now)
	listed := make([]Listed, 0, len(out))
	for _, l := range out {
		listed = append(listed, *l)
	}
	slices.SortFunc(listed, func(a, b Listed) int { return strings.Compare(a.Path, b.Path) })
	return listed, failed
}

// SortByAge sorts volumes by the birth of their data keys, the oldest first. Those whose birth is unknown are last.
func SortByAge(all []Listed) {
	slices.SortStableFunc(all, func(a, b Listed) int {
		switch {
		case a.Birth.Known() && b.Birth.Known():
			return a.Birth.Time.Compare(b.Birth.Time)
		case a.Birth.Known():
			return -1
		case b.Birth.Known():
			return 1
		}
		return 0
	})
}

// candidates returns what the sources name, each file once.
func (s Search) candidates() ([]*Listed, error) {
	var out []*Listed
	known := map[string]*Listed{}
	add := func(path, header string, from Source) *Listed {
		id := identity(path)
		l := known[id]
		if l == nil {
			l = &Listed{Info: Info{Path: path}}
			known[id], out = l, append(out, l)
		}
		l.Header = cmp.Or(l.Header, header)
		if !slices.Contains(l.Sources, from) {
			l.Sources = append(l.Sources, from)
		}
		return l
	}
	for _, u := range s.Uses {
		if u.In == "" && u.Payload != "" {
			l := add(u.Payload, u.Header, SourceAttached)
			l.Attached = append(l.Attached, u)
		}
	}
	for _, d := range s.Documents {
		if path := d.Document.Volume(); path != "" {
			add(path, "", SourceKeyStore)
		}
	}
	var failed []error
	for _, pool := range s.Pools {
		entries, err := os.ReadDir(pool)
		if err != nil {
			failed = append(failed, fmt.Errorf("read the pool: %w", err))
		}
		for _, e := range entries {
			if t := e.Type(); t.IsRegular() || t&fs.ModeSymlink != 0 || t&fs.ModeDevice != 0 && t&fs.ModeCharDevice == 0 {
				add(filepath.Join(pool, e.Name()), "", SourcePool)
			}
		}
	}
	return out, errors.Join(failed...)
}

// named reports whether more than a pool names the file, so that it is meant to be a volume.
func (l *Listed) named() bool {
	return slices.ContainsFunc(l.Sources, func(s Source) bool { return s != SourcePool })
}

// read reads the image and the header, and reports whether it is to be listed.
func (l *Listed) read() bool {
	if !filepath.IsAbs(l.Path) && l.named() {
		l.Err = fmt.Errorf("%s: %w", l.Path, errNotHere)
		return true
	}
	i, err := read(l.Path, l.Header)
	if err != nil {
		l.Err = err
		other := errors.Is(err, ErrNoVolume) || errors.Is(err, image.ErrNotImage) || errors.Is(err, fs.ErrNotExist)
		return l.named() || !other
	}
	i.Attached = l.Attached
	i.HeaderAlone = i.HeaderAlone && !l.named()
	l.Info = *i
	return true
}

// pair gives volumes that lack a header the one whose UUID a secret of theirs records. It adds it to headers.
func pair(all []*Listed, c claims, headers map[string]bool) {
	alone := map[string][]*Listed{}
	for _, l := range all {
		if l.HeaderAlone {
			id := strings.ToLower(l.LUKS.UUID)
			alone[id] = append(alone[id], l)
		}
	}
	for _, l := range all {
		if !errors.Is(l.Err, ErrNoVolume) {
			continue
		}
		for _, s := range c.of(l.Path, nil, nil) {
			for _, id := range s.Document.KeyVolumes() {
				candidates := alone[strings.ToLower(id)]
				if len(candidates) != 1 || candidates[0].LUKS.PayloadOffset() != 0 {
					continue
				}
				if i, err := read(l.Path, candidates[0].Path); err == nil {
					i.Attached = l.Attached
					l.Info, l.Err = *i, nil
					headers[identity(l.Header)] = true
				}
			}
		}
	}
}

// complete adds what is known of volumes from elsewhere.
func (s Search) complete(all []*Listed, now time.Time) {
	c := newClaims(s.Documents)
	locked := false
	for _, l := range all {
		var references []secrets.Reference
		for _, u := range l.Attached {
			references = append(references, passphrases(u.Secrets)...)
		}
		l.Secrets = c.of(l.Path, l.LUKS, references)
		if l.LUKS != nil {
			l.Birth = BirthOf(l.LUKS, documentsOf(l.Secrets), now)
		}
		if filepath.IsAbs(l.Path) {
			l.Locked, _ = image.Locked(l.Path) // one that cannot be opened has its error already
			locked = locked || l.Locked
		}
	}
	if !locked {
		return
	}
	holders := image.ReadHolders()
	for _, l := range all {
		if l.Locked {
			l.Holders = holders.Of(l.Path)
		}
	}
}

// passphrases returns the references to passphrases of volumes, without those to passwords of servers.
func passphrases(all []secrets.Reference) []secrets.Reference {
	return slices.DeleteFunc(slices.Clone(all), func(r secrets.Reference) bool { return r.Type != secrets.Passphrase })
}
