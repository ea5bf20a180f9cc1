package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/secrets"
)

// diskFlags are the flags of a command that reads a disk document: settings that the
// document leaves to the host.
type diskFlags struct {
	target  string
	pools   []string
	reading libvirtvm.Reading
}

func (f *diskFlags) register(cmd *cobra.Command) {
	p := cmd.Flags()
	p.StringVar(&f.target, "target", "", "the disk with this target, such as vdb, if the document is a whole <domain>, its <devices>, or a snapshot of it")
	p.StringArrayVar(&f.pools, "pool-xml", nil, "the XML file of the storage pool that has the disk's volume; repeatable; with --domain, other pools are looked up in libvirt")
	p.BoolVar(&f.reading.IgnoreUnknown, "ignore-unknown", false, "skip unknown elements and attributes of the disk XML with a warning, except for those that look misspelt and those in <encryption>")
	p.StringVar(&f.reading.TLSDir, "tls-dir", "", "the directory, on the VM's host, of the certificates of a TLS client (default "+blockgraph.DefaultTLSDir+")")
	p.StringVar(&f.reading.TLSSecret, "tls-secret", "", "the secret that decrypts the key of the TLS client: its UUID, or tls:USAGE")
	registerRecover(cmd, &f.reading.Recovery)
	p.StringVar(&f.reading.TLSUser, "tls-psk", "", "the user of a pre-shared key, from keys.psk in the directory of --tls-dir, in place of certificates")
}

// readDisk reads a disk document, - for standard input, logs its warnings, and looks up
// the volumes of storage pools.
func readDisk(ctx context.Context, a *app, path string, flags diskFlags) (*libvirtvm.Disk, error) {
	if path == "-" && a.flags.passphrase == "-" {
		return nil, &usageError{errors.New("standard input cannot be both the disk XML and the passphrase: give one as a file")}
	}
	if flags.reading.TLSSecret != "" {
		ref, err := parseSecret(flags.reading.TLSSecret)
		if err == nil && ref.Usage != "" && ref.Type != secrets.TLS {
			err = &usageError{fmt.Errorf("%q is the secret of another use: give its uuid, or tls:USAGE", flags.reading.TLSSecret)}
		}
		if err != nil {
			return nil, fmt.Errorf("--tls-secret: %w", err)
		}
	}
	text, err := a.readInput(ctx, path)
	if err != nil {
		return nil, &usageError{fmt.Errorf("read the disk XML: %w", err)}
	}
	if text, err = diskxml.ChooseDisk(text, flags.target); err != nil {
		return nil, err
	}
	disk, err := libvirtvm.ParseDisk(text, flags.reading)
	if err != nil {
		return nil, err
	}
	pools, err := readPools(ctx, a, flags.pools)
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
// other pool has it, by its file's name: NAME.xml or pool-NAME.xml.
func readPools(ctx context.Context, a *app, paths []string) (blockgraph.Pools, error) {
	pools, byFile := blockgraph.Pools{}, blockgraph.Pools{}
	for _, path := range paths {
		data, err := a.readInput(ctx, path)
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

// planOptions are the flags of a command that makes a plan.
type planOptions struct {
	disk      diskFlags
	domainXML string
	unlock    hotplug.UnlockPolicy
}

func (o *planOptions) register(cmd *cobra.Command) {
	o.disk.register(cmd)
	cmd.Flags().StringVar(&o.domainXML, "domain-xml", "", "plan for the libvirt domain of this document")
}

// planned is a plan of a disk, with what is known of the disk's headers.
type planned struct {
	*blockgraph.Plan
	disk    *blockgraph.Disk
	headers hotplug.PlannedHeaders
}

// warn logs what the user has to know about the headers.
func (p planned) warn(a *app) {
	for _, doubt := range slices.Concat(p.headers.Unread, p.headers.Doubts) {
		a.log.WithField("disk", p.disk.Target).WithField(hotplug.CauseField, doubt).Warn(doubt)
	}
	warn(a, p.disk, p.headers.Warnings)
}

// makePlan plans a disk for the VM that the flags name, for the domain of a document, or
// for no particular VM. A disk whose LUKS header can be read here, and is not opened by the
// method of the plan, is refused as by attach.
func makePlan(ctx context.Context, a *app, o planOptions, path string) (planned, error) {
	live := a.flags.qmp != "" || a.flags.domain != ""
	if live && o.domainXML != "" {
		return planned{}, &usageError{errors.New("give --domain-xml, or a running VM with --qmp or --domain, not both")}
	}
	document, err := readDisk(ctx, a, path, o.disk)
	if err != nil {
		return planned{}, err
	}
	if live {
		return planLive(ctx, a, document.Disk, o.unlock)
	}
	out := planned{disk: document.Disk}
	var machine blockgraph.Machine
	if o.domainXML != "" {
		data, err := a.readInput(ctx, o.domainXML)
		if err != nil {
			return out, &usageError{fmt.Errorf("read the domain XML: %w", err)}
		}
		if machine, err = diskxml.ParseDomain(data); err != nil {
			return out, &usageError{err}
		}
	}
	method := offline(out.disk, o.unlock)
	graph, err := blockgraph.Build(out.disk, machine, method)
	if err != nil {
		return out, err
	}
	warn(a, out.disk, graph.Warnings)
	out.Plan = graph.Plan()
	out.headers, err = hotplug.CheckHeaders(ctx, out.disk, method)
	if o.unlock != "" || ctx.Err() != nil {
		return out, err
	}
	// The method was not chosen, and is not that of attach: what refuses it is a warning.
	for _, unread := range out.headers.Unread {
		a.log.WithField("disk", out.disk.Target).Info(unread)
	}
	out.headers.Unread = nil
	if err != nil {
		out.headers.Doubts = append(out.headers.Doubts, err)
	}
	return out, nil
}

func planLive(ctx context.Context, a *app, disk *blockgraph.Disk, policy hotplug.UnlockPolicy) (planned, error) {
	out := planned{disk: disk}
	err := withVM(ctx, a, a.flags.limit(), func(ctx context.Context, m virtualMachine) error {
		vm, err := m.VM(ctx)
		if err != nil {
			return err
		}
		state, err := vm.State(ctx)
		if err != nil {
			return err
		}
		choice, err := vm.ChooseUnlock(ctx, disk, state, policy)
		if err != nil {
			return err
		}
		if out.Plan, err = vm.Plan(ctx, disk, state, choice.Unlock); err != nil {
			return err
		}
		warn(a, disk, out.Graph.Warnings)
		out.headers, err = vm.CheckHeaders(ctx, disk, choice.Unlock)
		return err
	})
	return out, err
}

// offline returns how a VM that cannot be queried would open the volume.
func offline(disk *blockgraph.Disk, policy hotplug.UnlockPolicy) blockgraph.Unlock {
	switch policy {
	case hotplug.UnlockAuto:
		return blockgraph.Unlock{Method: blockgraph.MethodEphemeralHeader}
	case hotplug.UnlockExternal:
		return blockgraph.Unlock{Method: blockgraph.MethodStorageDaemon, Dir: filepath.Join("/run/luksplug/vm/UUID", disk.Target)}
	}
	return blockgraph.Unlock{Method: blockgraph.MethodQEMU}
}
