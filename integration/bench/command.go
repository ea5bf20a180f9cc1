package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/luksplug/luksplug/integration/internal/peer"
)

// command measures whole programs on a domain that was never started, for the same reason as [library].
type command struct {
	libvirt *peer.Libvirt
	domain  *peer.Domain
	tool    string
	volume  *peer.Volume
	disk    string // luksplug's disk document
	plain   string // virsh's: the same without encryption
}

// The two disks' targets.
const (
	ourTarget   = "sda"
	virshTarget = "sdb"
)

// measureCommand returns no rows unless root runs it: the private libvirtd needs root.
func measureCommand(ctx context.Context, dir string, n size) (rows []row, err error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	c := &command{}
	if c.tool, err = buildProgram(ctx, dir, "cmd/luksplug"); err != nil {
		return nil, err
	}
	directory := filepath.Join(dir, "command")
	if err := os.Mkdir(directory, 0o700); err != nil {
		return nil, err
	}
	if c.volume, err = peer.CreateVolume(ctx, directory, peer.DetachedRaw); err != nil {
		return nil, err
	}
	if c.disk, c.plain, err = writeDisks(directory, "scsi", c.volume, ourTarget, virshTarget); err != nil {
		return nil, err
	}
	if c.libvirt, err = runLibvirtd(ctx, dir); err != nil {
		return nil, err
	}
	defer c.libvirt.Close()
	if c.domain, err = c.libvirt.StartDomain(ctx, peer.DomainOptions{SCSI: true}); err != nil {
		return nil, err
	}
	return c.measure(ctx, n)
}

// buildProgram builds one of this module's programs into dir.
func buildProgram(ctx context.Context, dir, directory string) (string, error) {
	path := filepath.Join(dir, filepath.Base(directory))
	return path, peer.Build(ctx, directory, path)
}

// runLibvirtd starts a private libvirtd with its files below dir, which its children may read.
func runLibvirtd(ctx context.Context, dir string) (*peer.Libvirt, error) {
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	return peer.RunLibvirtd(ctx, filepath.Join(dir, "libvirt"), peer.LibvirtOptions{})
}

// writeDisks writes two disk documents for a bus: of a volume, and of an empty image without encryption.
func writeDisks(dir, bus string, volume *peer.Volume, target, plainTarget string) (disk, plain string, err error) {
	disk, plain = filepath.Join(dir, "luks.xml"), filepath.Join(dir, "plain.xml")
	image := filepath.Join(dir, "plain.img")
	return disk, plain, errors.Join(
		os.WriteFile(disk, []byte(volume.DiskXML(target, bus)), 0o600),
		os.WriteFile(plain, []byte(plainXML(image, plainTarget, bus)), 0o600),
		makeImage(image))
}

func (c *command) measure(ctx context.Context, n size) ([]row, error) {
	qmp := []string{"--qmp", c.domain.Control}
	rpc := []string{"--connect", c.libvirt.URI, "--domain", c.domain.Name}
	const reference = "virsh attach-device, not encrypted"
	rows := []row{{what: "luksplug --qmp ... attach", reference: reference}, {what: "luksplug --domain ... attach", reference: reference}}
	for i, address := range [][]string{qmp, rpc} {
		last := ""
		virsh := func(ctx context.Context) error {
			last = virshTarget
			_, err := c.libvirt.Virsh(ctx, "attach-device", c.domain.Name, c.plain)
			return err
		}
		ours := func(ctx context.Context) error {
			last = ourTarget
			return c.luksplug(ctx, address, "--passphrase-file", c.volume.PassphraseFile, "attach", c.disk)
		}
		clean := func(ctx context.Context) error {
			if last == ourTarget {
				return c.luksplug(ctx, address, "detach", ourTarget)
			}
			_, err := c.libvirt.Virsh(ctx, "detach-device", c.domain.Name, c.plain)
			return err
		}
		var err error
		if rows[i].pairs, err = compare(ctx, n.process, virsh, ours, clean); err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// luksplug runs the program.
func (c *command) luksplug(ctx context.Context, address []string, args ...string) error {
	_, err := peer.Output(ctx, c.tool, slices.Concat(address, args)...)
	return err
}
