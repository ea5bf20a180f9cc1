package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/luksplug/luksplug/integration/internal/peer"
)

// command measures whole programs on a domain of a private libvirtd, which was
// never started, for the reason that library gives.
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

// measureCommand measures nothing for a user other than root, who cannot start
// the private libvirtd.
func measureCommand(ctx context.Context, dir string, n size) (rows []row, err error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	c := &command{}
	if c.tool, err = buildProgram(ctx, dir, "cmd/luksplug"); err != nil {
		return nil, err
	}
	if err := c.makeDisks(ctx, dir); err != nil {
		return nil, err
	}
	state := filepath.Join(dir, "libvirt")
	if err := os.Mkdir(state, 0o755); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // libvirt's children look into it
		return nil, err
	}
	if c.libvirt, err = peer.RunLibvirtd(ctx, state, peer.LibvirtOptions{}); err != nil {
		return nil, err
	}
	defer c.libvirt.Close()
	if c.domain, err = c.libvirt.StartDomain(ctx, peer.DomainOptions{SCSI: true}); err != nil {
		return nil, err
	}
	return c.measure(ctx, n)
}

// buildProgram builds one of this module's programs as make build does.
func buildProgram(ctx context.Context, dir, folder string) (string, error) {
	path := filepath.Join(dir, filepath.Base(folder))
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "github.com/luksplug/luksplug/"+folder)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", folder, err, out)
	}
	return path, nil
}

// makeDisks makes luksplug's volume and an image for virsh.
func (c *command) makeDisks(ctx context.Context, dir string) error {
	folder := filepath.Join(dir, "command")
	if err := os.Mkdir(folder, 0o700); err != nil {
		return err
	}
	var err error
	if c.volume, err = peer.CreateVolume(ctx, folder, peer.DetachedRaw); err != nil {
		return err
	}
	c.disk, c.plain = filepath.Join(folder, "luks.xml"), filepath.Join(folder, "plain.xml")
	image := filepath.Join(folder, "plain.img")
	return errors.Join(
		os.WriteFile(c.disk, []byte(c.volume.DiskXML(ourTarget, "scsi")), 0o600),
		os.WriteFile(c.plain, []byte(plainXML(image, virshTarget)), 0o600),
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

// luksplug runs the program to its end.
func (c *command) luksplug(ctx context.Context, address []string, args ...string) error {
	cmd := exec.CommandContext(ctx, c.tool, append(address[:len(address):len(address)], args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("luksplug %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
