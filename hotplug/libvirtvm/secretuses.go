package libvirtvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/digitalocean/go-libvirt"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/libvirtconn"
)

// ErrNotConnected reports that a libvirt could not be reached at all.
var ErrNotConnected = errors.New("libvirt cannot be reached")

// AsItRuns is the document of a [hotplug.Use] that is a domain's live state, and not one for a later start.
const AsItRuns = "as it runs"

// SecretUses returns what names secrets in the documents of the libvirt at uri, whether it
// runs or not: domains as they run and as they are defined, with luksplug's records of
// their disks, the states that libvirt has saved of them, their snapshots and checkpoints,
// and storage pools and their volumes. It changes nothing. The error wraps
// [ErrNotConnected] if there is no answer from that libvirt; other errors are those of a
// single document, which could not be read.
func SecretUses(ctx context.Context, uri string) ([]hotplug.Use, error) {
	u, err := libvirtconn.Parse(uri)
	if err != nil {
		return nil, err
	}
	l, disconnect, err := u.Connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotConnected, err)
	}
	defer disconnect()
	return libvirtconn.Within(ctx, func() ([]hotplug.Use, error) {
		var c collected
		c.domains(l)
		c.pools(l)
		return c.uses, errors.Join(c.failed...)
	})
}

// collected are the uses in documents, and errors of documents that could not be read.
type collected struct {
	uses   []hotplug.Use
	failed []error
}

// add adds the uses in a document. What was removed meanwhile has none.
func (c *collected) add(vm, in, text string, err error) {
	for _, gone := range []libvirt.ErrorNumber{libvirt.ErrNoDomain, libvirt.ErrNoDomainSnapshot, libvirt.ErrNoDomainCheckpoint, libvirt.ErrNoStoragePool, libvirt.ErrNoStorageVol} {
		if isLibvirt(err, gone) {
			return
		}
	}
	var found []domainxml.SecretUse
	if err == nil {
		found, err = domainxml.SecretUses([]byte(text))
	}
	if err != nil {
		c.failed = append(c.failed, fmt.Errorf("%s, %s: %w", vm, in, err))
		return
	}
	for _, u := range found {
		c.uses = append(c.uses, hotplug.Use{VM: vm, In: in, Target: u.Target, Payload: u.Payload, Header: u.Header, Secrets: u.Secrets})
	}
}

// listed adds the error of a list, unless this libvirt does not have its objects at all.
func (c *collected) listed(what string, err error) {
	if err != nil && !isLibvirt(err, libvirt.ErrNoSupport) && !isLibvirt(err, libvirt.ErrOperationUnsupported) && !isLibvirt(err, libvirt.ErrNoDomain) {
		c.failed = append(c.failed, fmt.Errorf("%s: %w", what, err))
	}
}

func (c *collected) domains(l *libvirt.Libvirt) {
	domains, _, err := l.ConnectListAllDomains(1, 0)
	c.listed("the domains of libvirt", err)
	for _, d := range domains {
		vm := "domain " + d.Name
		if persistent, err := l.DomainIsPersistent(d); err != nil || persistent != 0 {
			text, err := l.DomainGetXMLDesc(d, libvirt.DomainXMLInactive)
			c.add(vm, "its definition", text, err)
		}
		if active, err := l.DomainIsActive(d); err == nil && active != 0 {
			text, err := l.DomainGetXMLDesc(d, 0)
			c.add(vm, AsItRuns, text, err)
		}
		saved, err := l.DomainHasManagedSaveImage(d, 0)
		c.listed(vm, err)
		if saved != 0 {
			text, err := l.DomainManagedSaveGetXMLDesc(d, 0)
			c.add(vm, "its saved state", text, err)
		}
		snapshots, _, err := l.DomainListAllSnapshots(d, 1, 0)
		c.listed("the snapshots of "+vm, err)
		for _, s := range snapshots {
			text, err := l.DomainSnapshotGetXMLDesc(s, 0)
			c.add(vm, "its snapshot "+s.Name, text, err)
		}
		checkpoints, _, err := l.DomainListAllCheckpoints(d, 1, 0)
		c.listed("the checkpoints of "+vm, err)
		for _, s := range checkpoints {
			text, err := l.DomainCheckpointGetXMLDesc(s, 0)
			c.add(vm, "its checkpoint "+s.Name, text, err)
		}
	}
}

func (c *collected) pools(l *libvirt.Libvirt) {
	pools, _, err := l.ConnectListAllStoragePools(1, 0)
	c.listed("the storage pools of libvirt", err)
	for _, p := range pools {
		name := "storage pool " + p.Name
		text, err := l.StoragePoolGetXMLDesc(p, 0)
		c.add(name, "its definition", text, err)
		if active, err := l.StoragePoolIsActive(p); err != nil || active == 0 {
			continue // its volumes are known while it is active
		}
		volumes, _, err := l.StoragePoolListAllVolumes(p, 1, 0)
		c.listed("the volumes of "+name, err)
		for _, v := range volumes {
			text, err := l.StorageVolGetXMLDesc(v, 0)
			c.add(name, "its volume "+v.Name, text, err)
		}
	}
}

// Directories are those in which libvirt of this host keeps its documents.
type Directories struct {
	Definitions, Running, Snapshots, Checkpoints, Pools string
}

// HostDirectories returns those of the host's own libvirt, qemu:///system.
func HostDirectories() Directories {
	return Directories{
		Definitions: "/etc/libvirt/qemu", Running: "/run/libvirt/qemu", Pools: "/etc/libvirt/storage",
		Snapshots: "/var/lib/libvirt/qemu/snapshot", Checkpoints: "/var/lib/libvirt/qemu/checkpoint",
	}
}

// maxFile bounds the size of a document of libvirt's.
const maxFile = 16 << 20

// SecretUses is [SecretUses] for a libvirt of this host that does not run, from its own files.
// States that libvirt has saved, and volumes of pools, are not looked at. known is false if
// there are none of these files.
func (d Directories) SecretUses() (uses []hotplug.Use, known bool, err error) {
	var c collected
	for _, one := range []struct{ what, in, pattern string }{
		{"domain ", "its definition", d.Definitions + "/*.xml"},
		{"domain ", AsItRuns, d.Running + "/*.xml"},
		{"domain ", "its snapshot", d.Snapshots + "/*/*.xml"},
		{"domain ", "its checkpoint", d.Checkpoints + "/*/*.xml"},
		{"storage pool ", "its definition", d.Pools + "/*.xml"},
	} {
		paths, err := filepath.Glob(one.pattern)
		if err != nil {
			return nil, false, err
		}
		for _, path := range paths {
			known = true
			text, err := fsutil.ReadLinked(path, maxFile)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fsutil.ErrNotRegular) {
				continue
			}
			name := filepath.Base(path)
			if directory := filepath.Dir(path); filepath.Dir(one.pattern) != directory {
				name = filepath.Base(directory)
			}
			c.add(one.what+name[:len(name)-len(filepath.Ext(name))], one.in, string(text), err)
		}
	}
	for _, dir := range []string{d.Definitions, d.Running} {
		if _, err := os.ReadDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			c.failed = append(c.failed, err)
		}
	}
	return c.uses, known, errors.Join(c.failed...)
}
