package main

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/storagevol"
	"github.com/luksplug/luksplug/internal/printable"
	"github.com/luksplug/luksplug/internal/qapi"
	"github.com/luksplug/luksplug/internal/shell"
	"github.com/luksplug/luksplug/internal/xmltext"
	"github.com/luksplug/luksplug/secrets"
)

// volumeCmdlineOptions are the flags of volume cmdline.
type volumeCmdlineOptions struct {
	pool, from, fromPool string
	fromPassphrase       string
	preallocate          bool
	backing              string
	size, storageSize    string
}

func newVolumeCmdline(a *app) *cobra.Command {
	var o volumeCmdlineOptions
	cmd := &cobra.Command{
		Use:   "cmdline VOLUME.xml",
		Short: "Print the commands by which libvirt makes a volume",
		Long: `cmdline prints the qemu-img commands by which libvirt makes the volume of a <volume>
document, quoted for a shell, or with --output json as lists of arguments. With --from
the new volume gets the data of another one, as by 'virsh vol-create-from'.

The commands have no passphrase in them: qemu-img reads it from a file. That is the
file of --passphrase-file, else that of the dir: key store that has the secret. For a
secret of another store it is a file which 'luksplug secret export' writes before; a
note on standard error names it, and the command. Nothing is made, and no value is
looked up.

For a <disk> document it prints the blockdev-create commands by which libvirt has a
running QEMU make the disk's image.`,
		Example: `  luksplug volume cmdline vm1-vdb.xml --pool-xml default.xml
  luksplug volume cmdline copy.xml --from vm1-vdb.xml --output json
  luksplug volume cmdline vdb.xml --size 10G --backing base.xml`,
		Args: arguments("VOLUME.xml"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVolumeCmdline(cmd.Context(), a, o, args[0])
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.pool, "pool-xml", "", "the XML file of the volume's storage pool, whose directory has the volume unless its XML has a path")
	f.StringVar(&o.from, "from", "", "the <volume> document of a volume whose data the new one gets")
	f.StringVar(&o.fromPool, "from-pool-xml", "", "the XML file of the storage pool of --from (default that of --pool-xml)")
	f.StringVar(&o.fromPassphrase, "from-passphrase-file", "", "the file with the passphrase of --from (default the one of its secret)")
	f.BoolVar(&o.preallocate, "prealloc-metadata", false, "allocate the metadata of a qcow2 image, and the data as well if its <allocation> has the size of its <capacity>")
	f.StringVar(&o.backing, "backing", "", "of a <disk>: the <disk> document of the image below the new one")
	f.StringVar(&o.size, "size", "", "of a <disk>: the size of the guest's disk, such as 10G")
	f.StringVar(&o.storageSize, "storage-size", "", "of a <disk>: the size of the file below a qcow2 or LUKS image (default that of --size)")
	return cmd
}

func runVolumeCmdline(ctx context.Context, a *app, o volumeCmdlineOptions, path string) error {
	data, err := a.readInput(ctx, path)
	if err != nil {
		return &usageError{fmt.Errorf("read the volume XML: %w", err)}
	}
	if rootElement(data) == "disk" {
		return showBlockdev(ctx, a, o, data)
	}
	if o.size != "" || o.storageSize != "" || o.backing != "" {
		return &usageError{errors.New("--size, --storage-size and --backing are for a <disk> document: a <volume> has all of these itself")}
	}
	v, m, err := o.making(ctx, a, data)
	if err != nil {
		return err
	}
	commands, err := storagevol.QemuImg(v, m)
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, argv := range commands {
		words := make([]string, len(argv))
		for i, w := range argv {
			words[i] = shell.Word(w)
		}
		text.WriteString(strings.Join(words, " ") + "\n")
	}
	if a.flags.output != "json" && printable.Text(text.String()) != text.String() {
		return fmt.Errorf("volume %q: an argument has control characters, which are not printed: use --output json", v.Name)
	}
	return a.show(text.String(), commands)
}

// rootElement returns the name of a document's root element, "" for none.
func rootElement(data []byte) string {
	text, err := xmltext.UTF8(data)
	if err != nil {
		return ""
	}
	for d := xml.NewDecoder(strings.NewReader(string(text))); ; {
		token, err := d.Token()
		if err != nil {
			return ""
		}
		if start, ok := token.(xml.StartElement); ok {
			return start.Name.Local
		}
	}
}

// making returns the volume of a document and how it is made.
func (o *volumeCmdlineOptions) making(ctx context.Context, a *app, data []byte) (v storagevol.Volume, m storagevol.Making, err error) {
	if v, err = readVolume(ctx, a, data, o.pool); err != nil {
		return v, m, err
	}
	m.Preallocate = o.preallocate
	if m.SecretFile, err = o.secretFile(ctx, a, v, "passphrase-file", a.flags.passphrase); err != nil || o.from == "" {
		return v, m, err
	}
	if data, err = a.readInput(ctx, o.from); err != nil {
		return v, m, &usageError{fmt.Errorf("read the volume XML: %w", err)}
	}
	pool := o.fromPool
	if pool == "" {
		pool = o.pool
	}
	from, err := readVolume(ctx, a, data, pool)
	if err != nil {
		return v, m, fmt.Errorf("%s: %w", o.from, err)
	}
	m.From = &from
	m.FromSecretFile, err = o.secretFile(ctx, a, from, "from-passphrase-file", o.fromPassphrase)
	return v, m, err
}

// readVolume reads a volume document, and the pool that the file poolPath describes, "" for none.
func readVolume(ctx context.Context, a *app, data []byte, poolPath string) (storagevol.Volume, error) {
	v, err := diskxml.ParseVolume(data)
	if err != nil {
		return storagevol.Volume{}, err
	}
	if poolPath == "" {
		return *v, nil
	}
	data, err = a.readInput(ctx, poolPath)
	if err != nil {
		return *v, &usageError{fmt.Errorf("read the pool XML: %w", err)}
	}
	pool, err := diskxml.ParsePool(data)
	if err != nil {
		return *v, &usageError{fmt.Errorf("%s: %w", poolPath, err)}
	}
	return v.In(pool), nil
}

// secretFile returns the file from which qemu-img reads a volume's passphrase, "" for a volume without a secret.
func (o *volumeCmdlineOptions) secretFile(ctx context.Context, a *app, v storagevol.Volume, flag, given string) (string, error) {
	if v.Encryption == nil || v.Encryption.Secret == (secrets.Reference{}) {
		return "", nil
	}
	if given == "-" || strings.HasPrefix(given, "fd:") {
		return "", &usageError{fmt.Errorf("--%s %s is gone when qemu-img runs: give the path of a file", flag, given)}
	}
	if given != "" {
		return filepath.Abs(given)
	}
	file, err := findValueFile(ctx, a, v.Encryption.Secret)
	if err != nil {
		return "", err
	}
	if file.path, err = filepath.Abs(file.path); err != nil || file.export == "" {
		return file.path, err
	}
	return file.path, a.note("qemu-img reads the passphrase with %s from %s: no key store keeps it in a file, so write this file before, and remove it afterwards: %s", v.Encryption.Secret, file.path, file.export)
}

// blockdevJSON are the options of blockdev-create for an image; null for a part that is not made.
type blockdevJSON struct {
	Protocol *blockgraph.Object `json:"protocol"`
	Format   *blockgraph.Object `json:"format"`
}

// showBlockdev prints the commands that make the image of a <disk>.
func showBlockdev(ctx context.Context, a *app, o volumeCmdlineOptions, data []byte) error {
	if o.from != "" || o.preallocate || o.pool != "" || o.fromPool != "" {
		return &usageError{errors.New("--from, --prealloc-metadata and the pools are for a <volume> document, and this is a <disk>")}
	}
	size, err := flagSize("size", o.size)
	if err != nil {
		return err
	}
	storage := size
	if o.storageSize != "" {
		if storage, err = flagSize("storage-size", o.storageSize); err != nil {
			return err
		}
	}
	n := storagevol.NewImage{Size: uint64(size), Storage: uint64(storage)} //nolint:gosec // parseSize returns no negative size
	if n.Disk, n.Encryption, err = diskxml.ParseNewDisk(data); err != nil {
		return err
	}
	if o.backing != "" {
		if data, err = a.readInput(ctx, o.backing); err != nil {
			return &usageError{fmt.Errorf("read the disk XML: %w", err)}
		}
		if n.Backing, err = diskxml.ParseDisk(data); err != nil {
			return fmt.Errorf("%s: %w", o.backing, err)
		}
	}
	options, err := storagevol.Blockdev(n)
	if err != nil {
		return err
	}
	var text strings.Builder
	var out blockdevJSON
	for _, part := range []struct {
		to      **blockgraph.Object
		options blockgraph.Object
		job     string
	}{{&out.Protocol, options.Protocol, "storage"}, {&out.Format, options.Format, "format"}} {
		if part.options == nil {
			continue
		}
		*part.to = &part.options
		text.WriteString(qapi.Object{{Name: "execute", Value: "blockdev-create"}, {Name: "arguments", Value: qapi.Object{
			{Name: "job-id", Value: "create-" + part.job}, {Name: "options", Value: part.options}}}}.String() + "\n")
	}
	return a.show(text.String(), out)
}

func flagSize(name, text string) (int64, error) {
	if text == "" {
		return 0, &usageError{fmt.Errorf("volume cmdline needs --%s for a <disk>, such as 10G: its XML has no size", name)}
	}
	n, err := parseSize(text)
	if err != nil {
		return 0, &usageError{fmt.Errorf("--%s %q: %w", name, text, err)}
	}
	return n, nil
}
