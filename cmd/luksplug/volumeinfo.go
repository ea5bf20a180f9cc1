package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

func newVolumeInfo(a *app) *cobra.Command {
	header := ""
	cmd := &cobra.Command{
		Use:   "info VOLUME",
		Short: "Show what a volume is, without opening it",
		Long: `info reads an image and its LUKS header, and needs no passphrase: layout, sizes,
encryption, key slots and what deriving a key for each takes on this host, secrets of
the key stores that name the volume, and the VMs to which luksplug has attached it.

VOLUME is the path of an image, a <disk> document (- for standard input, or a name
that ends in .xml), or a "json:" name of QEMU's, as for qemu-img info.`,
		Example: `  luksplug volume info /var/lib/images/vm1-vdb.img --header /var/lib/luksplug/headers/vm1-vdb.hdr
  luksplug volume info vdb.xml
  luksplug volume info 'json:{"driver":"luks","file":{"driver":"file","filename":"p.img"},"header":{"driver":"file","filename":"h.img"}}'`,
		Args: arguments("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVolumeInfo(cmd.Context(), a, args[0], header)
		},
	}
	cmd.Flags().StringVar(&header, "header", "", "the path of a LUKS header outside of the image")
	return cmd
}

func runVolumeInfo(ctx context.Context, a *app, name, header string) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	path, header, err := headerFlags{header: header}.volume(ctx, a, name)
	if err != nil {
		return err
	}
	uses, err := a.uses()
	if err != nil {
		return err
	}
	i, err := volume.Inspect(ctx, path, header, uses)
	if err != nil {
		return err
	}
	found, problem := secretsOf(ctx, a, path)
	if problem != nil {
		if err := a.note("secrets that name the volume are not shown: %v", problem); err != nil {
			return err
		}
	}
	return a.show(infoText(i, found), infoToJSON(i, found))
}

// volumeName returns the image and, if the argument names one, the header of a volume.
func volumeName(ctx context.Context, a *app, name string) (path, header string, err error) {
	switch {
	case strings.HasPrefix(name, "json:"):
		if path, header, err = volume.ParseName(name); err != nil {
			return "", "", &usageError{err}
		}
		return path, header, nil
	case !isDocument(name):
		return name, "", nil
	}
	xml, err := a.readInput(ctx, name)
	if err != nil {
		return "", "", &usageError{fmt.Errorf("read the disk XML: %w", err)}
	}
	disk, err := libvirtvm.ParseDisk(xml, libvirtvm.Reading{})
	if err != nil {
		return "", "", err
	}
	if !disk.Image.Source.Local() {
		return "", "", &usageError{fmt.Errorf("the volume %s is not on this host, and info reads files and block devices only", disk.Image.Source)}
	}
	if h := disk.Header(); h != nil {
		if !h.Source.Local() {
			return "", "", &usageError{fmt.Errorf("the header %s is not on this host, and info reads files and block devices only", h.Source)}
		}
		header = h.Source.Path
	}
	return disk.Image.Source.Path, header, nil
}

// secretsOf returns the secrets of the key stores that name a volume.
func secretsOf(ctx context.Context, a *app, path string) ([]found, error) {
	var all []found
	err := withStores(ctx, a, func(ctx context.Context, stores []secrets.Store) (err error) {
		all, err = listAll(ctx, stores, func(secrets.Store) {})
		return err
	})
	return slices.DeleteFunc(all, func(f found) bool { return f.document.Volume() == "" || !samePath(f.document.Volume(), path) }), err
}

// infoJSON is a volume in JSON.
type infoJSON struct {
	Path       string          `json:"path"`
	Header     string          `json:"header,omitempty"`
	Format     string          `json:"format"`
	Block      bool            `json:"block_device"`
	Size       int64           `json:"size"`
	Stored     int64           `json:"allocated"`
	LUKS       int             `json:"luks"`
	UUID       string          `json:"uuid"`
	Label      string          `json:"label,omitempty"`
	Encryption string          `json:"encryption"`
	KeyBits    int             `json:"key_bits"`
	Inside     bool            `json:"header_inside"`
	Payload    int64           `json:"payload_offset"`
	Slots      []slotJSON      `json:"key_slots"`
	Secrets    []string        `json:"secrets"`
	Attached   []volumeUseJSON `json:"attached"`
	Problem    string          `json:"problem,omitempty"`
	QEMU       string          `json:"qemu_problem,omitempty"`
}

type slotJSON struct {
	Slot         int     `json:"slot"`
	Type         string  `json:"type"`
	Hash         string  `json:"hash,omitempty"`
	Iterations   uint32  `json:"iterations,omitempty"`
	Time         uint32  `json:"time,omitempty"`
	Memory       uint32  `json:"memory_kib,omitempty"`
	Lanes        uint32  `json:"lanes,omitempty"`
	Milliseconds float64 `json:"milliseconds"` // of deriving the key on this host
}

type volumeUseJSON struct {
	VM     string `json:"vm"`
	Target string `json:"target"`
}

func infoToJSON(i *volume.Info, secrets []found) infoJSON {
	out := infoJSON{Path: i.Path, Header: i.Header, Format: i.Format, Block: i.Block, Size: i.Size, Stored: i.Stored,
		LUKS: i.LUKS.Version, UUID: i.LUKS.UUID, Inside: i.Inside, Payload: i.LUKS.PayloadOffset(), Slots: []slotJSON{}, Secrets: []string{}, Attached: []volumeUseJSON{}}
	out.Encryption, out.KeyBits = encryptionOf(i.LUKS)
	if i.LUKS.LUKS2 != nil {
		out.Label = i.LUKS.LUKS2.Label
	}
	for _, s := range i.Slots {
		out.Slots = append(out.Slots, slotJSON{s.Slot, s.KDF.Type, s.KDF.Hash, s.KDF.Iterations, s.KDF.Time, s.KDF.Memory, s.KDF.Lanes, milliseconds(s.Time)})
	}
	for _, s := range secrets {
		out.Secrets = append(out.Secrets, s.document.UUID.String())
	}
	for _, u := range i.Attached {
		out.Attached = append(out.Attached, volumeUseJSON{u.VM, u.Target})
	}
	if i.Problem != nil {
		out.Problem = i.Problem.Error()
	}
	if i.QEMU != nil {
		out.QEMU = i.QEMU.Error()
	}
	return out
}

// encryptionOf returns the encryption of a volume and the length of its key in bits.
func encryptionOf(h *luks.Header) (string, int) {
	switch {
	case h.LUKS1 != nil:
		return h.LUKS1.Cipher + "-" + h.LUKS1.Mode, h.LUKS1.KeyBytes * 8
	case h.LUKS2 != nil && len(h.LUKS2.Segments) > 0:
		bits := 0
		for _, s := range h.LUKS2.KeySlots {
			bits = max(bits, s.KeyBytes*8)
		}
		return h.LUKS2.Segments[0].Encryption, bits
	}
	return "", 0
}

// infoText returns the human-readable form.
func infoText(i *volume.Info, secrets []found) string {
	kind := "file"
	if i.Block {
		kind = "block device"
	}
	place := fmt.Sprintf("in the image, the payload begins at byte %d", i.LUKS.PayloadOffset())
	switch {
	case i.Header != "":
		place = i.Header
	case i.Inside:
		place = "inside the qcow2 image"
	}
	rows := [][]string{
		{"image", fmt.Sprintf("%s (%s, %s)", i.Path, i.Format, kind)},
		{"header", place},
		{"size", fmt.Sprintf("%s (%d bytes), %s of the image allocated", size(i.Size), i.Size, size(i.Stored))},
		{"LUKS", i.LUKS.String()},
		{"UUID", i.LUKS.UUID},
	}
	if l := i.LUKS.LUKS2; l != nil && l.Label != "" {
		rows = append(rows, []string{"label", fmt.Sprintf("%q", l.Label)})
	}
	for _, s := range i.Slots {
		rows = append(rows, []string{fmt.Sprintf("key slot %d", s.Slot), fmt.Sprintf("%s, about %s on this host", derivation(s.KDF), s.Time.Round(s.Time/10+1))})
	}
	for _, s := range secrets {
		rows = append(rows, []string{"secret", fmt.Sprintf("%s in %s", s.document.UUID, s.store)})
	}
	for _, u := range i.Attached {
		rows = append(rows, []string{"attached", fmt.Sprintf("to %s as %s", u.VM, u.Target)})
	}
	if i.Problem != nil {
		rows = append(rows, []string{"problem", i.Problem.Error()})
	}
	if i.QEMU != nil {
		rows = append(rows, []string{"with QEMU", i.QEMU.Error()})
	}
	return table(rows)
}

func derivation(k luks.KDF) string {
	if k.Iterations > 0 {
		return fmt.Sprintf("%s %s, %d iterations", k.Type, k.Hash, k.Iterations)
	}
	return fmt.Sprintf("%s, %d passes over %s, %d lanes", k.Type, k.Time, size(int64(k.Memory)<<10), k.Lanes)
}
