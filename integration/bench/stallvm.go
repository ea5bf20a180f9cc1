package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/integration/internal/peer"
)

// stallVM is a VM with a guest that measures its own delays.
type stallVM struct {
	libvirt *peer.Libvirt
	domain  *peer.Domain
	tool    string   // luksplug
	path    string   // PATH, in which virsh is
	monitor string   // the unix socket of the monitor for attaches
	ping    *os.File // a connection to another one
	volume  *peer.Volume
	wrong   string // a file with a passphrase that the volume does not have
	disk    string // the document of its disk
	plain   string // and of one that is not encrypted
	before  peer.State
}

// The disks' names: target and serial numbers.
const (
	stallTarget = "vdx" // attached and detached
	programDisk = "gaps"
	writtenDisk = "written"
)

// startStallVM starts everything, with its files in dir. The caller closes the result.
func startStallVM(ctx context.Context, dir string) (_ *stallVM, err error) {
	v := &stallVM{monitor: filepath.Join(dir, "monitor.sock")}
	if v.tool, err = buildProgram(ctx, dir, "cmd/luksplug"); err != nil {
		return nil, err
	}
	if err := v.makeVolume(ctx, dir); err != nil {
		return nil, err
	}
	devices, err := watchingDisks(ctx, dir)
	if err != nil {
		return nil, err
	}
	if v.libvirt, err = runLibvirtd(ctx, dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			v.close()
		}
	}()
	pings := filepath.Join(dir, "ping.sock")
	var extra []string
	for id, socket := range map[string]string{"attach": v.monitor, "ping": pings} {
		extra = append(extra, "-chardev", "socket,id="+id+",server=on,wait=off,path="+socket, "-mon", "chardev="+id+",mode=control")
	}
	if v.domain, err = v.libvirt.StartDomain(ctx, peer.DomainOptions{Guest: true, Devices: devices, Extra: extra}); err != nil {
		return nil, err
	}
	if v.ping, err = dialBlocking(pings); err != nil {
		return nil, err
	}
	if err := v.startGaps(ctx); err != nil {
		return nil, err
	}
	if err := v.setUpVirsh(ctx, dir); err != nil {
		return nil, err
	}
	v.before, err = v.domain.State(ctx)
	return v, err
}

// close ends the VM.
func (v *stallVM) close() {
	if v.ping != nil {
		_ = v.ping.Close() // nothing is buffered
	}
	v.libvirt.Close()
}

// makeVolume makes a volume with default settings, as libvirt itself does.
func (v *stallVM) makeVolume(ctx context.Context, dir string) error {
	v.volume = &peer.Volume{
		Kind: peer.EmbeddedLUKS, Format: "raw", Size: peer.VolumeSize,
		Payload:        filepath.Join(dir, "volume.img"),
		PassphraseFile: filepath.Join(dir, "passphrase"),
		Passphrase:     []byte(rand.Text()),
		SecretUUID:     uuid.NewString(),
	}
	v.wrong = filepath.Join(dir, "wrong")
	err := errors.Join(
		os.WriteFile(v.volume.PassphraseFile, v.volume.Passphrase, 0o600),
		os.WriteFile(v.wrong, []byte(rand.Text()), 0o600))
	if err != nil {
		return err
	}
	if _, err := peer.Output(ctx, "qemu-img", "create", "-q", "-f", "luks", "--object", "secret,id=s,file="+v.volume.PassphraseFile,
		"-o", "key-secret=s", v.volume.Payload, fmt.Sprint(v.volume.Size)); err != nil {
		return err
	}
	v.disk, v.plain, err = writeDisks(dir, "virtio", v.volume, stallTarget, stallTarget)
	return err
}

// watchingDisks describes two disks for the guest: the program that runs in it, and the disk that it writes.
func watchingDisks(ctx context.Context, dir string) (string, error) {
	program, err := buildProgram(ctx, dir, "integration/internal/gaps")
	if err != nil {
		return "", err
	}
	info, err := os.Stat(program)
	if err != nil {
		return "", err
	}
	const sector = 512 // a disk has whole sectors; the kernel ignores bytes after a program
	if err := os.Truncate(program, (info.Size()+sector-1)/sector*sector); err != nil {
		return "", err
	}
	written := filepath.Join(dir, writtenDisk)
	return plainXML(program, "vda", "virtio") + plainXML(written, "vdb", "virtio"), makeImage(written)
}

// startGaps starts the program in the guest.
func (v *stallVM) startGaps(ctx context.Context) error {
	guest := v.domain.Guest()
	program, err := guest.WaitDisk(ctx, programDisk)
	if err != nil {
		return err
	}
	written, err := guest.WaitDisk(ctx, writtenDisk)
	if err != nil {
		return err
	}
	_, err = guest.Run(ctx, `set -e
cat `+program+` > /tmp/gaps
chmod +x /tmp/gaps
mkfifo /tmp/ask /tmp/answer
/tmp/gaps `+written+` /tmp/ask /tmp/answer > /tmp/gaps.log 2>&1 &`)
	return err
}

// guestGaps returns the gaps in the guest since the last call.
func (v *stallVM) guestGaps(ctx context.Context) (stall, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := v.domain.Guest().Run(ctx, "cat /tmp/gaps.log; echo ? > /tmp/ask; cat /tmp/answer")
	if err != nil {
		return stall{}, fmt.Errorf("read the guest's gaps: %w: %s", err, out)
	}
	var timer, disk int64
	s := stall{}
	if _, err := fmt.Sscan(out, &timer, &disk, &s.timerTurns, &s.diskTurns); err != nil {
		return stall{}, fmt.Errorf("the guest's gaps: unreadable answer %q: %w", out, err)
	}
	s.timer, s.disk = time.Duration(timer)*time.Microsecond, time.Duration(disk)*time.Microsecond
	return s, nil
}

// setUpVirsh defines the passphrase in libvirt, and puts virsh into the PATH of luksplug.
func (v *stallVM) setUpVirsh(ctx context.Context, dir string) error {
	bin, secret := filepath.Join(dir, "bin"), filepath.Join(dir, "secret.xml")
	virsh := v.libvirt.VirshCommand(ctx)
	libraries := virsh.Env[len(virsh.Env)-1]
	script := "#!/bin/sh\n" + libraries + " exec '" + virsh.Path + "' \"$@\"\n"
	xml := "<secret ephemeral='yes' private='yes'><uuid>" + v.volume.SecretUUID + "</uuid></secret>\n"
	v.path = bin + ":" + os.Getenv("PATH")
	err := errors.Join(
		os.Mkdir(bin, 0o755),
		os.WriteFile(filepath.Join(bin, "virsh"), []byte(script), 0o755),
		os.WriteFile(secret, []byte(xml), 0o600))
	if err != nil {
		return err
	}
	if _, err := v.libvirt.Virsh(ctx, "secret-define", secret); err != nil {
		return err
	}
	_, err = v.libvirt.Virsh(ctx, "secret-set-value", v.volume.SecretUUID, "--file", v.volume.PassphraseFile, "--plain")
	return err
}

// about describes the programs and the machine.
func (v *stallVM) about(ctx context.Context) (string, error) {
	text, err := v.libvirt.Virsh(ctx, "version")
	if err != nil {
		return "", err
	}
	version := func(of string) string {
		_, rest, _ := strings.Cut(text, of+" ")
		rest, _, _ = strings.Cut(rest, "\n")
		return rest
	}
	return fmt.Sprintf("QEMU %s, libvirt %s, %s", version("Running hypervisor: QEMU"), version("Using library: libvirt"), machine()), nil
}
