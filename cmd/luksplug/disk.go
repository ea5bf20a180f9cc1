package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/secrets"
)

// diskFlags are the flags of a command that reads a disk document: what the document
// leaves to the host.
type diskFlags struct {
	pools   []string
	reading libvirtvm.Reading
}

func (f *diskFlags) register(cmd *cobra.Command) {
	p := cmd.Flags()
	p.StringArrayVar(&f.pools, "pool-xml", nil, "the XML file of the storage pool that has the disk's volume; repeatable; with --domain, other pools are looked up in libvirt")
	p.BoolVar(&f.reading.IgnoreUnknown, "ignore-unknown", false, "skip unknown elements and attributes of the disk XML with a warning, except for those that look misspelt and those in <encryption>")
	p.StringVar(&f.reading.TLSFolder, "tls-dir", "", "the directory, on the VM's host, of the certificates of a TLS client (default "+blockgraph.DefaultTLSFolder+")")
	p.StringVar(&f.reading.TLSSecret, "tls-secret", "", "the UUID of the secret that decrypts the key of the TLS client")
	p.StringVar(&f.reading.TLSUser, "tls-psk", "", "the user of a pre-shared key, from keys.psk in the directory of --tls-dir, in place of certificates")
}

// readDisk reads a disk document, - for standard input, logs its warnings, and looks up
// the volumes of storage pools.
func readDisk(ctx context.Context, a *app, path string, flags diskFlags) (*libvirtvm.Disk, error) {
	if path == "-" && a.flags.passphrase == "-" {
		return nil, &usageError{errors.New("standard input cannot be both the disk XML and the passphrase: give one as a file")}
	}
	if flags.reading.TLSSecret != "" {
		if _, err := secrets.ParseUUID(flags.reading.TLSSecret); err != nil {
			return nil, &usageError{fmt.Errorf("--tls-secret: %w", err)}
		}
	}
	text, err := a.readInput(path)
	if err != nil {
		return nil, &usageError{fmt.Errorf("read the disk XML: %w", err)}
	}
	disk, err := libvirtvm.ParseDisk(text, flags.reading)
	if err != nil {
		return nil, err
	}
	pools, err := readPools(a, flags.pools)
	if err == nil && a.flags.domain != "" {
		pools, err = lookUpPools(ctx, a, disk.Disk, pools)
	}
	if err != nil {
		return nil, err
	}
	warn(a, disk.Disk, disk.Warnings())
	return disk.Locate(pools)
}

// warn logs the warnings of a disk.
func warn(a *app, disk *blockgraph.Disk, warnings []string) {
	for _, w := range warnings {
		a.log.WithField("disk", disk.Target).Warn(w)
	}
}

// lookUpPools adds the storage pools of the disk's volumes that libvirt knows.
func lookUpPools(ctx context.Context, a *app, disk *blockgraph.Disk, known blockgraph.Pools) (blockgraph.Pools, error) {
	uri, err := a.libvirtURI()
	if err != nil {
		return nil, err
	}
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	pools, err := libvirtvm.LookUpPools(ctx, uri.text, disk, known)
	return pools, uri.explain(err)
}

// readPools reads pool documents. A pool is known by the name in its document and, if no
// other has it, by that of its file: NAME.xml or pool-NAME.xml.
func readPools(a *app, paths []string) (blockgraph.Pools, error) {
	pools, byFile := blockgraph.Pools{}, blockgraph.Pools{}
	for _, path := range paths {
		data, err := a.readInput(path)
		if err != nil {
			return nil, &usageError{fmt.Errorf("read the pool XML: %w", err)}
		}
		pool, err := diskxml.ParsePool(data)
		if err != nil {
			return nil, &usageError{fmt.Errorf("%s: %w", path, err)}
		}
		if pools[pool.Name] != nil {
			return nil, &usageError{fmt.Errorf("%s: the pool %s is given twice", path, pool.Name)}
		}
		pools[pool.Name] = pool
		file := strings.TrimSuffix(filepath.Base(path), ".xml")
		byFile[file], byFile[strings.TrimPrefix(file, "pool-")] = pool, pool
	}
	for name, pool := range byFile {
		if pools[name] == nil {
			pools[name] = pool
		}
	}
	return pools, nil
}
