package unlock

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
	"github.com/luksplug/luksplug/secrets/masterkey"
)

// Values are the resolved secrets of a plan, in the form that QEMU gets: passphrases and,
// for a volume that is unlocked outside of QEMU, ephemeral headers. Wipe them as soon as
// the plan is applied.
type Values struct {
	passphrases map[string][]byte                // in base64, by the id of the object
	headers     map[string]*luks.EphemeralHeader // by the name of the node
	overlay     *luks.EphemeralHeader            // encrypts the overlay of a transient disk, nil for none
	key         *masterkey.Key                   // that the values are encrypted under, nil for none
	strays      []string                         // what is probably wrong in values, see Explain
}

// Unlocker has the options for unlocking the LUKS headers of a graph. The zero value
// suits images of this host.
type Unlocker struct {
	// Open opens the image that holds a header; nil opens files and block devices of
	// this host.
	Open image.Opener
	// Progress is called repeatedly, see [luks.Unlocker]; nil for nothing.
	Progress func(luks.Progress)
}

// Resolve looks up every secret that the graph needs, and unlocks the headers for which
// it needs ephemeral ones. The graph of a storage daemon is resolved separately. The
// caller wipes the values, which may go to the destination only: a secret whose document
// forbids that is not looked up.
//
// Resolve changes nothing. The error is an [*outcome.SecretError], which wraps the
// store's error, [outcome.ErrUnusableSecret], or an error of package luks, such as
// [luks.ErrWrongPassphrase]. A header that cannot be read is an
// [*outcome.PreflightError]. If ctx ends while a header is being unlocked, the error
// wraps ctx's.
func Resolve(ctx context.Context, graph *blockgraph.Graph, store secrets.Store, to secrets.Destination, u Unlocker) (*Values, error) {
	store = secrets.BindDestination(store, to)
	if u.Open == nil {
		u.Open = OpenLocal
	}
	v := &Values{passphrases: map[string][]byte{}, headers: map[string]*luks.EphemeralHeader{}}
	for _, o := range graph.Objects {
		if err := v.resolve(ctx, graph, o, store, u); err != nil {
			v.Wipe()
			return nil, err
		}
	}
	return v, nil
}

// strayText says what is probably wrong in a value.
func strayText(ref secrets.Reference, stray string) string {
	return fmt.Sprintf("the value of the secret with %s %s, which counts: write it without (printf %%s)", ref, stray)
}

// Explain adds to the error of a command that used the values what is probably wrong in one
// of them, if it was refused.
func (v *Values) Explain(err error) error {
	if len(v.strays) == 0 || !errors.Is(err, qmp.ErrWrongPassphrase) && !errors.Is(err, qmp.ErrLoginRefused) && !errors.Is(err, qmp.ErrTLSKeyPassphrase) {
		return err
	}
	return fmt.Errorf("%w; %s", err, strings.Join(v.strays, "; "))
}

// resolve sets the value of one secret object; other objects have none.
func (v *Values) resolve(ctx context.Context, graph *blockgraph.Graph, o blockgraph.GraphObject, store secrets.Store, u Unlocker) error {
	data, ok := o.Secret()
	if !ok {
		return nil
	}
	if data.Text != "" { // the XML contains the value
		var err error
		v.passphrases[o.ID], err = encode([]byte(data.Text), o.Ref.Type)
		return err
	}
	if !data.Kept() { // an overlay's
		return v.encryptOverlay(o.ID)
	}
	secret, err := store.Lookup(ctx, o.Ref)
	if err != nil {
		return &outcome.SecretError{Target: graph.Target, Ref: o.Ref, Err: err}
	}
	defer secret.Wipe()
	if stray := secret.Stray(); stray != "" {
		v.strays = append(v.strays, strayText(o.Ref, stray))
	}
	for _, h := range graph.Headers {
		if h.Secret != o.ID {
			continue
		}
		ephemeral, err := u.unlock(ctx, graph.Target, h.Original, o.Ref, secret)
		if err != nil {
			return err
		}
		v.headers[h.Node] = ephemeral
		secret = ephemeral.Passphrase() // wiped with its header
	}
	err = secret.Use(func(value []byte) error {
		v.passphrases[o.ID], err = encode(value, o.Ref.Type)
		return err
	})
	if err != nil {
		return &outcome.SecretError{Target: graph.Target, Ref: o.Ref, Err: err}
	}
	return nil
}

// unlock unlocks the header of an image and makes an ephemeral header for it.
func (u Unlocker) unlock(ctx context.Context, target string, original blockgraph.Image, ref secrets.Reference, secret *secrets.Secret) (*luks.EphemeralHeader, error) {
	unreadable := func(err error) (*luks.EphemeralHeader, error) {
		return nil, &outcome.PreflightError{Target: target, Cause: outcome.ErrHeaderUnusable, Reason: "the LUKS header in " + original.Source.String() + " cannot be read", Err: err}
	}
	r, err := u.Open(ctx, original)
	if err != nil {
		return unreadable(err)
	}
	defer fsutil.CloseRead(r)
	h, err := luks.ReadHeader(r)
	if err != nil {
		return unreadable(err)
	}
	key, err := u.key(ctx, target, original, h, ref, secret)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	ephemeral, err := luks.Ephemeral(key)
	if err != nil {
		return nil, &outcome.PreflightError{Target: target, Cause: outcome.ErrHeaderUnusable, Reason: "the LUKS header in " + original.Source.String(), Err: err}
	}
	return ephemeral, nil
}

// key derives the key of a volume from its header in an image.
func (u Unlocker) key(ctx context.Context, target string, in blockgraph.Image, h *luks.Header, ref secrets.Reference, secret *secrets.Secret) (*luks.VolumeKey, error) {
	var key *luks.VolumeKey
	err := secret.Use(func(passphrase []byte) (err error) {
		if len(passphrase) == 0 {
			return fmt.Errorf("the passphrase is empty: %w", outcome.ErrUnusableSecret)
		}
		key, err = luks.Unlocker{Progress: u.Progress}.Unlock(ctx, h, passphrase)
		return err
	})
	switch {
	case err != nil && ctx.Err() != nil: // the passphrase may still be right
		return nil, fmt.Errorf("disk %s: interrupted while the LUKS header in %s was being unlocked, and nothing was changed: %w", target, in.Source.Path, ctx.Err())
	case errors.Is(err, luks.ErrUnsupported), errors.Is(err, luks.ErrNoKeySlot):
		return nil, &outcome.PreflightError{Target: target, Cause: outcome.ErrHeaderUnusable, Reason: "the LUKS header in " + in.Source.String(), Err: err}
	case err != nil:
		err = fmt.Errorf("the secret with %s does not open %s: %w", ref, in.Source, err)
		if stray := secret.Stray(); stray != "" && errors.Is(err, luks.ErrWrongPassphrase) {
			err = fmt.Errorf("%w; %s", err, strayText(ref, stray))
		}
		return nil, &outcome.SecretError{Target: target, Ref: ref, Err: err}
	}
	return key, nil
}

// CheckSecret returns an error that wraps [outcome.ErrUnusableSecret] if QEMU refuses a
// value for a secret of that kind. QEMU requires UTF-8 without zero bytes for every
// secret but a Ceph key, which is binary.
func CheckSecret(value []byte, kind secrets.Type) error {
	if len(value) == 0 {
		return fmt.Errorf("the passphrase is empty: %w", outcome.ErrUnusableSecret)
	}
	if kind != secrets.Ceph && (!utf8.Valid(value) || bytes.IndexByte(value, 0) >= 0) {
		// QEMU: "Data from secret is not valid UTF-8", only after it has opened the nodes
		// below.
		return fmt.Errorf("the passphrase is not valid UTF-8 without a zero byte, which QEMU itself needs: %w", outcome.ErrUnusableSecret)
	}
	if kind == secrets.Ceph && isCephText(value) {
		// Ceph would report an invalid argument.
		return fmt.Errorf("the value is a key of Ceph's as text, in base64, and it must be the bytes that this stands for (base64 -d): %w", outcome.ErrUnusableSecret)
	}
	return nil
}

// isCephText reports whether a value is the text of a cephx key rather than the key:
// base64 of a type, which is 1, a time of 8 bytes, a length, and that many bytes.
// See CryptoKey::encode in Ceph's src/auth/Crypto.cc.
func isCephText(value []byte) bool {
	const typeAES, lengthAt, header = 1, 10, 12
	key := make([]byte, base64.StdEncoding.DecodedLen(len(value)))
	defer clear(key)
	n, err := base64.StdEncoding.Decode(key, bytes.TrimSpace(value))
	return err == nil && n > header && binary.LittleEndian.Uint16(key) == typeAES &&
		int(binary.LittleEndian.Uint16(key[lengthAt:])) == n-header
}

// encode returns the value in base64: QMP strings are UTF-8, and base64 also needs no
// escapes in JSON.
func encode(value []byte, kind secrets.Type) ([]byte, error) {
	if err := CheckSecret(value, kind); err != nil {
		return nil, err
	}
	out := make([]byte, base64.StdEncoding.EncodedLen(len(value)))
	base64.StdEncoding.Encode(out, value)
	return out, nil
}

// Placeholders returns placeholders for the values of a plan that is not executed.
func Placeholders(plan *blockgraph.Plan) *Values {
	v := &Values{passphrases: map[string][]byte{}}
	for _, o := range plan.Graph.Objects {
		v.passphrases[o.ID] = []byte(blockgraph.Redacted)
	}
	return v
}

// EncryptWith has the values encrypted under the VM's master key, see [MasterKey];
// otherwise they are only in base64. Wipe wipes the key, too.
func (v *Values) EncryptWith(key *masterkey.Key) {
	if v.key != key {
		v.key.Wipe()
	}
	v.key = key
}

// Wipe overwrites the values. They cannot be used after it.
func (v *Values) Wipe() {
	if v == nil {
		return
	}
	for id, value := range v.passphrases {
		clear(value)
		delete(v.passphrases, id)
	}
	for node, h := range v.headers {
		h.Wipe()
		delete(v.headers, node)
	}
	if v.overlay != nil {
		v.overlay.Wipe()
	}
	v.key.Wipe()
}

// Command turns a plan's command into a QMP command, with the secret value as the data of
// a secret object. The value is redacted everywhere but on the wire.
func (v *Values) Command(c blockgraph.Command) (qmp.Command, error) {
	cmd := qmp.Command{Execute: c.Execute, Arguments: c.Arguments}
	data, ok := c.Arguments.Get("data").(blockgraph.SecretData)
	if !ok {
		return cmd, nil
	}
	if v.key != nil {
		sealed, err := v.seal(data)
		if err != nil {
			return qmp.Command{}, err
		}
		// A ciphertext need not be redacted.
		cmd.Arguments = c.Arguments.With("data", sealed.Data).With("keyid", masterkey.ID).With("iv", sealed.IV)
		return cmd, nil
	}
	value, ok := v.passphrases[data.Object]
	if !ok {
		return qmp.Command{}, notResolved(data)
	}
	cmd.Arguments = c.Arguments.With("data", qmp.NewSensitive(value))
	return cmd, nil
}

// seal encrypts a value. The plaintext is the value itself, without the base64 in which
// it is stored here: QEMU decodes only the base64 of the ciphertext.
func (v *Values) seal(data blockgraph.SecretData) (masterkey.Sealed, error) {
	encoded, ok := v.passphrases[data.Object]
	if !ok {
		return masterkey.Sealed{}, notResolved(data)
	}
	value := make([]byte, base64.StdEncoding.DecodedLen(len(encoded)))
	defer clear(value)
	n, err := base64.StdEncoding.Decode(value, encoded)
	if err != nil {
		return masterkey.Sealed{}, err
	}
	return v.key.Seal(value[:n])
}

func notResolved(data blockgraph.SecretData) error {
	return fmt.Errorf("the plan needs the secret with %s, which was not resolved", data.Ref)
}

// File returns the descriptor to pass with a step, nil for most steps. The caller closes
// it.
func (v *Values) File(s blockgraph.Step) (*os.File, error) {
	if s.Kind != blockgraph.StepFDSet {
		return nil, nil
	}
	if s.File != nil {
		f, err := openVDPA(s.File.Path)
		if err != nil {
			return nil, fmt.Errorf("open the device of node %s to pass it to QEMU: %w", s.File.Node, err)
		}
		return f, nil
	}
	if g := s.Guard; g != nil {
		return sealed("luksplug-copying", "the image of node "+g.Node, func(write func([]byte) error) error { return write(g.Image) })
	}
	h, ok := v.headers[s.Header.Node]
	if !ok {
		return nil, fmt.Errorf("the plan needs an ephemeral header for node %s, which was not resolved", s.Header.Node)
	}
	return sealed("luksplug-header", "the ephemeral header", h.Use)
}

// encryptOverlay makes the volume that encrypts an overlay. Its passphrase is the value
// of the object.
func (v *Values) encryptOverlay(object string) error {
	header, err := luks.Fresh()
	if err != nil {
		return err
	}
	v.overlay = header
	return header.Passphrase().Use(func(value []byte) error {
		v.passphrases[object], err = encode(value, secrets.Passphrase)
		return err
	})
}

// Overlay returns the volume that encrypts a transient disk's overlay, nil if the graph
// has none.
func (v *Values) Overlay() *luks.EphemeralHeader { return v.overlay }

// WriteSecret writes the value of a secret object to a new file that only user
// can read, in a directory that is in memory.
func (v *Values) WriteSecret(path string, user hostproc.Credential, id string) error {
	encoded, ok := v.passphrases[id]
	if !ok {
		return fmt.Errorf("the secret of object %s was not resolved", id)
	}
	value := make([]byte, base64.StdEncoding.DecodedLen(len(encoded)))
	defer clear(value)
	n, err := base64.StdEncoding.Decode(value, encoded)
	if err != nil {
		return fmt.Errorf("the secret of object %s: %w", id, err)
	}
	return handOverFile(path, user, "the secret of object "+id, func(write func([]byte) error) error { return write(value[:n]) })
}

// Reopened returns the ids of secrets of the images that QEMU reopens when a guest
// resumes after a failed or completed migration: the qcow2 driver reopens an image that
// another QEMU had open (qcow2_co_invalidate_cache).
func Reopened(graph *blockgraph.Graph) (ids []string) {
	for _, n := range graph.Nodes {
		if n.Options.Text("driver") == string(blockgraph.FormatQcow2) {
			ids = append(ids, n.Secrets...)
		}
	}
	return ids
}
