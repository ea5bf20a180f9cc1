package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/printable"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
)

// ownerFlag is the flag that names the user who may read an exported secret.
const ownerFlag = "owner"

// errNotInMemory reports that a value is not written to a directory on a disk.
var errNotInMemory = errors.New("it is not in memory: use a directory on a tmpfs, such as one in /run")

func newSecretExport(a *app) *cobra.Command {
	var owner string
	cmd := &cobra.Command{
		Use:   "export SECRET FILE",
		Short: "Write the value of a secret to a file for a QEMU that is about to start",
		Long: `export writes the value of a secret to a file that only one user can read (mode 0400),
for a QEMU with the arguments of 'luksplug cmdline'. The file must be in memory: a
directory that is not on a tmpfs is refused, and so is one that others than root, the
caller and that user can change. ` + exportedDir + ` is created if it is missing.
If FILE is a directory, the file in it has the name that cmdline gives it with
--keystore dir:DIRECTORY. An existing file is replaced. Remove the file when QEMU
has started.

A private secret is exported only by root and with --owner: it is QEMU's then, and
no user is shown it. Only root can give a file to another user.`,
		Example: `  luksplug secret export 0a81f5b2-8403-4b23-88d6-21ccc2f80d6f /run/vm1/vdb.key --owner vm1
  luksplug secret export volume:/var/lib/images/vm1.img /run/vm1 --owner vm1`,
		Args: arguments("SECRET", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSecretExport(cmd.Context(), a, args[0], args[1], owner)
		},
	}
	cmd.Flags().StringVar(&owner, ownerFlag, "", "the user that QEMU runs as, by name or number (default: the caller)")
	return cmd
}

func runSecretExport(ctx context.Context, a *app, name, path, owner string) error {
	file, err := newExport(name, path, owner)
	if err != nil {
		return err
	}
	if within := filepath.Dir(file.path); within == exportDir(os.Geteuid(), os.Getenv) {
		// QEMU's user passes through it.
		if err := fsutil.MakeDir(within, 0o711); err != nil {
			return fmt.Errorf("the directory of the exported file: %w", err)
		}
	}
	at, err := fsutil.OpenDirOf(filepath.Dir(file.path), file.uid)
	if err != nil {
		return fmt.Errorf("the directory of the exported file: %w", err)
	}
	defer fsutil.CloseRead(at)
	if !fsutil.FileInMemory(at) {
		return fmt.Errorf("the directory %s: %w", filepath.Dir(file.path), errNotInMemory)
	}
	return withStores(ctx, a, func(ctx context.Context, stores []secrets.Store) error {
		value, d, err := lookUp(ctx, stores, name, file.destination())
		if err != nil {
			return err
		}
		defer value.Wipe()
		err = value.Use(func(b []byte) error {
			if err := hotplug.CheckSecret(b, d.UsageType.Type()); err != nil {
				return fmt.Errorf("secret with %s: %w", d, err)
			}
			return fsutil.Replace(at, filepath.Base(file.path), b, fsutil.Options{Mode: 0o400, Owner: &fsutil.Owner{UID: file.uid, GID: -1}})
		})
		if err != nil {
			return err
		}
		if stray := value.Stray(); stray != "" {
			a.log.Warnf("the value %s, which is part of it for QEMU, too", stray)
		}
		return a.show(printable.Line(fmt.Sprintf("value of the secret with %s written to %s, which only user %s can read", d, file.path, file.user))+"\n",
			struct {
				UUID  string `json:"uuid,omitempty"`
				File  string `json:"file"`
				Owner string `json:"owner"`
				UID   int    `json:"uid"`
			}{secretToJSON(found{secrets.Chain(), d}).UUID, file.path, file.user, file.uid})
	})
}

// export is a file to which a value is written.
type export struct {
	path  string
	user  string // who can read it
	uid   int
	named bool // the user was named
}

// newExport returns the file for the secret that an argument names.
func newExport(secret, path, owner string) (export, error) {
	ref, err := parseSecret(secret)
	if err != nil {
		return export{}, err
	}
	out := export{user: strconv.Itoa(os.Geteuid()), uid: os.Geteuid()}
	if owner != "" {
		if out.uid, err = userID(owner); err != nil {
			return out, &usageError{fmt.Errorf("--%s: %w", ownerFlag, err)}
		}
		out.user, out.named = owner, true
	}
	if out.uid != os.Geteuid() && os.Geteuid() != 0 {
		return out, &usageError{fmt.Errorf("--%s %s: only root can give a file to another user", ownerFlag, owner)}
	}
	if out.path, err = filepath.Abs(path); err != nil {
		return out, err
	}
	if info, err := os.Stat(out.path); err == nil && info.IsDir() {
		out.path = filepath.Join(out.path, dir.FileName(ref))
	}
	return out, nil
}

// userID returns the id of a user of this host, by name or number.
func userID(name string) (int, error) {
	account, err := user.Lookup(name)
	if err == nil {
		name = account.Uid
	}
	id, numberErr := strconv.ParseUint(name, 10, 31)
	if numberErr != nil {
		return 0, err
	}
	return int(id), nil
}

// destination is the file as the destination of a value. A user who exports a secret for
// a QEMU of their own reads it as the caller.
func (e export) destination() secrets.Destination {
	to := secrets.Destination{Name: e.path, Node: secrets.ThisNode, Reader: secrets.Caller, Medium: secrets.Memory}
	if e.named && os.Geteuid() == 0 {
		to.Reader = secrets.Hypervisor
	}
	return to
}
