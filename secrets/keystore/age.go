package keystore

import (
	"context"
	"sync"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/age"
	"github.com/luksplug/luksplug/secrets/passphrase"
)

func openAge(l *Location, o Options) (secrets.Store, error) {
	path, err := l.Path("a folder")
	if err != nil {
		return nil, err
	}
	key, err := l.TakeOne("key", "x25519", "hybrid")
	if err != nil {
		return nil, err
	}
	protect, err := l.TakeOne("protect", "none", "passphrase")
	if err != nil {
		return nil, err
	}
	options := age.Options{
		Identity:    l.Take("identity"),
		PostQuantum: key == "hybrid",
		Protect:     protect == "passphrase",
		Passphrase:  o.Prompt,
	}
	if spec := l.Take("passphrase-file"); spec != "" {
		read := o.ReadPassphrase
		if read == nil {
			read = func(source string) (*secrets.Secret, error) { return passphrase.Open(source, nil) }
		}
		options.Passphrase = once(func() (*secrets.Secret, error) { return read(spec) })
	}
	return age.New(path, options), nil
}

// once returns the answer to every question for a passphrase that is read from
// one place. It reads that the first time only: a descriptor has its bytes once,
// and a new passphrase is asked for twice.
func once(read func() (*secrets.Secret, error)) func(context.Context, string) (*secrets.Secret, error) {
	first := sync.OnceValues(read)
	return func(context.Context, string) (*secrets.Secret, error) {
		s, err := first()
		if err != nil {
			return nil, err
		}
		return convert(s, func(b []byte) ([]byte, error) { return append([]byte(nil), b...), nil })
	}
}
