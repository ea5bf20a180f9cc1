package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/printable"
)

// volumeListOptions are the flags of volume list.
type volumeListOptions struct {
	pools     []string
	keyAge    bool
	olderThan string
}

func newVolumeList(a *app) *cobra.Command {
	var o volumeListOptions
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the volumes of directories, key stores and VMs",
		Long: `list shows the encrypted volumes of this host: those that luksplug has attached, those
whose paths are the usage of a secret in the key stores, and with --pool those in a
directory (not in directories below it). Of a directory it shows LUKS volumes, qcow2
images that are encrypted by LUKS, and LUKS headers; a payload whose header is in a
file of its own looks like noise, and is found only if a secret or a VM names it.

With --key-age the volumes whose data keys are the oldest come first. --older-than
shows only volumes whose data keys are older, or of unknown age. A change of the
passphrase does not change the data key. Nothing is opened or measured, and no
passphrase is needed.`,
		Example: `  luksplug volume list
  luksplug volume list --pool /var/lib/libvirt/images --key-age
  luksplug --output json volume list --pool /dev/vg0 --pool /srv/images --older-than 90d`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error { return runVolumeList(cmd.Context(), a, o) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.pools, "pool", nil, "a directory with volumes; may be given several times")
	f.BoolVar(&o.keyAge, "key-age", false, "show the age of the data keys, and sort by it")
	f.StringVar(&o.olderThan, "older-than", "", "show volumes whose data keys are older than this, such as 90d, 12w or 36h, or of unknown age; includes --key-age")
	return cmd
}

func runVolumeList(ctx context.Context, a *app, o volumeListOptions) error {
	var limit time.Duration
	if o.olderThan != "" {
		var err error
		if limit, err = parseAge(o.olderThan); err != nil {
			return &usageError{fmt.Errorf("--older-than %q: %w", o.olderThan, err)}
		}
		o.keyAge = true
	}
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	search := volume.Search{}
	for _, p := range o.pools {
		search.Pools = append(search.Pools, absolute(p))
	}
	var err, storesErr error
	if search.Uses, err = a.uses(); err != nil {
		return err
	}
	search.Documents, storesErr = storedSecrets(ctx, a)
	now := time.Now()
	all, err := volume.List(ctx, search, now)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if o.keyAge {
		volume.SortByAge(all)
	}
	if o.olderThan != "" {
		all = slices.DeleteFunc(all, func(l volume.Listed) bool { return l.Birth.Known() && l.Birth.Age(now) <= limit })
	}
	return errors.Join(showVolumes(a, all, o.keyAge, now), err, storesErr)
}

// ageUnits are the units of an age.
var ageUnits = map[string]time.Duration{"m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour}

// parseAge returns the duration of an age such as "90d".
func parseAge(text string) (time.Duration, error) {
	const long = 200 * 365 * 24 * time.Hour
	digits := strings.TrimRight(text, "mhdw")
	unit, known := ageUnits[text[len(digits):]]
	n, err := strconv.ParseUint(digits, 10, 32)
	switch {
	case err != nil || !known:
		return 0, errors.New("give a whole number with a unit, m, h, d or w, such as 90d")
	case n > uint64(long/unit):
		return 0, errors.New("no data key is that old")
	}
	return time.Duration(n) * unit, nil
}

// listedJSON is a volume of a list in JSON. Members are only added.
type listedJSON struct {
	Path   string `json:"path"`
	Header string `json:"header,omitempty"`
	// Layout is missing if the volume cannot be read; so are the members up to the key slots.
	Layout     string          `json:"layout,omitempty"`
	Block      bool            `json:"block_device,omitempty"`
	Size       int64           `json:"size,omitempty"`
	Stored     int64           `json:"allocated,omitempty"`
	LUKS       int             `json:"luks,omitempty"`
	UUID       string          `json:"uuid,omitempty"`
	Encryption string          `json:"encryption,omitempty"`
	Slots      []int           `json:"key_slots,omitempty"` // in use
	Sources    []volume.Source `json:"sources"`
	Secrets    []string        `json:"secrets"`
	Attached   []volumeUseJSON `json:"attached"`
	Problem    string          `json:"problem,omitempty"`
	keyJSON
	openJSON
}

func listedToJSON(l volume.Listed, now time.Time) listedJSON {
	out := listedJSON{Path: l.Path, Header: l.Header, Layout: string(l.Layout()), Block: l.Block, Size: l.Size, Stored: l.Stored,
		Sources: l.Sources, Secrets: claimNames(l.Secrets), Attached: usesToJSON(l.Attached), Problem: errorText(problemOf(l)),
		keyJSON: keyToJSON(l.Birth, now), openJSON: openToJSON(&l.Info)}
	if l.LUKS != nil {
		out.LUKS, out.UUID, out.Slots = l.LUKS.Version, l.LUKS.UUID, l.LUKS.ActiveSlots()
		out.Encryption, _ = encryptionOf(l.LUKS)
	}
	return out
}

// problemOf returns why a volume cannot be read, or why luksplug cannot open it; nil if it can.
func problemOf(l volume.Listed) error {
	if l.Err != nil {
		return l.Err
	}
	return l.Problem
}

func showVolumes(a *app, all []volume.Listed, keyAge bool, now time.Time) error {
	volumes := []listedJSON{}
	header := []string{"PATH", "HEADER", "LAYOUT", "SIZE", "LUKS UUID", "SLOTS", "SECRET", "IN USE"}
	if keyAge {
		header = append(header, "KEY AGE")
	}
	rows := [][]string{header}
	var lines []string
	for _, l := range all {
		volumes = append(volumes, listedToJSON(l, now))
		row := listedRow(l)
		if keyAge {
			row = append(row, keyAgeCell(l.Birth, now))
		}
		rows = append(rows, row)
		if p := problemOf(l); p != nil {
			text := p.Error()
			if !strings.Contains(text, l.Path) {
				text = l.Path + ": " + text
			}
			lines = append(lines, printable.Line(text))
		}
	}
	text := table(rows)
	if len(lines) > 0 {
		text += strings.Join(lines, "\n") + "\n"
	}
	if len(all) == 0 {
		text = "no volume was found\n"
	}
	return a.show(text, struct {
		Volumes []listedJSON `json:"volumes"`
	}{volumes})
}

// listedRow returns the cells of a volume, without the age of its key.
func listedRow(l volume.Listed) []string {
	row := []string{l.Path, dash(l.Header), dash(string(l.Layout())), "-", "-", "-", dash(strings.Join(claimNames(l.Secrets), ", ")), dash(usedBy(l))}
	if l.LUKS == nil {
		return row
	}
	if !l.HeaderAlone {
		row[3] = size(l.Size)
	}
	row[4] = dash(l.LUKS.UUID)
	row[5] = strconv.Itoa(len(l.LUKS.ActiveSlots()))
	return row
}

// usedBy names the VMs that have a volume or, if luksplug has not attached it, the programs.
func usedBy(l volume.Listed) string {
	var texts []string
	for _, u := range l.Attached {
		texts = append(texts, u.VM+" "+u.Target)
	}
	if len(texts) == 0 && l.Locked {
		return holdersText(l.Holders)
	}
	return strings.Join(texts, ", ")
}

// keyAgeCell returns the age of a data key for a table. One that only the header claims has a mark.
func keyAgeCell(b volume.Birth, now time.Time) string {
	switch {
	case !b.Known():
		return "unknown"
	case b.From == volume.BirthInHeader:
		return ageText(b.Age(now)) + " (header)"
	}
	return ageText(b.Age(now))
}
