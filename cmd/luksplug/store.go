package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/passphrase"
)

// store returns where the disk's secrets come from: the passphrase that was
// given, or the key stores in their order.
func (a *app) store(disk *blockgraph.Disk) (secrets.Store, error) {
	if a.flags.passphrase != "" {
		if n := len(disk.Secrets()); n > 1 {
			return nil, &usageError{fmt.Errorf("disk %s has %d secrets: --passphrase-file gives one, so use --keystore", disk.Target, n)}
		}
		return &given{app: a, spec: a.flags.passphrase}, nil
	}
	if len(disk.Secrets()) == 0 {
		return secrets.Chain(), nil
	}
	stores, err := a.stores()
	if err != nil {
		return nil, err
	}
	if len(stores) == 0 { // not even the default ones
		return nil, &usageError{errors.New("where is the passphrase? give --passphrase-file FILE (or - or fd:N), or --keystore dir:PATH, or define the secret first: luksplug secret define")}
	}
	return secrets.Chain(stores...), nil
}

// given is the store of one passphrase, whatever it is asked for.
type given struct {
	app  *app
	spec string
}

func (g *given) String() string { return "--passphrase-file " + g.spec }

func (g *given) Lookup(_ context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	secret, err := g.app.readPassphrase(g.spec)
	if err != nil {
		return nil, &secrets.StoreError{Store: g.String(), Ref: ref, Err: err}
	}
	g.app.newline = passphrase.EndsInNewline(secret)
	return secret, nil
}

// messages is where the programs of key stores write theirs.
func (a *app) messages() io.Writer {
	if a.programs != nil {
		return a.programs
	}
	return a.err
}
