package hotplug

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
)

// Use is an encrypted disk that is attached to a VM of this host.
type Use struct {
	VM      string // its name, socket or id, as the attach was told
	Target  string
	Payload string // path of the image
	Header  string // path of the detached header, "" for none
	Secrets []secrets.Reference
}

// Uses returns the encrypted disks that luksplug has attached to VMs of this
// host, as far as this user may know of them, sorted by folder and target. It
// asks no VM, but reads the notes in runDir, as [Options] has it; "" is the usual
// place. Disks of VMs that are gone are left out.
func Uses(runDir string) ([]Use, error) {
	base, err := (&VM{opts: Options{RunDir: runDir}}).runBase()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for attached disks: %w", err)
	}
	var out []Use
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		notes := readNotes(filepath.Join(base, e.Name()))
		for _, target := range slices.Sorted(maps.Keys(notes)) {
			n := notes[target]
			if len(n.Secrets) > 0 && n.stands() {
				out = append(out, Use{VM: n.VM, Target: target, Payload: n.Payload, Header: n.Header, Secrets: n.Secrets})
			}
		}
	}
	return out, nil
}

// noteSecrets are the secrets of a note. References are not secret.
type noteSecrets []secrets.Reference

type noteSecret struct {
	Type  secrets.Type `json:"type"`
	UUID  string       `json:"uuid,omitempty"`
	Usage string       `json:"usage,omitempty"`
}

// MarshalJSON implements [json.Marshaler].
func (s noteSecrets) MarshalJSON() ([]byte, error) {
	out := []noteSecret{}
	for _, ref := range s {
		n := noteSecret{Type: ref.Type, Usage: ref.Usage}
		if ref.UUID != uuid.Nil {
			n.UUID = ref.UUID.String()
		}
		out = append(out, n)
	}
	return json.Marshal(out)
}

// UnmarshalJSON implements [json.Unmarshaler].
func (s *noteSecrets) UnmarshalJSON(text []byte) error {
	var in []noteSecret
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
