package rundir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/overlay"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/secrets"
)

// Note holds what QEMU does not know of a disk: the secret that unlocked it and, if
// luksplug unlocked it, the path of the original header. It exists for as long as the
// disk is attached and contains no secret.
//
// These depend on it: the original header in list, the comparison of that header and
// of a daemon's payload on a second attach, the refusal of a header or of a server's
// image that another disk has, the refusal to undefine a secret in use, the record of a
// disk that repair writes again, and the overlay that an interrupted run has left.
// Detach works without it.
type Note struct {
	Target  string            `json:"target"`
	VM      string            `json:"vm,omitempty"` // for messages
	Method  blockgraph.Method `json:"unlock"`
	Payload string            `json:"payload"`
	Header  string            `json:"header,omitempty"`
	UUID    string            `json:"uuid,omitempty"` // of the LUKS volume
	// Recovery is set if Header is a backup of the header in the payload.
	Recovery blockgraph.Recovery `json:"recovery,omitempty"`
	Secrets  References          `json:"secrets,omitempty"`
	Overlay  string              `json:"overlay,omitempty"` // the file, which has no name once it is open
	Kept     string              `json:"kept,omitempty"`    // the text that the attach has kept
	// Adopted are the disk's parts in QEMU if another program has attached it; nil for a disk
	// of luksplug's own, whose names tell. Detach of an adopted disk does not work without the
	// note.
	Adopted *Adopted `json:"adopted,omitempty"`
	// Renamed are the files that were renamed while QEMU has them open. The paths above are the present ones.
	Renamed []RenamedFile `json:"renamed,omitempty"`
	// Process is the VM's process; without a PID if it is unknown.
	Process hostproc.Process `json:"process"`
}

// RenamedFile is a file that was renamed while QEMU has it open. QEMU keeps the name by which it has opened it.
type RenamedFile struct {
	Opened string `json:"opened"` // the path by which QEMU has opened it
	Path   string `json:"path"`   // the present one
}

// Adopted are the parts in QEMU of a disk that was attached without luksplug. QEMU cannot
// rename them.
type Adopted struct {
	Device string        `json:"device"` // its id
	Nodes  []AdoptedNode `json:"nodes"`
	// Secret is the id of the secret object with which the volume was opened, as long as QEMU
	// has it or may need it again; "" for none. With SharedSecret another node names it: it
	// is not removed with the disk.
	Secret       string `json:"secret,omitempty"`
	SharedSecret bool   `json:"shared_secret,omitempty"`
}

// AdoptedNode is a node of an adopted disk. A node with the same name and another driver or
// file is another one.
type AdoptedNode struct {
	// Role is the role of luksplug's node in its place, "" if a plan has none there.
	Role   blockgraph.Role `json:"role,omitempty"`
	Name   string          `json:"name"`
	Driver string          `json:"driver"`
	// File is what QEMU reports as the file of a protocol node, and Path the absolute path of
	// that file, which QEMU's process had open; "" for other nodes.
	File string `json:"file,omitempty"`
	Path string `json:"path,omitempty"`
}

const noteSuffix = ".json"

// maxNote bounds the size of a note, which has the disk's record in it.
const maxNote = 1 << 20

// WriteNote writes the note of a disk, and replaces an existing one of the same VM.
func (v VM) WriteNote(n Note) error {
	if err := v.Disk(n.Target).own(); err != nil {
		return err
	}
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err := v.Make(); err != nil {
		return err
	}
	path := v.Disk(n.Target).NotePath()
	if err := fsutil.Replace(nil, path, append(text, '\n'), fsutil.Options{Mode: 0o600}); err != nil {
		return fmt.Errorf("write the note of the disk: %w", err)
	}
	return nil
}

// Notes returns the notes of a VM's disks, by target, without those that cannot be read.
func (v VM) Notes() map[string]Note {
	entries, err := os.ReadDir(v.Path())
	if err != nil {
		return nil
	}
	out := map[string]Note{}
	for _, e := range entries {
		target, isNote := strings.CutSuffix(e.Name(), noteSuffix)
		if !isNote {
			continue
		}
		if n, noted := v.note(target); noted {
			out[target] = n
		}
	}
	return out
}

// note returns the note of a disk; false if there is none that can be read.
func (v VM) note(target string) (n Note, noted bool) {
	text, err := fsutil.ReadFile(nil, v.Disk(target).NotePath(), maxNote)
	if err != nil {
		return Note{}, false
	}
	noted = json.Unmarshal(text, &n) == nil && n.Target == target
	return n, noted
}

// HeaderUser returns the note of a disk in another VM of this host that uses the same
// header for another payload, nil for none; "" is no payload. No QEMU has the original header
// open, so image locks do not show its use. Notes of VMs that have ended are
// removed.
func (v VM) HeaderUser(header, uuid, payload string) (*Note, error) {
	entries, err := os.ReadDir(string(v.Base))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find other users of the header: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() || e.Name() == v.ID {
			continue
		}
		other := VM{Base: v.Base, ID: e.Name()}
		for target, n := range other.Notes() {
			switch {
			case !n.alive():
				_ = n.removeOverlay(other.ID)                // tried again next time
				_ = os.Remove(other.Disk(target).NotePath()) // tried again next time
				_ = os.Remove(other.Path())                  // refused while it has other files
			case n.Header != "" && !n.Has(payload) && (uuid != "" && uuid == n.UUID || image.SameFile(header, n.Header)):
				return &n, nil
			}
		}
	}
	return nil, nil
}

// PayloadUsers returns the notes of the disks in other VMs of this host that have the same image, as far as their VMs
// run. It changes nothing.
func (v VM) PayloadUsers(payload string) ([]Note, error) {
	entries, err := os.ReadDir(string(v.Base))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find other users of the image: %w", err)
	}
	var out []Note
	for _, e := range entries {
		if !e.IsDir() || e.Name() == v.ID {
			continue
		}
		for _, n := range (VM{Base: v.Base, ID: e.Name()}).Notes() {
			if (n.Has(payload) || image.SameFile(n.Payload, payload)) && n.alive() {
				out = append(out, n)
			}
		}
	}
	return out, nil
}

// Has reports whether the disk has this payload; "" is none.
func (n *Note) Has(payload string) bool { return payload != "" && n.Payload == payload }

// alive reports whether the disk of a note is still attached: its VM runs, or, if its
// process is unknown, its payload is open.
func (n *Note) alive() bool {
	if n.Process.PID != 0 {
		return n.Process.Alive()
	}
	return errors.Is(image.CheckLock(n.Payload, image.ReadWrite), image.ErrLocked)
}

// OverlayMark returns the mark that identifies the overlay of a disk, whichever run has
// made it. vm is the VM's identity.
func OverlayMark(vm, target string) string { return vm + "/" + target }

// overlayIsThere reports whether the disk's overlay has a name.
func (n Note) overlayIsThere(vm string) bool {
	return n.Overlay != "" && overlay.Check(n.Overlay, OverlayMark(vm, n.Target)) == nil
}

// removeOverlay removes the disk's overlay, if it has a name.
func (n Note) removeOverlay(vm string) error {
	if n.Overlay == "" {
		return nil
	}
	err := overlay.Remove(n.Overlay, OverlayMark(vm, n.Target))
	if errors.Is(err, overlay.ErrForeign) {
		return nil // another file has that name now
	}
	return err
}

// References are the secrets of a note. References are not secret.
type References []secrets.Reference

type reference struct {
	Type  secrets.Type `json:"type"`
	UUID  string       `json:"uuid,omitempty"`
	Usage string       `json:"usage,omitempty"`
}

// MarshalJSON implements [json.Marshaler].
func (s References) MarshalJSON() ([]byte, error) {
	out := []reference{}
	for _, ref := range s {
		n := reference{Type: ref.Type, Usage: ref.Usage}
		if ref.UUID != uuid.Nil {
			n.UUID = ref.UUID.String()
		}
		out = append(out, n)
	}
	return json.Marshal(out)
}

// UnmarshalJSON implements [json.Unmarshaler].
func (s *References) UnmarshalJSON(text []byte) error {
	var in []reference
	if err := json.Unmarshal(text, &in); err != nil {
		return err
	}
	for _, n := range in {
		ref := secrets.Reference{Type: n.Type, Usage: n.Usage}
		if n.UUID != "" {
			var err error
			if ref.UUID, err = secrets.ParseUUID(n.UUID); err != nil {
				return err
			}
		}
		*s = append(*s, ref)
	}
	return nil
}
