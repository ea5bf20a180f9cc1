// Package foreign finds the parts of a disk that was attached to a VM without luksplug, by
// the commands that QEMU documents, so that luksplug can take it over.
//
// What QEMU reports is a claim. The files that it names are compared with those that its
// process has open, before anything reads them. The layouts are those of a plan: a LUKS
// volume in a file or block device of this host, or inside of qcow2, with or without a
// detached header.
package foreign

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
)

// Disk is a disk that was attached without luksplug.
type Disk struct {
	// Parts are its parts in QEMU, the volume's node first.
	Parts rundir.Adopted
	// Driver is the type of its device.
	Driver string
	// Format is the format of the payload.
	Format blockgraph.Format
	// UUID is that of the LUKS volume, as QEMU reports it.
	UUID string
	// ReadOnly is true if the guest cannot write.
	ReadOnly bool
	// Cache is the cache mode in the XML's words, "" for the default.
	Cache string
	// Properties are those of the device.
	Properties Properties
}

// Node returns the node of a role.
func (d *Disk) Node(role blockgraph.Role) (node rundir.AdoptedNode, found bool) {
	for _, n := range d.Parts.Nodes {
		if n.Role == role {
			return n, true
		}
	}
	return rundir.AdoptedNode{}, false
}

// Names returns the names of the nodes.
func (d *Disk) Names() []string {
	var out []string
	for _, n := range d.Parts.Nodes {
		out = append(out, n.Name)
	}
	return out
}

// search is one search for a disk.
type search struct {
	q      monitor.Querier
	state  *inventory.State
	target string
	graph  *graph
	pid    int
	disk   *Disk
}

// Find returns the disk whose LUKS volume is the node with that name. It changes nothing. A
// disk that cannot be adopted is refused by an [*outcome.PreflightError] with the reason.
func Find(ctx context.Context, q monitor.Querier, h *host.Host, state *inventory.State, target, node string) (*Disk, error) {
	s := &search{q: q, state: state, target: target, disk: &Disk{}}
	p, err := h.Process(ctx)
	if err != nil || p.PID == 0 {
		return nil, s.refuse(outcome.ErrRemoteVM, err, "what QEMU says of its files can be compared with what its process has open on its own host only, and the process is not known here")
	}
	s.pid = p.PID
	if s.graph, err = readGraph(ctx, q); err != nil {
		return nil, err
	}
	if err := s.volume(ctx, node); err != nil {
		return nil, err
	}
	for i, n := range s.disk.Parts.Nodes {
		if strings.HasPrefix(n.Name, "libvirt-") {
			return nil, s.managed(n.Name)
		}
		if parents := s.graph.parents(n.Name); i > 0 && len(parents) > 1 {
			return nil, s.refuse(outcome.ErrNodeShared, nil, "its node %s has other users than this disk: %s", n.Name, users(ctx, q, state, n.Name, parents))
		}
	}
	return s.disk, nil
}

func (s *search) refuse(cause, err error, format string, args ...any) error {
	return &outcome.PreflightError{Target: s.target, Cause: cause, Reason: fmt.Sprintf(format, args...), Err: err}
}

func (s *search) managed(node string) error {
	return s.refuse(outcome.ErrManaged, nil, "the node %s belongs to a disk that libvirt has attached and manages itself: detach that one with virsh, and attach it with luksplug", node)
}

// filters are the drivers of nodes that can be between a volume and its device.
var filters = []string{"throttle", "copy-on-read", "compress", "preallocate", "copy-before-write", "blkdebug", "blkverify", "blkreplay", "blklogwrites", "snapshot-access"}

// volume adds the node of the volume, its device, and the nodes below.
func (s *search) volume(ctx context.Context, name string) error {
	n := s.state.Node(name)
	switch {
	case strings.HasPrefix(name, "libvirt-"):
		return s.managed(name)
	case n == nil:
		return s.refuse(outcome.ErrNoNode, nil, "the VM has no block node %s: name the node that the device's drive is", name)
	case s.state.TargetOf(*n) != "":
		return s.refuse(outcome.ErrTargetTaken, nil, "the node %s belongs to luksplug's disk %s already", name, s.state.TargetOf(*n))
	case slices.Contains(filters, n.Driver):
		return s.refuse(outcome.ErrForeignLayout, nil, "the node %s is a %s filter, and a disk with one cannot be adopted: attach it again without, or with the filter in its XML", name, n.Driver)
	case !isVolume(n):
		if above := s.volumeAbove(name); above != "" {
			return s.refuse(outcome.ErrNotLUKS, nil, "the node %s is below the LUKS volume %s: name that one", name, above)
		}
		return s.refuse(outcome.ErrNotLUKS, nil, "the node %s (%s) is no LUKS volume, and only encrypted disks can be adopted", name, n.Driver)
	}
	if err := s.device(ctx, n); err != nil {
		return err
	}
	s.disk.UUID, s.disk.ReadOnly, s.disk.Cache = n.VolumeUUID(), n.ReadOnly, cacheMode(n)
	s.secret(n)
	children := s.graph.children(name)
	for edge := range children {
		if edge != "file" && (edge != "header" || n.Driver != "luks") {
			return s.refuse(outcome.ErrForeignLayout, nil, "its node %s has a %s image, %s, and no chain of images can be adopted: attach it with luksplug", name, edge, children[edge])
		}
	}
	if n.Driver == "qcow2" {
		s.disk.Format = blockgraph.FormatQcow2
		s.add(n, blockgraph.RolePayloadFormat, "")
		return s.storage(children["file"], blockgraph.RolePayloadStorage, "payload")
	}
	s.add(n, blockgraph.RoleLUKS, "")
	_, detached := children["header"]
	if err := s.payload(children["file"], detached); err != nil || !detached {
		return err
	}
	return s.storage(children["header"], blockgraph.RoleHeaderStorage, "header")
}

func isVolume(n *inventory.Node) bool {
	return n.Driver == "luks" || n.Driver == "qcow2" && n.Image.Specific.Data.Encrypt.Format == "luks"
}

// volumeAbove returns the name of a LUKS volume above a node, "" for none.
func (s *search) volumeAbove(name string) string {
	const deepest = 8 // nodes between a volume and its file
	for range deepest {
		parents := s.graph.parents(name)
		if len(parents) != 1 || parents[0].Type == backend {
			return ""
		}
		name = parents[0].Name
		if n := s.state.Node(name); n != nil && isVolume(n) {
			return name
		}
	}
	return ""
}

// cacheMode returns the cache mode of a node in the words of the XML.
func cacheMode(n *inventory.Node) string {
	switch {
	case n.Cache.Direct && !n.Cache.NoFlush:
		return "none"
	case n.Cache.NoFlush && !n.Cache.Direct:
		return "unsafe"
	}
	return ""
}

func (s *search) add(n *inventory.Node, role blockgraph.Role, path string) {
	node := rundir.AdoptedNode{Role: role, Name: n.Name, Driver: n.Driver, Path: path}
	if path != "" {
		node.File = n.File
	}
	s.disk.Parts.Nodes = append(s.disk.Parts.Nodes, node)
}

// The types of devices that can be adopted.
const (
	VirtioDisk = "virtio-blk-pci"
	scsiDisk   = "scsi-hd"
)

// device sets the device, which has to be the only user of the volume.
func (s *search) device(ctx context.Context, n *inventory.Node) error {
	parents := s.graph.parents(n.Name)
	switch {
	case len(parents) == 0:
		return s.refuse(outcome.ErrNoDevice, nil, "no device uses the node %s: add one, or remove the node by blockdev-del and attach the disk with luksplug", n.Name)
	case len(parents) > 1 || parents[0].Type != backend:
		cause := outcome.ErrNodeShared
		if slices.ContainsFunc(parents[:min(len(parents), named)], func(v vertex) bool { p := s.state.Node(v.Name); return p != nil && slices.Contains(filters, p.Driver) }) {
			cause = outcome.ErrForeignLayout
		}
		return s.refuse(cause, nil, "the node %s has to be used by one device and nothing else, and is used by %s", n.Name, users(ctx, s.q, s.state, n.Name, parents))
	}
	id := s.state.DeviceOf(n.Name)
	if id == "" {
		return s.refuse(outcome.ErrNoDevice, nil, "the node %s is used by %s, and not by a device with an id", n.Name, users(ctx, s.q, s.state, n.Name, parents))
	}
	s.disk.Parts.Device, s.disk.Driver = id, s.state.Devices[id]
	if s.disk.Driver != VirtioDisk && s.disk.Driver != scsiDisk {
		return s.refuse(outcome.ErrForeignLayout, nil, "its device %s is a %s, and only %s and %s can be adopted", id, s.disk.Driver, VirtioDisk, scsiDisk)
	}
	for _, d := range s.state.Drives {
		if limits := d.Throttling.Limits; d.Node == n.Name && len(limits) > 0 {
			return s.refuse(outcome.ErrForeignLayout, nil, "its device %s has limits (%s), and a disk with limits cannot be adopted: attach it with luksplug, with <iotune>", id, strings.Join(slices.Sorted(maps.Keys(limits)), ", "))
		}
	}
	var err error
	if s.disk.Properties, err = readProperties(ctx, s.q, id); err != nil {
		return err
	}
	if p := s.disk.Properties.refused(); p != "" {
		return s.refuse(outcome.ErrForeignLayout, nil, "its device %s has %s, and a disk with it cannot be adopted: attach it with luksplug", id, p)
	}
	return nil
}

// secret sets the secret with which the volume was opened. It need not exist any longer.
func (s *search) secret(n *inventory.Node) {
	o := inventory.ParseOptions(n.File)
	id := o["key-secret"]
	if n.Driver == "qcow2" {
		id = o["encrypt.key-secret"]
	}
	s.disk.Parts.Secret = id
	if id == "" {
		return
	}
	for _, other := range s.state.Nodes {
		if other.Name == n.Name {
			continue
		}
		for name, value := range inventory.ParseOptions(other.File) {
			if value == id && strings.HasSuffix(name, "secret") {
				s.disk.Parts.SharedSecret = true
			}
		}
	}
}

// payload adds the nodes below a LUKS node.
func (s *search) payload(name string, detached bool) error {
	n := s.state.Node(name)
	if n != nil && n.Driver == "qcow2" {
		children := s.graph.children(name)
		for edge, child := range children {
			if edge != "file" {
				return s.refuse(outcome.ErrForeignLayout, nil, "its node %s has a %s image, %s, and no chain of images can be adopted: attach it with luksplug", name, edge, child)
			}
		}
		if !detached {
			return s.refuse(outcome.ErrForeignLayout, nil, "its node %s is a qcow2 image with the header of a LUKS volume in what it stores, which no disk XML describes", name)
		}
		s.disk.Format = blockgraph.FormatQcow2
		s.add(n, blockgraph.RolePayloadFormat, "")
		return s.storage(children["file"], blockgraph.RolePayloadStorage, "payload")
	}
	s.disk.Format = blockgraph.FormatRaw
	return s.storage(name, blockgraph.RolePayloadStorage, "payload")
}

// storage adds a protocol node, and a raw node without effect above it.
func (s *search) storage(name string, role blockgraph.Role, what string) error {
	n := s.state.Node(name)
	if n != nil && n.Driver == "raw" {
		below := s.state.Node(s.graph.children(name)["file"])
		if below == nil || below.File != n.File {
			return s.refuse(outcome.ErrForeignLayout, nil, "its %s is a part of an image (node %s, raw with an offset or a size), which cannot be adopted: attach it with luksplug", what, name)
		}
		s.add(n, "", "")
		n = below
	}
	switch {
	case n == nil:
		return s.refuse(outcome.ErrForeignLayout, nil, "QEMU does not report the node of its %s", what)
	case n.Driver != "file" && n.Driver != "host_device":
		return s.refuse(outcome.ErrForeignLayout, nil, "its %s (node %s) is opened by the driver %s, and only files and block devices of this host can be adopted: attach it with luksplug", what, n.Name, n.Driver)
	}
	path, err := s.opened(n, what)
	if err == nil {
		s.add(n, role, path)
	}
	return err
}

// opened returns the absolute path of the file of a protocol node, which QEMU's process has to
// have open, for writing unless the disk is read-only.
func (s *search) opened(n *inventory.Node, what string) (string, error) {
	path := n.File
	if strings.HasPrefix(path, "json:") || strings.HasPrefix(path, "/dev/fdset/") {
		return "", s.refuse(outcome.ErrForeignLayout, nil, "its %s (node %s) was opened from a descriptor or by other options than a path, %s: attach it with luksplug", what, n.Name, path)
	}
	if !filepath.IsAbs(path) {
		dir, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(s.pid), "cwd"))
		if err != nil {
			return "", s.refuse(outcome.ErrImageUnusable, err, "the %s %s is relative to QEMU's working directory, which cannot be read", what, path)
		}
		path = filepath.Join(dir, path)
	}
	path = filepath.Clean(path)
	open, writable, err := image.Opened(s.pid, path)
	switch {
	case err != nil:
		return "", s.refuse(outcome.ErrImageUnusable, err, "it cannot be found out which %s QEMU has open", what)
	case !open:
		return "", s.refuse(outcome.ErrImageUnusable, nil, "QEMU says that its %s is %s, and process %d has another file open or none: the file was replaced or moved, or QEMU is not to be trusted", what, path, s.pid)
	case !s.disk.ReadOnly && !writable:
		return "", s.refuse(outcome.ErrReadOnlyImage, nil, "QEMU says that the disk is writable, and process %d has its %s %s open for reading only", s.pid, what, path)
	}
	return path, nil
}
