package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/render"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
	"github.com/luksplug/luksplug/secrets/keystore"
	"github.com/luksplug/luksplug/secrets/masterkey"
)

// secretDir is where cmdline tells QEMU to find secrets when the user does
// not say: on tmpfs, and laid out as a dir: key store.
const secretDir = "/run/luksplug/secrets"

func newCmdline(a *app) *cobra.Command {
	var about planFlags
	var master string
	cmd := &cobra.Command{
		Use:   "cmdline DISK.xml",
		Short: "Print the disk as QEMU arguments",
		Long: `cmdline prints the -object, -blockdev and -device arguments that give a VM the
disk from its start, quoted for a shell. They hold no passphrase: QEMU reads it
from a file when it starts, the one of --passphrase-file or --keystore dir:PATH,
else one in ` + secretDir + `. The note on standard error says which.

With --master-key they hold the passphrase of --passphrase-file encrypted under
the VM's master key, a file of 32 random bytes. QEMU reads that file, in an object
of its own which the note shows, and the passphrase is needed no more. No key store
is asked in either case.`,
		Example: `  luksplug cmdline vdb.xml --passphrase-file /run/keys/vm1-vdb
  eval "qemu-system-x86_64 -machine q35 -m 2G $(luksplug cmdline vdb.xml --keystore dir:/run/keys)"
  pass show vm1-vdb | tr -d '\n' | luksplug cmdline vdb.xml --passphrase-file - --master-key /run/vm1.key`,
		Args: argument("DISK.xml"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runCmdline(cmd.Context(), about, master, args[0])
		},
	}
	about.register(cmd)
	cmd.Flags().StringVar(&master, "master-key", "", "encrypt the secrets under the VM's master key, which is in this file, instead of naming files that hold them")
	return cmd
}

func (a *app) runCmdline(ctx context.Context, about planFlags, master, path string) error {
	plan, err := a.plan(ctx, path, about, hotplug.UnlockQEMU)
	if err != nil {
		return err
	}
	arguments, err := a.arguments(plan, master)
	if err != nil {
		return err
	}
	if a.flags.output == "json" {
		return a.printJSON(arguments)
	}
	return a.print(render.QuoteArguments(arguments))
}

// arguments returns the plan as arguments: secrets are in files, or encrypted under
// the master key of that file.
func (a *app) arguments(plan *blockgraph.Plan, master string) ([]string, error) {
	if master == "" {
		return render.Arguments(plan, a.secretFile)
	}
	s, err := a.sealer(plan.Graph, master)
	if err != nil {
		return nil, err
	}
	defer s.key.Wipe()
	return render.SealedArguments(plan, s.seal)
}

// secretFile says which file QEMU is to read a passphrase from, and tells the
// user.
func (a *app) secretFile(o blockgraph.GraphObject) (string, error) {
	if data, ok := o.Secret(); ok && data.Text != "" {
		path := filepath.Join(secretDir, o.ID)
		_, err := fmt.Fprintf(a.err, "luksplug: no cookies are in these arguments: write those of the XML into %s, as name=value; name=value, readable only for QEMU's user\n", path)
		return path, err
	}
	path := filepath.Join(secretDir, dir.FileName(o.Ref))
	switch spec := a.flags.passphrase; {
	case spec == "-", strings.HasPrefix(spec, "fd:"):
		return "", &usageError{fmt.Errorf("--passphrase-file %s is gone when QEMU starts: give the path of a file, or --master-key", spec)}
	case spec != "":
		path = spec
	default:
		file, err := a.valueFile(o.Ref)
		if err != nil {
			return "", err
		}
		if file != "" {
			path = file
		}
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	_, err = fmt.Fprintf(a.err, "luksplug: no passphrase is in these arguments: QEMU reads the one with %s from %s as it starts, every byte of the file; keep it on tmpfs, readable only for QEMU's user\n", o.Ref, path)
	return path, err
}

// valueFile returns the file of the first key store, "" where none was named. Only
// a dir: store has its values in files that QEMU can read. No value is looked up.
func (a *app) valueFile(ref secrets.Reference) (string, error) {
	uris, _, from, err := a.keystoreURIs()
	if err != nil || len(uris) == 0 {
		return "", err
	}
	store, err := keystore.Open(uris[0], keystore.Options{})
	if folder, ok := store.(*dir.Store); ok && err == nil {
		return folder.ValueFile(context.Background(), ref), nil
	}
	if err != nil || from != fromFlag {
		return "", err // the configuration is about luksplug itself
	}
	return "", &usageError{fmt.Errorf("QEMU cannot read key store %s: give --keystore dir:PATH, or --passphrase-file", store)}
}

// sealer encrypts the secrets of a graph.
type sealer struct {
	app    *app
	target string
	path   string // of the key
	key    *masterkey.Key
	told   bool // where the key belongs
}

// sealer reads the master key for the secrets of a graph. A passphrase has to be
// given, since cmdline asks no key store.
func (a *app) sealer(graph *blockgraph.Graph, path string) (*sealer, error) {
	references := 0
	for _, o := range graph.Objects {
		if data, ok := o.Secret(); ok && data.Text == "" {
			references++
		}
	}
	switch {
	case references > 1:
		return nil, &usageError{fmt.Errorf("disk %s has %d secrets: --master-key encrypts the one of --passphrase-file, so leave it out and use --keystore dir:PATH", graph.Target, references)}
	case references == 1 && a.flags.passphrase == "":
		return nil, &usageError{errors.New("--master-key encrypts a passphrase, and cmdline asks no key store for it: give --passphrase-file FILE, - or fd:N")}
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe does not block
	if err != nil {
		return nil, &usageError{fmt.Errorf("--master-key: %w", err)}
	}
	defer func() { _ = f.Close() }() // only read
	key, err := masterkey.Read(f)
	if err != nil {
		return nil, &usageError{fmt.Errorf("--master-key %s: %w", path, err)}
	}
	if key.Exposed() {
		a.log.Warnf("everybody on this host may read or replace the master key %s: it hides nothing from them, so chmod 600 it", path)
	}
	return &sealer{app: a, target: graph.Target, path: path, key: key}, nil
}

// seal encrypts one secret, and tells the user once what QEMU needs besides.
func (s *sealer) seal(o blockgraph.GraphObject) (render.SealedSecret, error) {
	data, _ := o.Secret()
	secret := secrets.New([]byte(data.Text))
	if data.Text == "" {
		var err error
		if secret, err = (&given{app: s.app, spec: s.app.flags.passphrase}).Lookup(context.Background(), o.Ref); err != nil {
			return render.SealedSecret{}, err
		}
	}
	defer secret.Wipe()
	var sealed masterkey.Sealed
	err := secret.Use(func(value []byte) error {
		err := hotplug.CheckSecret(value, o.Ref.Type)
		if err == nil {
			sealed, err = s.key.Seal(value)
		}
		return err
	})
	if err != nil {
		return render.SealedSecret{}, &hotplug.SecretError{Target: s.target, Ref: o.Ref, Err: err}
	}
	if !s.told {
		s.told = true
		object := blockgraph.Object{{Name: "qom-type", Value: "secret"}, {Name: "id", Value: masterkey.ID}, {Name: "format", Value: "raw"}, {Name: "file", Value: s.path}}
		_, err = fmt.Fprintf(s.app.err, "luksplug: the secrets in these arguments are encrypted: QEMU needs the key as well, in an argument before them: %s", render.QuoteArguments([]string{"-object", object.String()}))
	}
	return render.SealedSecret{KeyID: masterkey.ID, Data: sealed.Data, IV: sealed.IV}, err
}
