package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/luksplug/luksplug/integration/internal/peer"
)

// demo is the state of one run.
type demo struct {
	*printer
	dir    string // holds everything
	volume *peer.Volume
	vm     *peer.QEMU
	before peer.State // of the VM, before luksplug came
	device string     // the disk's name in the guest
	kernel chan error // nil when the guest's kernel is in the cache, or the error
}

// target is the disk's name in its XML. The guest finds it by serial.
const (
	target = "vdb"
	serial = "demo"
)

// limit ends steps that hang. The longest part is the download of a kernel.
const limit = 10 * time.Minute

// runDemo runs all steps in a temporary directory and cleans up. With o.keep the VM then runs until ctx ends.
func runDemo(ctx context.Context, p *printer, o options) (err error) {
	dir, err := os.MkdirTemp("", "luksplug-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	d := &demo{printer: p, dir: dir, kernel: make(chan error, 1)}
	defer func() {
		if d.vm != nil {
			err = errors.Join(err, d.vm.Close())
		}
	}()
	begin := time.Now()
	bounded, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not finished after %s", limit))
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	wait.Go(func() { // on a new machine it downloads while the compiler works
		_, err := peer.LoadGuestImage(bounded, peer.CloudKernel)
		d.kernel <- err
	})
	for _, step := range []func(context.Context) error{
		d.build, d.makeVolume, d.boot, d.attach, d.write, d.compare, d.detach, d.readBack,
	} {
		if err := step(bounded); err != nil {
			if ctx.Err() == nil && bounded.Err() != nil {
				err = fmt.Errorf("%w: %w", context.Cause(bounded), err)
			}
			return err
		}
		if p.err != nil {
			return fmt.Errorf("write the demo's text: %w", p.err)
		}
	}
	p.end(time.Since(begin))
	if o.keep {
		return d.keep(ctx, o.input)
	}
	p.printf("Next: 'make demo KEEP=1' does the same and lets the VM run, for commands of your own.\n")
	return p.err
}

// keep lets the VM run until ctx ends. The guest executes the lines of input.
func (d *demo) keep(ctx context.Context, input io.Reader) error {
	d.printf(`
The VM runs until ^C. In another terminal, attach the disk again, look, and detach it:
   $ cd %s
   $ ./luksplug --qmp vm/qmp.sock --passphrase-file passphrase attach %s.xml
   $ ./luksplug --qmp vm/qmp.sock list
   $ ./luksplug --qmp vm/qmp.sock detach %[2]s
Lines that are typed here are commands for the guest, such as: ls /sys/block
`, d.dir, target)
	lines := make(chan string)
	go func() { // ends with the program at the latest: a read of a terminal cannot be interrupted
		defer close(lines)
		for in := bufio.NewScanner(input); in.Scan(); {
			select {
			case lines <- in.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	for d.err == nil {
		select {
		case <-ctx.Done():
			d.printf("\nThe VM was stopped and %s removed.\n", d.dir)
			return d.err
		case line, more := <-lines:
			if !more { // as without a terminal; the VM runs on
				lines = nil
				continue
			}
			out, err := d.vm.Guest().Run(ctx, line)
			var exit *peer.ExitError
			if err != nil && ctx.Err() == nil && !errors.As(err, &exit) {
				return fmt.Errorf("the guest does not execute commands any more: %w", err)
			}
			d.quote(out)
			if exit != nil {
				d.printf("     exit status %d\n", exit.Status)
			}
		}
	}
	return d.err
}

func (d *demo) path(name string) string { return filepath.Join(d.dir, name) }

// build compiles luksplug.
func (d *demo) build(ctx context.Context) error {
	d.step("Build luksplug", "One static program, made from this source tree.")
	d.command("go build ./cmd/luksplug")
	return peer.Build(ctx, "cmd/luksplug", d.path("luksplug"))
}

// makeVolume makes the encrypted volume and its XML.
func (d *demo) makeVolume(ctx context.Context) error {
	d.step("Make an encrypted volume with a detached header",
		"cryptsetup writes the LUKS header, with the key slots, into one file; the payload is another, which only holds ciphertext.")
	var err error
	if d.volume, err = peer.CreateVolume(ctx, d.dir, peer.DetachedRaw); err != nil {
		return err
	}
	header, err := os.ReadFile(d.volume.Header)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(header, []byte("LUKS")) {
		return fmt.Errorf("the header file %s does not begin with LUKS", d.volume.Header)
	}
	payload, err := os.ReadFile(d.volume.Payload)
	if err != nil {
		return err
	}
	if strings.Trim(string(payload), "\x00") != "" {
		return fmt.Errorf("the fresh payload %s is not empty", d.volume.Payload)
	}
	d.checked("%s begins with LUKS; %s is %d MiB of zeros: nothing in it shows that it is encrypted",
		filepath.Base(d.volume.Header), filepath.Base(d.volume.Payload), len(payload)/peer.MiB)
	xml := strings.Replace(d.volume.DiskXML(target, "virtio"), "</disk>", "  <serial>"+serial+"</serial>\n</disk>", 1)
	d.printf("   The disk in libvirt's XML; <header> is what luksplug adds to it (%s.xml):\n", target)
	d.quote(xml)
	return os.WriteFile(d.path(target+".xml"), []byte(xml), 0o600)
}

// boot starts the guest and records the state of the VM.
func (d *demo) boot(ctx context.Context) error {
	d.step("Boot a small Linux guest in QEMU",
		"Debian's cloud kernel and busybox on a q35 machine, emulated in software. The first run downloads the kernel into the cache directory.")
	dir := d.path("vm")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	err := <-d.kernel
	if err != nil {
		return err
	}
	if d.vm, err = peer.Run(ctx, dir, peer.Options{RootPorts: 2, Guest: true}); err != nil {
		return err
	}
	system, err := d.vm.Guest().Run(ctx, "uname -sr; ls /sys/block")
	if err != nil {
		return err
	}
	kernel, disks, _ := strings.Cut(system, "\n")
	if disks := strings.TrimSpace(disks); disks != "" {
		return fmt.Errorf("the guest has disks before any was attached: %s", disks)
	}
	if d.before, err = d.vm.State(ctx); err != nil {
		return err
	}
	d.checked("the guest runs %s and has no disk", kernel)
	return nil
}

// luksplug runs the program as a user would in the demo's directory.
func (d *demo) luksplug(ctx context.Context, args ...string) error {
	args = append([]string{"--qmp", "vm/qmp.sock"}, args...)
	d.command("luksplug " + strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, d.path("luksplug"), args...)
	cmd.Dir = d.dir
	out, err := cmd.CombinedOutput()
	d.quote(string(out))
	if err != nil {
		return fmt.Errorf("luksplug: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}
