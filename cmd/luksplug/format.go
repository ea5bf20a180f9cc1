package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/internal/printable"
)

// diskJSON is a disk, or a leftover, in JSON output. Members are only added.
type diskJSON struct {
	Target   string   `json:"target"`
	State    string   `json:"state"`
	Device   string   `json:"device,omitempty"`
	Driver   string   `json:"driver,omitempty"`
	Size     int64    `json:"size"`
	ReadOnly bool     `json:"read_only"`
	Payload  string   `json:"payload,omitempty"`
	Header   string   `json:"header,omitempty"`
	Parts    []string `json:"parts"`
	Recovery string   `json:"recovery,omitempty"` // read-only, read-write: header is a backup
	Unlock   string   `json:"unlock,omitempty"`   // ephemeral, qemu, external
	UUID     string   `json:"uuid,omitempty"`
	Daemon   int      `json:"daemon,omitempty"`
	// Encrypted is missing for a leftover, of which it is unknown.
	Encrypted *bool  `json:"encrypted,omitempty"`
	Bus       string `json:"bus,omitempty"`
	Address   string `json:"address,omitempty"`
	Serial    string `json:"serial,omitempty"`
	GuestPath string `json:"guest_path,omitempty"`
	Adopted   bool   `json:"adopted,omitempty"` // was attached without luksplug
	// Of a libvirt domain: where the disk is recorded, and how the records differ from QEMU.
	Recorded   []libvirtvm.Scope `json:"recorded,omitempty"`
	Difference string            `json:"difference,omitempty"`
	// Copy is the other volume of a disk that is, or was, copied.
	Copy *copyJSON `json:"copy,omitempty"`
}

// copyJSON is a copy of a disk to another volume in JSON.
type copyJSON struct {
	Payload string            `json:"payload,omitempty"`
	Header  string            `json:"header,omitempty"`
	Phase   hotplug.CopyPhase `json:"phase,omitempty"`
	Done    int64             `json:"done,omitempty"`
	Total   int64             `json:"total,omitempty"`
}

func diskToJSON(h *hotplug.AttachedDisk) diskJSON {
	state := "attached"
	if h.Leftover() {
		state = "leftover"
	}
	d := diskJSON{Target: h.Target, State: state, Device: h.Device, Driver: h.Driver, Size: h.Size, ReadOnly: h.ReadOnly,
		Payload: h.Payload, Header: h.Header, Parts: notNil(h.Left()), Recovery: string(h.Recovery), Unlock: string(h.Unlock), UUID: h.UUID, Daemon: h.Daemon,
		Bus: h.Bus, Address: h.Address, Serial: h.Serial, GuestPath: guestPath(h), Adopted: h.Adopted}
	if h.Copy != nil {
		d.Copy = &copyJSON{Payload: h.Copy.Payload, Header: h.Copy.Header}
	}
	if !h.Leftover() {
		encrypted := h.Unlock != ""
		d.Encrypted = &encrypted
	}
	return d
}

// guestPath returns the stable path of the disk in a Linux guest with udev, "" for a disk
// that has none.
func guestPath(h *hotplug.AttachedDisk) string {
	const shown = 20 // characters of a serial that a virtio disk has room for
	if h.Serial == "" || h.Driver != "virtio-blk-pci" {
		return ""
	}
	return "/dev/disk/by-id/virtio-" + h.Serial[:min(len(h.Serial), shown)]
}

// listedDisks returns the attached disks and leftovers, sorted by target, and after them the
// disks that are only recorded.
func listedDisks(l *libvirtvm.Listing) []diskJSON {
	disks := []diskJSON{}
	at := map[string]int{}
	for i, h := range l.Disks {
		disks = append(disks, diskToJSON(h))
		at[h.Target] = i
	}
	for _, s := range l.States {
		i, attached := at[s.Target]
		if !attached {
			i = len(disks)
			state := "missing"
			if l.Off {
				state = "off"
			}
			disks = append(disks, diskJSON{Target: s.Target, State: state, ReadOnly: s.ReadOnly, Payload: s.Payload, Header: s.Header,
				Recovery: string(s.Recovery), Parts: []string{}, Encrypted: &s.Encrypted})
			at[s.Target] = i
		}
		disks[i].Recorded, disks[i].Difference = s.Recorded(), s.Difference()
	}
	return disks
}

// unlockedBy returns in human-readable form what has opened the volume of a disk.
func unlockedBy(h *hotplug.AttachedDisk) string {
	switch h.Unlock {
	case blockgraph.MethodEphemeralHeader:
		return "by luksplug"
	case blockgraph.MethodStorageDaemon:
		if h.Daemon == 0 {
			return "by qemu-storage-daemon (which has ended)"
		}
		return "by qemu-storage-daemon (process " + strconv.Itoa(h.Daemon) + ")"
	case blockgraph.MethodQEMU:
		return "by QEMU"
	}
	return ""
}

// table lays rows out in columns. Control characters in the cells are escaped.
func table(rows [][]string) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	for _, r := range rows {
		cells := make([]string, len(r))
		for i, cell := range r {
			cells[i] = printable.Line(cell)
		}
		_, _ = fmt.Fprintln(w, strings.Join(cells, "\t")) // into memory
	}
	_ = w.Flush()
	return b.String()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func mode(readOnly bool) string {
	if readOnly {
		return "read-only"
	}
	return "read-write"
}

// headerOf returns the header of a disk for a table.
func headerOf(d diskJSON) string {
	if d.Recovery != "" {
		return d.Header + " (a backup)"
	}
	return dash(d.Header)
}

// size returns bytes in human-readable form, in powers of 1024.
func size(n int64) string {
	units := []string{"bytes", "KiB", "MiB", "GiB", "TiB", "PiB"}
	value, unit := float64(n), 0
	for value >= 1024 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	if value == float64(int64(value)) {
		return fmt.Sprintf("%d %s", int64(value), units[unit])
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// notNil keeps an empty list from being null in JSON.
func notNil(s []string) []string { return append([]string{}, s...) }

// errNotInOrder reports that a check has failed.
var errNotInOrder = errors.New("not everything is in order: see above")

// showReport prints the findings of a check. It returns an error with the reason, of exit
// code 5, if one of them is not in order.
func showReport(a *app, r libvirtvm.Report, reason string) error {
	var text strings.Builder
	for i := range r.Findings {
		f := &r.Findings[i]
		f.Text += findingHint(f.Cause)
		sign := "BAD "
		switch {
		case f.Unchecked:
			sign = "?   "
		case f.Warning:
			sign = "!   "
		case f.Good:
			sign = "ok  "
		}
		text.WriteString(sign + printable.Line(f.Text) + "\n")
	}
	if err := a.show(text.String(), r); err != nil || r.InOrder() {
		return err
	}
	return &hotplug.PreflightError{Reason: reason, Err: errNotInOrder}
}
