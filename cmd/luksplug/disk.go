package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/secrets"
)

// imageFlags are what a disk's XML leaves to the host.
type imageFlags struct {
	pools     []string
	tlsFolder string
	tlsSecret string
	tlsPSK    string
	lenient   bool
}

func (f *imageFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.pools, "pool-xml", nil, "the libvirt storage pool that the disk's volume is in; repeatable; with --domain, libvirt is asked for those that are not given")
	cmd.Flags().BoolVar(&f.lenient, "ignore-unknown", false, "skip elements and attributes of the disk XML that are not known, with a warning; what looks misspelt, and <encryption>, is read strictly even so")
	cmd.Flags().StringVar(&f.tlsFolder, "tls-dir", "", "where the VM's host has the certificates of a TLS client (default "+blockgraph.DefaultTLSFolder+")")
	cmd.Flags().StringVar(&f.tlsSecret, "tls-secret", "", "the UUID of the secret that decrypts the key of the TLS client")
	cmd.Flags().StringVar(&f.tlsPSK, "tls-psk", "", "the user whose pre-shared key in the folder of --tls-dir (keys.psk) a TLS client has in place of certificates")
}

// readDisk reads the disk document that the argument names, - for standard
// input, and tells what there is to know about it. Volumes of storage pools are
// looked up.
func (a *app) readDisk(ctx context.Context, path string, flags imageFlags) (*blockgraph.Disk, error) {
	if path == "-" && a.flags.passphrase == "-" {
		return nil, &usageError{errors.New("standard input cannot be both the disk XML and the passphrase: give one as a file")}
	}
	data, err := a.readInput(path)
	if err != nil {
		return nil, &usageError{fmt.Errorf("read the disk XML: %w", err)}
	}
	disk, err := blockgraph.ParseOptions{IgnoreUnknown: flags.lenient}.ParseDisk(data)
	if err != nil {
		return nil, err
	}
	pools, err := a.readPools(flags.pools)
	if err != nil {
		return nil, err
	}
	if err := a.askForPools(ctx, disk, pools); err != nil {
		return nil, err
	}
	for _, w := range disk.Warnings() {
		a.log.WithField("disk", disk.Target).Warn(w)
	}
	if disk, err = disk.Translate(pools); err != nil {
		return nil, err
	}
	return disk, flags.addTLS(disk)
}

// addTLS gives the images' TLS clients what the flags say of them.
func (f imageFlags) addTLS(disk *blockgraph.Disk) error {
	var key *secrets.Reference
	if f.tlsSecret != "" {
		id, err := secrets.ParseUUID(f.tlsSecret)
		if err != nil {
			return &usageError{fmt.Errorf("--tls-secret: %w", err)}
		}
		key = &secrets.Reference{Type: secrets.TLS, UUID: id}
	}
	for _, image := range disk.Images() {
		if tls := image.Source.TLS(); tls != nil {
			tls.Folder, tls.Key, tls.PSKUser = f.tlsFolder, key, f.tlsPSK
		}
	}
	return nil
}
