package unlock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets/masterkey"
)

// errNoMasterKey reports that the VM has no master key that this process can read.
var errNoMasterKey = errors.New("no master key")

// MasterKey returns the master key of the VM: that of the secret object [masterkey.ID],
// which libvirt gives every VM, if this process may read its file. With it
// [Values.EncryptWith] keeps secrets out of the monitor's traffic. The key is nil if
// there is none, and why is then the reason; the error is that of a query. The caller
// wipes the key.
func MasterKey(ctx context.Context, q monitor.Querier, h *host.Host, state *inventory.State) (key *masterkey.Key, why string, err error) {
	if kind, there := state.Objects[masterkey.ID]; !there || kind != "secret" {
		return nil, "the VM has no object " + masterkey.ID, nil
	}
	path, err := masterKeyFile(ctx, q)
	if err == nil {
		key, err = readMasterKey(ctx, h, path)
	}
	switch {
	case errors.Is(err, errNoMasterKey):
		return nil, err.Error(), nil
	case err != nil:
		return nil, "", fmt.Errorf("query QEMU for its master key's file: %w", err)
	}
	if key.Exposed() {
		h.Log.Warnf("every user of this host may read or replace the VM's master key %s: it hides nothing from them", path)
	}
	return key, "", nil
}

// masterKeyFile queries QEMU for the key's file.
func masterKeyFile(ctx context.Context, q monitor.Querier) (string, error) {
	const object = "/objects/" + masterkey.ID
	commands := []qmp.Command{monitor.QOMGet(object, "file"), monitor.QOMGet(object, "format"), monitor.QOMGet(object, "keyid")}
	values, err := q.Query(ctx, commands...)
	var refusal *qmp.Error
	if errors.As(err, &refusal) {
		return "", fmt.Errorf("%w: QEMU reports: %s", errNoMasterKey, refusal.Description)
	}
	if err != nil {
		return "", err
	}
	var file, format, keyID string
	for i, into := range []*string{&file, &format, &keyID} {
		if err := monitor.Decode(values[i], into, commands[i]); err != nil {
			return "", err
		}
	}
	switch {
	case file == "":
		return "", fmt.Errorf("%w: that of %s is in no file", errNoMasterKey, masterkey.ID)
	case format != "raw" || keyID != "":
		return "", fmt.Errorf("%w: the file of %s does not hold it as it is", errNoMasterKey, masterkey.ID)
	case !filepath.IsAbs(file):
		return "", fmt.Errorf("%w: %s has the relative path %s", errNoMasterKey, masterkey.ID, file)
	}
	return file, nil
}

// readMasterKey reads the key's file as the VM's process sees it, in its mount namespace:
// in ours the path may name another file.
func readMasterKey(ctx context.Context, h *host.Host, path string) (*masterkey.Key, error) {
	p, err := h.Process(ctx)
	if err == nil && p.PID == 0 {
		err = errors.New("the VM's process is not known")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: that of %s cannot be read: %w", errNoMasterKey, masterkey.ID, err)
	}
	key, err := readMasterKeyOf(p.PID, path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoMasterKey, err)
	}
	return key, nil
}

func readMasterKeyOf(pid int, path string) (*masterkey.Key, error) {
	refuse := func(err error) (*masterkey.Key, error) {
		return nil, &fs.PathError{Op: "read", Path: path, Err: err}
	}
	root, err := os.Open(fmt.Sprintf("/proc/%d/root", pid))
	if err != nil {
		return refuse(err)
	}
	defer fsutil.CloseRead(root)
	fd, err := unix.Openat2(int(root.Fd()), path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS, // also for links
	})
	if err != nil {
		return refuse(err)
	}
	f, err := fsutil.OpenFound(fd, path)
	if err != nil {
		return refuse(err)
	}
	defer fsutil.CloseRead(f)
	key, err := masterkey.Read(f)
	if err != nil {
		return refuse(err)
	}
	return key, nil
}

// Encrypt has the values encrypted under the VM's master key, if it has one and the graph
// has secrets for the VM.
func (v *Values) Encrypt(ctx context.Context, q monitor.Querier, h *host.Host, graph *blockgraph.Graph, state *inventory.State) error {
	if !holdsSecrets(graph) {
		return nil
	}
	key, why, err := MasterKey(ctx, q, h, state)
	if err != nil {
		return err
	}
	log := h.Entry(graph.Target)
	if key == nil {
		log.Infof("secrets go to QEMU in base64: %s", why)
		return nil
	}
	log.Infof("secrets go to QEMU encrypted under its master key %s", masterkey.ID)
	v.EncryptWith(key)
	return nil
}

// holdsSecrets reports whether a graph has an object with a secret.
func holdsSecrets(graph *blockgraph.Graph) bool {
	for _, o := range graph.Objects {
		if _, ok := o.Secret(); ok {
			return true
		}
	}
	return false
}
