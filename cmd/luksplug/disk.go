package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/secrets"
)

// imageFlags are what a disk's XML leaves to the host.
type imageFlags struct {
	pools     []string
	tlsDir    string
	tlsSecret string
	tlsPSK    string
	lenient   bool
}

func (f *imageFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.pools, "pool-xml", nil, "the libvirt storage pool that the disk's volume is in; repeatable; with --domain, libvirt is asked for those that are not given")
	cmd.Flags().BoolVar(&f.lenient, "ignore-unknown", false, "skip elements and attributes of the disk XML that are not known, with a warning; what looks misspelt, and <encryption>, is read strictly even so")
	cmd.Flags().StringVar(&f.tlsDir, "tls-dir", "", "where the VM's host has the certificates of a TLS client (default "+blockgraph.DefaultTLSDir+")")
	cmd.Flags().StringVar(&f.tlsSecret, "tls-secret", "", "the UUID of the secret that decrypts the key of the TLS client")
	cmd.Flags().StringVar(&f.tlsPSK, "tls-psk", "", "the user whose pre-shared key in the directory of --tls-dir (keys.psk) a TLS client has in place of certificates")
}

// readDisk reads the disk document that the argument names, - for standard
// input, and logs its warnings. Volumes of storage pools are looked up.
func (a *app) readDisk(ctx context.Context, path string, flags imageFlags) (*libvirtvm.Disk, error) {
	if path == "-" && a.flags.passphrase == "-" {
		return nil, &usageError{errors.New("standard input cannot be both the disk XML and the passphrase: give one as a file")}
	}
	if flags.tlsSecret != "" {
		if _, err := secrets.ParseUUID(flags.tlsSecret); err != nil {
			return nil, &usageError{fmt.Errorf("--tls-secret: %w", err)}
		}
	}
	text, err := a.readInput(path)
	if err != nil {
		return nil, &usageError{fmt.Errorf("read the disk XML: %w", err)}
	}
	disk, err := libvirtvm.ParseDisk(text, libvirtvm.Reading{IgnoreUnknown: flags.lenient, TLSFolder: flags.tlsDir, TLSSecret: flags.tlsSecret, TLSUser: flags.tlsPSK})
	if err != nil {
		return nil, err
	}
	pools, err := a.pools(ctx, disk.Disk, flags.pools)
	if err != nil {
		return nil, err
	}
	for _, w := range disk.Warnings() {
		a.log.WithField("disk", disk.Target).Warn(w)
	}
	return disk.Locate(pools)
}

// pools returns the storage pools of the documents and, with --domain, those of the
// disk's volumes that libvirt knows.
func (a *app) pools(ctx context.Context, disk *blockgraph.Disk, paths []string) (blockgraph.Pools, error) {
	pools, err := a.readPools(paths)
	if err != nil || a.flags.domain == "" {
		return pools, err
	}
	uri, from, err := a.libvirtURI()
	if err != nil {
		return nil, err
	}
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	pools, err = libvirtvm.LookUpPools(ctx, uri, disk, pools)
	return pools, ofURI(from, err)
}
