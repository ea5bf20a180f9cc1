package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

func newVolumeInfo(a *app) *cobra.Command {
	header, check := "", false
	cmd := &cobra.Command{
		Use:   "info VOLUME",
		Short: "Show what a volume is, without opening it",
		Long: `info reads an image and its LUKS header, and needs no passphrase: layout, sizes,
encryption, the age of the data key, key slots and what deriving a key for each takes on
this host, secrets of the key stores that name the volume, the VMs to which luksplug has
attached it, and the programs of QEMU's that have the image open.

With --check it also tries these secrets, and the passphrase of --passphrase-file: it shows
which key slot each opens. The exit code is 4 if none opens the volume. Nothing is written.

VOLUME is the path of an image, a <disk> document (- for standard input, or a name
that ends in .xml), or a "json:" name of QEMU's, as for qemu-img info.`,
		Example: `  luksplug volume info /var/lib/images/vm1-vdb.img --header /var/lib/luksplug/headers/vm1-vdb.hdr
  luksplug volume info vdb.xml --check
  luksplug volume info 'json:{"driver":"luks","file":{"driver":"file","filename":"p.img"},"header":{"driver":"file","filename":"h.img"}}'`,
		Args: arguments("VOLUME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVolumeInfo(cmd.Context(), a, args[0], header, check)
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "try the secrets that name the volume, and show the key slot that each opens")
	cmd.Flags().StringVar(&header, "header", "", "the path of a LUKS header outside of the image")
	return cmd
}

func runVolumeInfo(ctx context.Context, a *app, name, header string, check bool) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	v, err := readVolumeName(ctx, a, name)
	switch {
	case err != nil:
		return err
	case v.header != "" && header != "":
		return &usageError{errors.New("--header and VOLUME both name a header")}
	}
	uses, err := a.uses()
	if err != nil {
		return err
	}
	i, err := volume.Inspect(ctx, v.path, cmp.Or(v.header, header), uses)
	if err != nil {
		return err
	}
	shown := shownVolume{Info: i, now: time.Now()}
	stored, problem := storedSecrets(ctx, a)
	if problem != nil {
		if err := a.note("not all secrets that name the volume are shown: %v", problem); err != nil {
			return err
		}
	}
	shown.claims = volume.Claims(i, stored, v.secrets)
	shown.birth = volume.BirthOf(i.LUKS, documents(shown.claims), shown.now)
	if !check {
		return a.show(shown.text(), shown.json())
	}
	shown.trials = trySecrets(ctx, a, i, shown.claims)
	if err := a.show(shown.text(), shown.json()); err != nil {
		return err
	}
	return shown.checked(problem)
}

// storedSecrets returns the secrets of the key stores. With an error, those of some stores are missing.
func storedSecrets(ctx context.Context, a *app) ([]volume.Claim, error) {
	var all []found
	err := withStores(ctx, a, func(ctx context.Context, stores []secrets.Store) (err error) {
		all, err = listAll(ctx, stores, func(secrets.Store) {})
		return err
	})
	var out []volume.Claim
	for _, f := range all {
		out = append(out, volume.Claim{Store: f.store, Document: f.document})
	}
	return out, err
}

func documents(all []volume.Claim) []secrets.Document {
	var out []secrets.Document
	for _, s := range all {
		out = append(out, s.Document)
	}
	return out
}

// volumeArgument is what the argument of a command says of a volume.
type volumeArgument struct {
	path, header string
	secrets      []secrets.Reference // of a <disk>
}

// volumeName returns the image and, if the argument names one, the header of a volume.
func volumeName(ctx context.Context, a *app, name string) (path, header string, err error) {
	v, err := readVolumeName(ctx, a, name)
	return v.path, v.header, err
}

// readVolumeName returns what the argument says of the volume.
func readVolumeName(ctx context.Context, a *app, name string) (v volumeArgument, err error) {
	switch {
	case strings.HasPrefix(name, "json:"):
		if v.path, v.header, err = volume.ParseName(name); err != nil {
			return v, &usageError{err}
		}
		return v, nil
	case !isDocument(name):
		return volumeArgument{path: name}, nil
	}
	xml, err := a.readInput(ctx, name)
	if err != nil {
		return v, &usageError{fmt.Errorf("read the disk XML: %w", err)}
	}
	disk, err := libvirtvm.ParseDisk(xml, libvirtvm.Reading{})
	if err != nil {
		return v, err
	}
	if !disk.Image.Source.Local() {
		return v, &usageError{fmt.Errorf("the volume %s is not on this host, and info reads files and block devices only", disk.Image.Source)}
	}
	if h := disk.Header(); h != nil {
		if !h.Source.Local() {
			return v, &usageError{fmt.Errorf("the header %s is not on this host, and info reads files and block devices only", h.Source)}
		}
		v.header = h.Source.Path
	}
	v.path = disk.Image.Source.Path
	if e := disk.Image.Encryption; e != nil { // those of images below are other volumes'
		v.secrets = e.Secrets
	}
	return v, nil
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

// shownVolume is a volume with what the key stores say of it.
type shownVolume struct {
	*volume.Info
	claims []volume.Claim
	birth  volume.Birth
	trials []trial // nil without --check
	now    time.Time
}

// infoJSON is a volume in JSON.
type infoJSON struct {
	Path       string          `json:"path"`
	Header     string          `json:"header,omitempty"`
	Format     string          `json:"format"`
	Layout     string          `json:"layout"`
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
	keyJSON
	openJSON
	Checked []trialJSON `json:"checked,omitempty"` // with --check
}

// keyJSON is the age of a data key in JSON. All is missing if it is unknown.
type keyJSON struct {
	Birth string `json:"key_birth,omitempty"`      // RFC 3339, UTC
	From  string `json:"key_birth_from,omitempty"` // keystore, header
	Age   *int64 `json:"key_age_seconds,omitempty"`
}

func keyToJSON(b volume.Birth, now time.Time) keyJSON {
	if !b.Known() {
		return keyJSON{}
	}
	seconds := int64(b.Age(now) / time.Second)
	return keyJSON{b.Time.Format(time.RFC3339), string(b.From), &seconds}
}

// openJSON is in JSON whether programs of QEMU's have an image open, and which: they may be unknown.
type openJSON struct {
	InUse   bool         `json:"in_use"`
	Holders []holderJSON `json:"in_use_by"`
}

type holderJSON struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
}

func openToJSON(i *volume.Info) openJSON {
	out := openJSON{i.Locked, []holderJSON{}}
	for _, h := range i.Holders {
		out.Holders = append(out.Holders, holderJSON{h.Name, h.PID})
	}
	return out
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

func (v shownVolume) json() infoJSON {
	i := v.Info
	out := infoJSON{Path: i.Path, Header: i.Header, Format: i.Format, Layout: string(i.Layout()), Block: i.Block, Size: i.Size, Stored: i.Stored,
		LUKS: i.LUKS.Version, UUID: i.LUKS.UUID, Inside: i.Inside, Payload: i.LUKS.PayloadOffset(), Slots: []slotJSON{}, Secrets: claimNames(v.claims), Attached: usesToJSON(i.Attached),
		keyJSON: keyToJSON(v.birth, v.now), openJSON: openToJSON(i), Problem: errorText(i.Problem), QEMU: errorText(i.QEMU)}
	out.Encryption, out.KeyBits = encryptionOf(i.LUKS)
	if i.LUKS.LUKS2 != nil {
		out.Label = i.LUKS.LUKS2.Label
	}
	for _, s := range i.Slots {
		out.Slots = append(out.Slots, slotJSON{s.Slot, s.KDF.Type, s.KDF.Hash, s.KDF.Iterations, s.KDF.Time, s.KDF.Memory, s.KDF.Lanes, milliseconds(s.Time)})
	}
	for _, t := range v.trials {
		out.Checked = append(out.Checked, t.json())
	}
	return out
}

// claimNames returns the names of secrets, which are their uuids.
func claimNames(all []volume.Claim) []string {
	names := []string{}
	for _, s := range all {
		names = append(names, secretName(s.Document))
	}
	return names
}

// secretName returns the uuid of a secret; of one without, TYPE:USAGE.
func secretName(d secrets.Document) string {
	if d.UUID == uuid.Nil {
		return string(d.UsageType) + ":" + d.Usage
	}
	return d.UUID.String()
}

func usesToJSON(uses []hotplug.Use) []volumeUseJSON {
	out := []volumeUseJSON{}
	for _, u := range uses {
		out = append(out, volumeUseJSON{u.VM, u.Target})
	}
	return out
}

// errorText returns the text of an error, "" for none.
func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
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

// text returns the human-readable form.
func (v shownVolume) text() string {
	i := v.Info
	kind := "file"
	if i.Block {
		kind = "block device"
	}
	rows := [][]string{
		{"image", fmt.Sprintf("%s (%s, %s)", i.Path, i.Format, kind)},
		{"header", headerPlace(i)},
		{"size", fmt.Sprintf("%s (%d bytes), %s of the image allocated", size(i.Size), i.Size, size(i.Stored))},
		{"LUKS", i.LUKS.String()},
		{"UUID", i.LUKS.UUID},
		{"data key", birthText(v.birth, v.now)},
	}
	if l := i.LUKS.LUKS2; l != nil && l.Label != "" {
		rows = append(rows, []string{"label", fmt.Sprintf("%q", l.Label)})
	}
	for _, s := range i.Slots {
		rows = append(rows, []string{fmt.Sprintf("key slot %d", s.Slot), fmt.Sprintf("%s, about %s on this host", derivation(s.KDF), s.Time.Round(s.Time/10+1))})
	}
	if v.trials == nil {
		for _, s := range v.claims {
			rows = append(rows, []string{"secret", fmt.Sprintf("%s in %s", secretName(s.Document), s.Store)})
		}
	}
	for _, t := range v.trials {
		rows = append(rows, []string{"secret", t.text()})
	}
	for _, u := range i.Attached {
		rows = append(rows, []string{"attached", fmt.Sprintf("to %s as %s", u.VM, u.Target)})
	}
	if i.Locked {
		rows = append(rows, []string{"in use", "by " + holdersText(i.Holders)})
	}
	if i.Problem != nil {
		rows = append(rows, []string{"problem", i.Problem.Error()})
	}
	if i.QEMU != nil {
		rows = append(rows, []string{"with QEMU", i.QEMU.Error()})
	}
	return table(rows)
}

// headerPlace returns where the header of a volume is.
func headerPlace(i *volume.Info) string {
	switch {
	case i.Header != "":
		return i.Header
	case i.Inside:
		return "inside the qcow2 image"
	case i.HeaderAlone:
		return "in the image, and no payload follows it: it is that of another file, or a backup"
	}
	return fmt.Sprintf("in the image, the payload begins at byte %d", i.LUKS.PayloadOffset())
}

// holdersText names the processes that have an image open.
func holdersText(holders []volume.Holder) string {
	if len(holders) == 0 {
		return "a process that cannot be seen from here"
	}
	var texts []string
	for _, h := range holders {
		texts = append(texts, h.String())
	}
	return strings.Join(texts, ", ")
}

// birthText returns the age of a data key, and where that is recorded.
func birthText(b volume.Birth, now time.Time) string {
	if !b.Known() {
		return "of unknown age"
	}
	from := "as the key store records"
	if b.From == volume.BirthInHeader {
		from = "as the header claims"
	}
	return fmt.Sprintf("%s old, made at %s, %s", ageText(b.Age(now)), b.Time.Format(time.RFC3339), from)
}

// ageText returns an age in its largest unit up to days.
func ageText(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= 2*day:
		return fmt.Sprintf("%d days", d/day)
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", d/time.Hour)
	case d < time.Minute:
		return "under a minute"
	}
	return fmt.Sprintf("%d minutes", d/time.Minute)
}

func derivation(k luks.KDF) string {
	if k.Iterations > 0 {
		return fmt.Sprintf("%s %s, %d iterations", k.Type, k.Hash, k.Iterations)
	}
	return fmt.Sprintf("%s, %d passes over %s, %d lanes", k.Type, k.Time, size(int64(k.Memory)<<10), k.Lanes)
}
