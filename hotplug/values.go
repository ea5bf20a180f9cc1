package hotplug

import (
	"context"
	"encoding/base64"
	"fmt"
	"unicode/utf8"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
)

// Values are the resolved secrets of a plan, in the form in which they cross
// the monitor. Wipe them as soon as the plan is applied.
type Values map[secrets.Reference][]byte

// Resolve looks up every secret that the disk needs. The caller wipes the
// values. An error is the store's own, see [secrets.Store], or says that QEMU
// could not use the value.
func Resolve(ctx context.Context, disk *blockgraph.Disk, store secrets.Store) (Values, error) {
	values := Values{}
	for _, ref := range disk.Secrets() {
		if _, done := values[ref]; done {
			continue
		}
		secret, err := store.Lookup(ctx, ref)
		if err == nil {
			values[ref], err = encodeSecret(secret)
			secret.Wipe()
		}
		if err != nil {
			values.Wipe()
			return nil, &SecretError{Target: disk.Target, Ref: ref, Err: err}
		}
	}
	return values, nil
}

// encodeSecret returns the value in base64: QMP strings are UTF-8, and base64
// also keeps a value apart from JSON's escapes.
func encodeSecret(s *secrets.Secret) ([]byte, error) {
	var out []byte
	err := s.Use(func(value []byte) error {
		if len(value) == 0 {
			return fmt.Errorf("the passphrase is empty: %w", ErrUnusableSecret)
		}
		if !utf8.Valid(value) {
			// QEMU: "Data from secret is not valid UTF-8", only after the
			// nodes below have been opened.
			return fmt.Errorf("the passphrase is not valid UTF-8, which QEMU's own unlocking needs: %w", ErrUnusableSecret)
		}
		out = make([]byte, base64.StdEncoding.EncodedLen(len(value)))
		base64.StdEncoding.Encode(out, value)
		return nil
	})
	return out, err
}

// Wipe overwrites the values. They cannot be used after it.
func (v Values) Wipe() {
	for ref, value := range v {
		clear(value)
		delete(v, ref)
	}
}

// command turns a plan's command into QMP's, with secret values put in. The
// values stay redacted in every rendering but the one on the wire.
func (v Values) command(c blockgraph.Command) (qmp.Command, error) {
	arguments, err := v.object(c.Arguments)
	return qmp.Command{Execute: c.Execute, Arguments: arguments}, err
}

func (v Values) object(o blockgraph.Object) (qmp.Object, error) {
	out := make(qmp.Object, 0, len(o))
	for _, m := range o {
		value, err := v.value(m.Value)
		if err != nil {
			return nil, err
		}
		out = append(out, qmp.Member{Name: m.Name, Value: value})
	}
	return out, nil
}

func (v Values) value(value any) (any, error) {
	switch x := value.(type) {
	case blockgraph.Object:
		return v.object(x)
	case []any:
		out := make([]any, len(x))
		for i, e := range x {
			var err error
			if out[i], err = v.value(e); err != nil {
				return nil, err
			}
		}
		return out, nil
	case blockgraph.SecretData:
		data, ok := v[x.Ref]
		if !ok {
			return nil, fmt.Errorf("the plan needs the secret with %s, which was not resolved", x.Ref)
		}
		return qmp.NewSensitive(data), nil
	}
	return value, nil
}
