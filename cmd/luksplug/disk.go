package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/record"
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

// diskDocument is a disk, and what it was read from.
type diskDocument struct {
	*blockgraph.Disk
	text    []byte
	pools   blockgraph.Pools
	reading record.Reading
}

// readDisk reads the disk document that the argument names, - for standard
// input, and tells what there is to know about it. Volumes of storage pools are
// looked up.
func (a *app) readDisk(ctx context.Context, path string, flags imageFlags) (*diskDocument, error) {
	if path == "-" && a.flags.passphrase == "-" {
		return nil, &usageError{errors.New("standard input cannot be both the disk XML and the passphrase: give one as a file")}
	}
	out := &diskDocument{reading: record.Reading{IgnoreUnknown: flags.lenient, TLSFolder: flags.tlsFolder, TLSSecret: flags.tlsSecret, TLSUser: flags.tlsPSK}}
	if flags.tlsSecret != "" {
		if _, err := secrets.ParseUUID(flags.tlsSecret); err != nil {
			return nil, &usageError{fmt.Errorf("--tls-secret: %w", err)}
		}
	}
	var err error
	if out.text, err = a.readInput(path); err != nil {
		return nil, &usageError{fmt.Errorf("read the disk XML: %w", err)}
	}
	if out.Disk, err = out.reading.Parse(out.text); err != nil {
		return nil, err
	}
	if out.pools, err = a.readPools(flags.pools); err != nil {
		return nil, err
	}
	if err := a.askForPools(ctx, out.Disk, out.pools); err != nil {
		return nil, err
	}
	for _, w := range out.Warnings() {
		a.log.WithField("disk", out.Target).Warn(w)
	}
	if out.Disk, err = out.Translate(out.pools); err != nil {
		return nil, err
	}
	return out, out.reading.Complete(out.Disk)
}
