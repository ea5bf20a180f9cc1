package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/render"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/printable"
	"github.com/luksplug/luksplug/internal/shell"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/age"
	"github.com/luksplug/luksplug/secrets/dir"
	"github.com/luksplug/luksplug/secrets/keystore"
	"github.com/luksplug/luksplug/secrets/masterkey"
)

func newCmdline(a *app) *cobra.Command {
	o := planOptions{unlock: hotplug.UnlockQEMU}
	var master string
	cmd := &cobra.Command{
		Use:   "cmdline DISK.xml",
		Short: "Print the disk as QEMU arguments",
		Long: `cmdline prints the -object, -blockdev and -device arguments that give a VM the disk
from its start, quoted for a shell. They have no passphrase in them: QEMU reads it
from a file when it starts. That is the file of --passphrase-file, else that of the
dir: key store that has the secret. For a secret of another store it is a file in
` + exportedDir + `, which 'luksplug secret export' writes before QEMU starts.
A note on standard error names the file, and the command.

The LUKS header is examined if it is an image of this host: one that QEMU does not
open, as one of LUKS2, is refused as by attach --unlock qemu.

With --master-key the arguments have the passphrase of --passphrase-file in them,
encrypted under the VM's master key, a file of 32 random bytes. QEMU reads that file
through one more object, which the note shows, and does not need the file of the
passphrase. cmdline never looks a value up in a key store.`,
		Example: `  luksplug cmdline vdb.xml --passphrase-file /run/keys/vm1-vdb
  disk=$(luksplug cmdline vdb.xml --keystore dir:/run/keys) && eval "qemu-system-x86_64 -machine q35 -m 2G $disk"
  pass show vm1-vdb | tr -d '\n' | luksplug cmdline vdb.xml --passphrase-file - --master-key /run/vm1.key`,
		Args: arguments("DISK.xml"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCmdline(cmd.Context(), a, o, master, args[0])
		},
	}
	o.register(cmd)
	cmd.Flags().StringVar(&master, "master-key", "", "encrypt the secrets under the VM's master key in this file, instead of naming files that contain them")
	return cmd
}

func runCmdline(ctx context.Context, a *app, o planOptions, master, path string) error {
	p, err := makePlan(ctx, a, o, path)
	if err != nil {
		return err
	}
	plan := p.Plan
	var out []string
	if master == "" {
		out, err = render.Arguments(plan, func(o blockgraph.GraphObject) (string, error) { return secretFile(a, o) })
	} else {
		out, err = sealedArguments(ctx, a, plan, master)
	}
	if err != nil {
		return err
	}
	p.warn(a)
	text := render.QuoteArguments(out)
	if a.flags.output != "json" && printable.Text(text) != text {
		// Of -chardev, which is not JSON: escaped, it would be another path.
		return fmt.Errorf("disk %s: an argument has control characters, which are not printed: use --output json", plan.Graph.Target)
	}
	return a.show(text, out)
}

// secretFile returns the file from which QEMU is to read a passphrase, and prints a
// message that names it.
func secretFile(a *app, o blockgraph.GraphObject) (string, error) {
	if data, ok := o.Secret(); ok && data.Text != "" {
		path := filepath.Join(secretDir, o.ID)
		return path, a.note("no cookies are in these arguments: write those of the XML into %s, as name=value; name=value, readable only for QEMU's user", path)
	}
	path, export := a.flags.passphrase, ""
	if path == "-" || strings.HasPrefix(path, "fd:") {
		return "", &usageError{fmt.Errorf("--passphrase-file %s is gone when QEMU starts: give the path of a file, or --master-key", path)}
	}
	if path == "" {
		file, err := findValueFile(context.Background(), a, o.Ref)
		if err != nil {
			return "", err
		}
		path, export = file.path, file.export
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if export != "" {
		return path, a.note("no passphrase is in these arguments: QEMU reads the one with %s from %s as it starts; no key store keeps it in a file, so write this file before, and remove it afterwards: %s", o.Ref, path, export)
	}
	return path, a.note("no passphrase is in these arguments: QEMU reads the one with %s from %s as it starts, every byte of the file; keep it on tmpfs, readable only for QEMU's user", o.Ref, path)
}

// valueFile is the file from which QEMU is to read a secret.
type valueFile struct {
	path string
	// export is the command that writes the file, "" for the file of a dir: store.
	export string
}

// findValueFile returns the file of a secret: that of the first key store that has the secret,
// if it is a dir: store, or else one that has to be exported. Documents of local stores are
// read; no value is looked up, and no server is queried. A secret that is in none of these
// stores is going to be in the first dir: store.
func findValueFile(ctx context.Context, a *app, ref secrets.Reference) (valueFile, error) {
	names, err := a.storeNames()
	if err != nil {
		return valueFile{}, err
	}
	exported := exportedFile(names, ref)
	file := exported
	if names.defaults != nil {
		file = valueFile{path: filepath.Join(names.defaults.ephemeral, dir.FileName(ref))}
	}
	first := true // no dir: store was there before
	for _, uri := range names.uris {
		store, err := keystore.Open(uri, a.storeOptions())
		if err != nil {
			return valueFile{}, fmt.Errorf("%s: %w", names.from, err)
		}
		inFile, isDir := store.(*dir.Store)
		_, local := store.(*age.Store)
		if isDir && first {
			file, first = valueFile{path: inFile.ValueFile(ctx, ref)}, false
		}
		if !isDir && !local {
			return exported, nil // it may be in this store
		}
		_, err = secrets.Describe(ctx, store, ref)
		switch {
		case errors.Is(err, secrets.ErrNotFound), errors.Is(err, secrets.ErrUnreachable):
			continue
		case isDir:
			return valueFile{path: inFile.ValueFile(ctx, ref)}, nil
		}
		return exported, nil
	}
	return file, nil
}

// exportedFile returns the file to which a secret of these key stores is exported.
func exportedFile(names storeNames, ref secrets.Reference) valueFile {
	path := filepath.Join(exportDir(os.Geteuid(), os.Getenv), dir.FileName(ref))
	name := ref.UUID.String()
	if ref.Usage != "" {
		name = string(ref.Type.UsageType()) + ":" + ref.Usage
	}
	words := []string{"luksplug", "secret", "export", shell.Word(name), shell.Word(path), "--" + ownerFlag, "USER"}
	if names.thisRun {
		for _, uri := range names.uris {
			words = append(words, "--keystore", shell.Word(uri))
		}
	}
	return valueFile{path, strings.Join(words, " ")}
}

// sealedArguments returns the plan as arguments whose secrets are encrypted under the
// master key in the file at path.
func sealedArguments(ctx context.Context, a *app, plan *blockgraph.Plan, path string) ([]string, error) {
	references := 0
	for _, o := range plan.Graph.Objects {
		if data, ok := o.Secret(); ok && data.Text == "" {
			references++
		}
	}
	switch {
	case references > 1:
		return nil, &usageError{fmt.Errorf("disk %s has %d secrets, and --master-key encrypts one, that of --passphrase-file: use --keystore dir:PATH instead", plan.Graph.Target, references)}
	case references == 1 && a.flags.passphrase == "":
		return nil, &usageError{errors.New("--master-key encrypts a passphrase, and cmdline asks no key store for it: give --passphrase-file FILE, - or fd:N")}
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	key, err := readMasterKey(a, path)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	noted := false
	return render.SealedArguments(plan, func(o blockgraph.GraphObject) (render.SealedSecret, error) {
		sealed, err := seal(ctx, a, key, plan.Graph.Target, o)
		if err == nil && !noted {
			noted = true
			object := blockgraph.Object{{Name: "qom-type", Value: "secret"}, {Name: "id", Value: masterkey.ID}, {Name: "format", Value: "raw"}, {Name: "file", Value: path}}
			quoted := strings.TrimSuffix(render.QuoteArguments([]string{"-object", object.String()}), "\n")
			err = a.note("the secrets in these arguments are encrypted: QEMU needs the key as well, in an argument before them: %s", quoted)
		}
		return sealed, err
	})
}

func readMasterKey(a *app, path string) (*masterkey.Key, error) {
	f, err := fsutil.OpenLinked(path)
	if err != nil {
		return nil, &usageError{fmt.Errorf("--master-key: %w", err)}
	}
	defer func() { _ = f.Close() }() // only read
	key, err := masterkey.Read(f)
	if err != nil {
		return nil, &usageError{fmt.Errorf("--master-key %s: %w", path, err)}
	}
	if key.Exposed() {
		a.log.Warnf("every user of this host may read or replace the master key %s: it hides nothing from them, so chmod 600 it", path)
	}
	return key, nil
}

// seal encrypts one secret: one of the XML, or the given passphrase.
func seal(ctx context.Context, a *app, key *masterkey.Key, target string, o blockgraph.GraphObject) (render.SealedSecret, error) {
	data, _ := o.Secret()
	secret := secrets.New([]byte(data.Text))
	if data.Text == "" {
		var err error
		if secret, err = (&given{app: a}).Lookup(ctx, o.Ref); err != nil {
			return render.SealedSecret{}, err
		}
	}
	defer secret.Wipe()
	var sealed masterkey.Sealed
	err := secret.Use(func(value []byte) error {
		err := hotplug.CheckSecret(value, o.Ref.Type)
		if err == nil {
			sealed, err = key.Seal(value)
		}
		return err
	})
	if err != nil {
		return render.SealedSecret{}, &hotplug.SecretError{Target: target, Ref: o.Ref, Err: err}
	}
	return render.SealedSecret{KeyID: masterkey.ID, Data: sealed.Data, IV: sealed.IV}, nil
}
