package hotplug_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/coldstart"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
)

// byHand executes commands as an operator would type them.
func byHand(ctx context.Context, t *testing.T, v *hotplug.VM, commands ...qmp.Command) {
	t.Helper()
	for _, c := range commands {
		if _, err := v.Client().Execute(ctx, c); err != nil {
			t.Fatalf("%s %v: %v", c.Execute, c.Arguments, err)
		}
	}
}

func command(name string, pairs ...any) qmp.Command {
	c := qmp.Command{Execute: name}
	for i := 0; i < len(pairs); i += 2 {
		c.Arguments.Add(pairs[i].(string), pairs[i+1])
	}
	return c
}

func object(pairs ...any) qmp.Object { return command("", pairs...).Arguments }

// keyObject adds the secret object of a disk.
func keyObject(id string) qmp.Command {
	return command("object-add", "qom-type", "secret", "id", id, "data", key)
}

func fileNode(name, path string, more ...any) qmp.Command {
	return command("blockdev-add", append([]any{"driver", "file", "node-name", name, "filename", path}, more...)...)
}

func deviceOf(id, node string, more ...any) qmp.Command {
	return command("device_add", append([]any{"driver", "scsi-hd", "id", id, "drive", node, "bus", "scsi0.0"}, more...)...)
}

// volume makes a LUKS volume with its header in the image.
func volume(t *testing.T) string { return must.LUKS(t, key, 2<<20+8<<20) }

// detachedVolume makes a payload and a header for it.
func detachedVolume(t *testing.T) (payload, header string) {
	t.Helper()
	content := readFile(t, volume(t))[:2<<20]
	binary.BigEndian.PutUint32(content[104:], 0) // the offset of the payload
	header = filepath.Join(t.TempDir(), "header.img")
	payload = filepath.Join(t.TempDir(), "payload.img")
	must.OK(t, os.WriteFile(header, content, 0o600), os.WriteFile(payload, bytes.Repeat([]byte("ciphertext"), 1<<19), 0o600))
	return payload, header
}

func adoptOptions(target, node string) hotplug.AdoptOptions {
	return hotplug.AdoptOptions{Target: target, Node: node, Secret: secrets.Reference{Type: secrets.Passphrase, Usage: "test"}}
}

// none is a store without secrets.
var none = secrets.Chain()

// TestAdoptDisk: a disk that was attached by QEMU's documented commands is luksplug's after an
// adoption, for this and for later runs: list, a second attach of its XML, the checks of other
// disks, repair and detach know it, and nothing is left of it.
func TestAdoptDisk(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		attach func(t *testing.T) []qmp.Command
		nodes  int
		xml    []string
	}{
		{"header in the image", func(t *testing.T) []qmp.Command {
			return []qmp.Command{fileNode("f", volume(t)), keyObject("sec"), command("blockdev-add", "driver", "luks", "node-name", "l", "file", "f", "key-secret", "sec"), deviceOf("hand", "l", "serial", "by-hand")}
		}, 2, []string{"<serial>by-hand</serial>", "type='raw'"}},
		{"detached header", func(t *testing.T) []qmp.Command {
			payload, header := detachedVolume(t)
			return []qmp.Command{fileNode("f", payload), fileNode("h", header), keyObject("sec"),
				command("blockdev-add", "driver", "luks", "node-name", "l", "file", "f", "header", "h", "key-secret", "sec"), deviceOf("hand", "l")}
		}, 3, []string{"<header type='file'>"}},
		{"qcow2 with LUKS", func(t *testing.T) []qmp.Command {
			path := filepath.Join(t.TempDir(), "q.qcow2")
			must.Run(t, "", "qemu-img", "create", "-q", "--object", "secret,id=s,data="+key, "-f", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", path, "8M")
			return []qmp.Command{fileNode("f", path), keyObject("sec"),
				command("blockdev-add", "driver", "qcow2", "node-name", "l", "file", "f", "encrypt", object("format", "luks", "key-secret", "sec")), deviceOf("hand", "l")}
		}, 2, []string{"type='qcow2'"}},
		{"detached header over qcow2", func(t *testing.T) []qmp.Command {
			_, header := detachedVolume(t)
			path := filepath.Join(t.TempDir(), "q.qcow2")
			must.Run(t, "", "qemu-img", "create", "-q", "-f", "qcow2", path, "8M")
			return []qmp.Command{fileNode("f", path), fileNode("h", header), keyObject("sec"), command("blockdev-add", "driver", "qcow2", "node-name", "q", "file", "f"),
				command("blockdev-add", "driver", "luks", "node-name", "l", "file", "q", "header", "h", "key-secret", "sec"), deviceOf("hand", "l")}
		}, 4, []string{"type='qcow2'", "<header type='file'>"}},
		{"relative path", func(t *testing.T) []qmp.Command {
			path := must.Get(filepath.Rel(must.Get(os.Getwd())(t), volume(t)))(t) // QEMU's working directory is the test's
			return []qmp.Command{fileNode("f", path), keyObject("sec"), command("blockdev-add", "driver", "luks", "node-name", "l", "file", "f", "key-secret", "sec"),
				command("device_add", "driver", "scsi-hd", "id", "hand", "drive", "l", "bus", "scsi0.0", "werror", "stop")}
		}, 2, []string{"file='/"}},
		{"one command", func(t *testing.T) []qmp.Command {
			cache := object("direct", true)
			return []qmp.Command{keyObject("sec"), command("blockdev-add", "driver", "luks", "node-name", "l", "key-secret", "sec", "read-only", true, "cache", cache,
				"file", object("driver", "raw", "read-only", true, "cache", cache, "file", object("driver", "file", "filename", volume(t), "read-only", true, "cache", cache))), deviceOf("hand", "l")}
		}, 3, []string{"<readonly/>", "cache='none'"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			run := t.TempDir()
			v, dial := vm(t, hotplug.Options{RunDir: run})
			later := must.Get(hotplug.Connect(ctx, dial, hotplug.Options{RunDir: run, LockDir: t.TempDir()}))(t)
			t.Cleanup(func() { _ = later.Close() })
			before := state(ctx, t, v)
			byHand(ctx, t, v, c.attach(t)...)
			attached := state(ctx, t, v)
			options := adoptOptions("sdb", "l")

			options.DryRun = true
			dry := must.Get(v.AdoptDisk(ctx, store(key), options))(t)
			if dry.Secret != "sec" || !dry.Verified || len(dry.Nodes) != c.nodes || dry.Device != "hand" {
				t.Errorf("dry run: %+v", dry)
			}
			wantNothingLeft(ctx, t, v, attached, run)

			options.DryRun = false
			got := must.Get(v.AdoptDisk(ctx, store(key), options))(t)
			for _, text := range append(c.xml, "usage='test'") {
				if !strings.Contains(string(got.XML), text) {
					t.Errorf("the XML lacks %s:\n%s", text, got.XML)
				}
			}
			if got.Secret != "sec" || got.Already || got.Device != "hand" || !got.Adopted || got.Unlock != blockgraph.MethodQEMU || len(got.Objects) > 0 {
				t.Errorf("adopted: %+v", got)
			}
			if _, there := state(ctx, t, v).Objects["sec"]; there {
				t.Error("the secret is still in QEMU")
			}
			if again := must.Get(v.AdoptDisk(ctx, none, options))(t); !again.Already || !bytes.Equal(again.XML, got.XML) {
				t.Errorf("adopted again: %+v", again)
			}

			v = later // another run
			list := must.Get(v.List(ctx))(t)
			if len(list) != 1 || !reflect.DeepEqual(*list[0], got.AttachedDisk) {
				t.Fatalf("list: %+v\nadopted: %+v", list[0], got.AttachedDisk)
			}
			uses, err := hotplug.Uses(run)
			if err != nil || len(uses) != 1 || uses[0].Target != "sdb" {
				t.Errorf("uses: %+v, %v", uses, err)
			}
			if removed, err := v.Repair(ctx); err != nil || len(removed) > 0 {
				t.Errorf("repair: %v, %v", removed, err)
			}
			disk := must.Get(diskxml.ParseDisk(got.XML))(t)
			if again, err := v.Attach(ctx, disk, store(key), hotplug.AttachOptions{}); err != nil || !again.Already {
				t.Fatalf("attached again: %+v, %v", again, err)
			}
			other := *disk
			other.Target = "sdc"
			if _, err := v.Attach(ctx, &other, store(key), hotplug.AttachOptions{Unlock: hotplug.UnlockQEMU}); !errors.Is(err, hotplug.ErrImageInUse) || !strings.Contains(err.Error(), "disk sdb of this VM") {
				t.Errorf("the same image as another disk: %v", err)
			}
			gone := must.Get(v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}))(t)
			if !slices.Contains(gone.Removed, "device hand") || !slices.Contains(gone.Removed, "node l") {
				t.Errorf("detached: %v", gone.Removed)
			}
			wantNothingLeft(ctx, t, v, before, run)
			// The derived XML attaches it.
			if at, err := v.Attach(ctx, disk, store(key), hotplug.AttachOptions{}); err != nil || at.Device != "luksplug-sdb" {
				t.Errorf("attached by its XML: %+v, %v", at, err)
			}
		})
	}
}

// TestAdoptDiskRefused: what cannot be adopted is refused with the reason, and nothing is changed.
func TestAdoptDiskRefused(t *testing.T) {
	t.Parallel()
	luksNode := func(name, file string, more ...any) qmp.Command {
		return command("blockdev-add", append([]any{"driver", "luks", "node-name", name, "file", file, "key-secret", "sec"}, more...)...)
	}
	// with returns the commands that attach a volume by hand, and others after them.
	with := func(path string, more ...qmp.Command) []qmp.Command {
		return append([]qmp.Command{keyObject("sec"), fileNode("f", path), luksNode("l", "f"), deviceOf("hand", "l")}, more...)
	}
	plainDevice := func(t *testing.T) []qmp.Command {
		return []qmp.Command{fileNode("f", must.File(t, make([]byte, 1<<20))), command("blockdev-add", "driver", "raw", "node-name", "l", "file", "f"), deviceOf("hand", "l")}
	}
	for _, c := range []struct {
		name   string
		attach func(t *testing.T) []qmp.Command
		node   string // "" is l
		cause  error
		says   string
	}{
		{"no node", func(t *testing.T) []qmp.Command { return nil }, "nowhere", hotplug.ErrNoNode, "no block node nowhere"},
		{"plain", plainDevice, "", hotplug.ErrNotLUKS, "l (raw) is no LUKS volume"},
		{"below the volume", func(t *testing.T) []qmp.Command { return with(volume(t)) }, "f", hotplug.ErrNotLUKS, "below the LUKS volume l"},
		{"no device", func(t *testing.T) []qmp.Command { return with(volume(t))[:3] }, "", hotplug.ErrNoDevice, "no device uses the node l"},
		{"libvirts node", func(t *testing.T) []qmp.Command {
			return []qmp.Command{keyObject("sec"), fileNode("libvirt-1-storage", volume(t)), luksNode("libvirt-1-format", "libvirt-1-storage"), deviceOf("scsi0-0-0-0", "libvirt-1-format")}
		}, "libvirt-1-format", hotplug.ErrManaged, "detach that one with virsh"},
		{"libvirts file", func(t *testing.T) []qmp.Command {
			return []qmp.Command{keyObject("sec"), fileNode("libvirt-1-storage", volume(t)), luksNode("l", "libvirt-1-storage"), deviceOf("hand", "l")}
		}, "", hotplug.ErrManaged, "node libvirt-1-storage"},
		{"two devices", func(t *testing.T) []qmp.Command {
			shared := []any{"share-rw", true}
			return append(with(volume(t))[:3], deviceOf("one", "l", shared...), deviceOf("two", "l", shared...))
		}, "", hotplug.ErrNodeShared, "the device one"},
		{"an export", func(t *testing.T) []qmp.Command {
			return with(volume(t), command("nbd-server-start", "addr", object("type", "unix", "data", object("path", filepath.Join(t.TempDir(), "s")))),
				command("block-export-add", "type", "nbd", "id", "out", "node-name", "l"))
		}, "", hotplug.ErrNodeShared, "out"},
		{"a job", func(t *testing.T) []qmp.Command {
			target := must.File(t, "")
			must.OK(t, os.Truncate(target, 8<<20))
			return with(volume(t), fileNode("copy", target), command("blockdev-backup", "job-id", "saving", "device", "l", "target", "copy", "sync", "full", "speed", int64(1)))
		}, "", hotplug.ErrForeignLayout, "copy-before-write"},
		{"the file has another user", func(t *testing.T) []qmp.Command {
			return with(volume(t), command("blockdev-add", "driver", "raw", "node-name", "peeking", "file", "f", "read-only", true))
		}, "", hotplug.ErrNodeShared, "the node peeking (raw)"},
		{"a filter", func(t *testing.T) []qmp.Command {
			return append(with(volume(t))[:3], command("blockdev-add", "driver", "copy-on-read", "node-name", "c", "file", "l"), deviceOf("hand", "c"))
		}, "c", hotplug.ErrForeignLayout, "copy-on-read filter"},
		{"below a throttle filter", func(t *testing.T) []qmp.Command {
			return append(with(volume(t))[:3], command("object-add", "qom-type", "throttle-group", "id", "slow", "limits", object("iops-total", 1000)),
				command("blockdev-add", "driver", "throttle", "node-name", "c", "file", "l", "throttle-group", "slow"), deviceOf("hand", "c"))
		}, "", hotplug.ErrForeignLayout, "the node c (throttle)"},
		{"limits", func(t *testing.T) []qmp.Command {
			return with(volume(t), command("block_set_io_throttle", "id", "hand", "bps", int64(1<<20), "bps_rd", 0, "bps_wr", 0, "iops", 0, "iops_rd", 0, "iops_wr", 0))
		}, "", hotplug.ErrForeignLayout, "limits (bps)"},
		{"other sectors", func(t *testing.T) []qmp.Command {
			return append(with(volume(t))[:3], deviceOf("hand", "l", "logical_block_size", 4096, "physical_block_size", 4096))
		}, "", hotplug.ErrForeignLayout, "logical_block_size=4096"},
		{"a WWN", func(t *testing.T) []qmp.Command {
			return append(with(volume(t))[:3], deviceOf("hand", "l", "wwn", int64(0x5000c50015ea71ac)))
		}, "", hotplug.ErrForeignLayout, "wwn="},
		{"another device", func(t *testing.T) []qmp.Command {
			return append(with(volume(t))[:3], command("device_add", "driver", "qemu-xhci", "id", "usb", "bus", "rp2"), command("device_add", "driver", "usb-storage", "id", "hand", "drive", "l"))
		}, "", hotplug.ErrForeignLayout, "usb-storage"},
		{"a descriptor", func(t *testing.T) []qmp.Command {
			f := must.Get(os.OpenFile(volume(t), os.O_RDWR, 0))(t)
			t.Cleanup(func() { _ = f.Close() })
			add := command("add-fd", "fdset-id", 7)
			add.File = f
			return append([]qmp.Command{add}, with("/dev/fdset/7")...)
		}, "", hotplug.ErrForeignLayout, "from a descriptor"},
		{"a shared disk", func(t *testing.T) []qmp.Command {
			return append(with(volume(t))[:3], deviceOf("hand", "l", "share-rw", true))
		}, "", hotplug.ErrForeignLayout, "share-rw"},
		{"a part of an image", func(t *testing.T) []qmp.Command {
			inner := readFile(t, volume(t))
			path := must.File(t, append(make([]byte, 1<<20), inner...))
			return []qmp.Command{keyObject("sec"), fileNode("f", path), command("blockdev-add", "driver", "raw", "node-name", "part", "file", "f", "offset", 1<<20), luksNode("l", "part"), deviceOf("hand", "l")}
		}, "", hotplug.ErrForeignLayout, "part of an image"},
		{"a backing file", func(t *testing.T) []qmp.Command {
			dir := t.TempDir()
			base, path := filepath.Join(dir, "base"), filepath.Join(dir, "q.qcow2")
			must.Run(t, "", "qemu-img", "create", "-q", "-f", "qcow2", base, "8M")
			must.Run(t, "", "qemu-img", "create", "-q", "--object", "secret,id=s,data="+key, "-f", "qcow2", "-b", base, "-F", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", path)
			return []qmp.Command{keyObject("sec"), fileNode("f", path), command("blockdev-add", "driver", "qcow2", "node-name", "l", "file", "f", "encrypt", object("format", "luks", "key-secret", "sec")), deviceOf("hand", "l")}
		}, "", hotplug.ErrForeignLayout, "backing image"},
		{"a server", func(t *testing.T) []qmp.Command {
			must.Have(t, "qemu-storage-daemon")
			return []qmp.Command{keyObject("sec"), command("blockdev-add", "driver", "nbd", "node-name", "f", "server", object("type", "unix", "path", serve(t, volume(t))), "export", "disk"), luksNode("l", "f"), deviceOf("hand", "l")}
		}, "", hotplug.ErrForeignLayout, "driver nbd"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			run := t.TempDir()
			v, _ := vm(t, hotplug.Options{RunDir: run})
			byHand(ctx, t, v, c.attach(t)...)
			before := state(ctx, t, v)
			node := c.node
			if node == "" {
				node = "l"
			}
			_, err := v.AdoptDisk(ctx, unasked{t}, adoptOptions("sdb", node))
			var refused *hotplug.PreflightError
			if !errors.As(err, &refused) || !errors.Is(err, c.cause) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %v with %q", err, c.cause, c.says)
			}
			wantNothingLeft(ctx, t, v, before, run)
		})
	}
}

// TestAdoptDiskChecksFiles: what QEMU says of its files counts only as far as its process has them
// open, and the images are checked as those of an attach.
func TestAdoptDiskChecksFiles(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	run := t.TempDir()
	v, _ := vm(t, hotplug.Options{RunDir: run})
	path := volume(t)
	byHand(ctx, t, v, keyObject("sec"), fileNode("f", path), command("blockdev-add", "driver", "luks", "node-name", "l", "file", "f", "key-secret", "sec"), deviceOf("hand", "l"))
	before := state(ctx, t, v)
	refuse := func(what string, cause error, says string) {
		t.Helper()
		_, err := v.AdoptDisk(ctx, unasked{t}, adoptOptions("sdb", "l"))
		if !errors.Is(err, cause) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", what, err)
		}
		wantNothingLeft(ctx, t, v, before, run)
	}
	// The same content in another file.
	moved := path + ".moved"
	content := readFile(t, path)
	must.OK(t, os.Rename(path, moved), os.WriteFile(path, content, 0o600))
	refuse("a replaced image", hotplug.ErrImageUnusable, "has another file open")
	must.OK(t, os.Remove(path))
	refuse("a removed image", hotplug.ErrImageUnusable, "has another file open")
	must.OK(t, os.Rename(moved, path))
	// Another header, written below QEMU's feet.
	f := must.Get(os.OpenFile(path, os.O_WRONLY, 0))(t)
	must.Get(f.WriteAt([]byte("ffffffff"), 168))(t)
	refuse("another volume in the image", hotplug.ErrHeaderUnusable, "was changed since")
	must.Get(f.WriteAt(content[168:176], 168))(t)
	must.OK(t, f.Close())

	// A secret that does not open it, one that is not there, and a target that is taken.
	var wrong *hotplug.SecretError
	if _, err := v.AdoptDisk(ctx, store("wrong"), adoptOptions("sdb", "l")); !errors.As(err, &wrong) {
		t.Errorf("a wrong secret: %v", err)
	}
	wantNothingLeft(ctx, t, v, before, run)
	if got, err := v.AdoptDisk(ctx, none, adoptOptions("sdb", "l")); err != nil || got.Verified {
		t.Fatalf("without the secret: %+v, %v", got, err)
	}
	if _, err := v.AdoptDisk(ctx, none, adoptOptions("sdc", "l")); !errors.Is(err, hotplug.ErrTargetTaken) || !strings.Contains(err.Error(), "disk sdb already") {
		t.Errorf("adopted as another target: %v", err)
	}
	byHand(ctx, t, v, keyObject("sec"), fileNode("f2", volume(t)), command("blockdev-add", "driver", "luks", "node-name", "l2", "file", "f2", "key-secret", "sec"), deviceOf("hand2", "l2"))
	if _, err := v.AdoptDisk(ctx, none, adoptOptions("sdb", "l2")); !errors.Is(err, hotplug.ErrTargetTaken) {
		t.Errorf("a target that is taken: %v", err)
	}
}

// TestAdoptDiskHeaderInUse: a detached header serves one disk, of this VM or another, and a plain
// payload under it is refused, unless that is allowed.
func TestAdoptDiskHeaderInUse(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	run := t.TempDir()
	v, _ := vm(t, hotplug.Options{RunDir: run})
	other, _ := vm(t, hotplug.Options{RunDir: run})
	payload, header := detachedVolume(t)
	handed := func(payload string) []qmp.Command {
		return []qmp.Command{keyObject("sec"), fileNode("f", payload), fileNode("h", header),
			command("blockdev-add", "driver", "luks", "node-name", "l", "file", "f", "header", "h", "key-secret", "sec"), deviceOf("hand", "l")}
	}
	must.Have(t, "wipefs")
	plain := must.File(t, make([]byte, 8<<20))
	must.Run(t, "", "mkfs.ext4", "-q", plain)
	byHand(ctx, t, v, handed(plain)...)
	options := adoptOptions("sdb", "l")
	if _, err := v.AdoptDisk(ctx, none, options); !errors.Is(err, hotplug.ErrPayloadSignature) {
		t.Errorf("a plain payload: %v", err)
	}
	options.AllowPayloadSignature = true
	must.Get(v.AdoptDisk(ctx, none, options))(t)
	// An attach in another VM sees the use of the header.
	disk := diskOf(t, "raw", payload, "<encryption format='luks'><secret type='passphrase' usage='test'/><header type='file'><source file='"+header+"'/></header></encryption>", "")
	if _, err := other.Attach(ctx, disk, store(key), hotplug.AttachOptions{}); !errors.Is(err, hotplug.ErrHeaderInUse) {
		t.Errorf("the header in another VM: %v", err)
	}
	must.Get(v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}))(t)
	// And so does an adoption: the other disk does not have the header open.
	must.Get(other.Attach(ctx, disk, store(key), hotplug.AttachOptions{}))(t)
	byHand(ctx, t, v, handed(plain)...)
	if _, err := v.AdoptDisk(ctx, none, options); !errors.Is(err, hotplug.ErrHeaderInUse) || !strings.Contains(err.Error(), "disk sdb of VM") {
		t.Errorf("a header of another VM's disk: %v", err)
	}
}

// TestAdoptedLeftovers: an adopted disk whose device was removed by hand is a leftover, which
// repair removes; a note is of no effect on later nodes with the same names; a secret that
// another node names stays.
func TestAdoptedLeftovers(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	run := t.TempDir()
	v, _ := vm(t, hotplug.Options{RunDir: run})
	before := state(ctx, t, v)
	attach := func(suffix string) []qmp.Command {
		return []qmp.Command{fileNode("f"+suffix, volume(t)), command("blockdev-add", "driver", "luks", "node-name", "l"+suffix, "file", "f"+suffix, "key-secret", "sec"), deviceOf("hand"+suffix, "l"+suffix)}
	}
	byHand(ctx, t, v, append([]qmp.Command{keyObject("sec")}, attach("")...)...)
	byHand(ctx, t, v, attach("2")...)
	got := must.Get(v.AdoptDisk(ctx, none, adoptOptions("sdb", "l")))(t)
	if got.Secret != "" || got.SharedSecret != "sec" || state(ctx, t, v).Objects["sec"] == "" {
		t.Errorf("a secret that another disk names: %+v", got)
	}
	got = must.Get(v.AdoptDisk(ctx, none, adoptOptions("sdc", "l2")))(t)
	if got.SharedSecret != "sec" {
		t.Errorf("adopted: %+v", got)
	}
	must.Get(v.Detach(ctx, "sdc", hotplug.DetachOptions{Wait: 10 * time.Second}))(t)

	remove := []qmp.Command{command("device_del", "id", "hand")}
	byHand(ctx, t, v, remove...)
	waitGone(ctx, t, v, "hand")
	list := must.Get(v.List(ctx))(t)
	if len(list) != 1 || !list[0].Leftover() || !slices.Equal(list[0].Nodes, []string{"l", "f"}) {
		t.Errorf("after device_del: %+v", list)
	}
	if removed, err := v.Repair(ctx); err != nil || len(removed) != 1 || removed[0].Target != "sdb" {
		t.Errorf("repair: %+v, %v", removed, err)
	}
	byHand(ctx, t, v, command("object-del", "id", "sec"))
	wantNothingLeft(ctx, t, v, before, run)

	// Another volume takes the names of an adopted one.
	again := append([]qmp.Command{keyObject("sec")}, attach("")...)
	byHand(ctx, t, v, again...)
	must.Get(v.AdoptDisk(ctx, none, adoptOptions("sdb", "l")))(t)
	byHand(ctx, t, v, remove...)
	waitGone(ctx, t, v, "hand")
	byHand(ctx, t, v, command("blockdev-del", "node-name", "l"), command("blockdev-del", "node-name", "f"))
	byHand(ctx, t, v, append([]qmp.Command{keyObject("sec")}, attach("")...)...)
	if list := must.Get(v.List(ctx))(t); len(list) != 0 {
		t.Errorf("another disk with the names of an adopted one: %+v", list[0])
	}
	must.Get(v.Repair(ctx))(t)
	if state(ctx, t, v).Node("l") == nil {
		t.Error("repair has removed a node that was never adopted")
	}
	if got := must.Get(v.AdoptDisk(ctx, none, adoptOptions("sdb", "l")))(t); got.Already {
		t.Errorf("adopted: %+v", got)
	}

	// The VM ends, and the disk with it.
	byHand(ctx, t, v, command("quit"))
	for uses := must.Get(hotplug.Uses(run))(t); len(uses) > 0; uses = must.Get(hotplug.Uses(run))(t) {
		if ctx.Err() != nil {
			t.Fatalf("after the VM's end: %+v", uses)
		}
	}
}

// waitGone waits until a device is gone, and no longer uses its node.
func waitGone(ctx context.Context, t *testing.T, v *hotplug.VM, id string) {
	t.Helper()
	uses := func(d hotplug.Drive) bool { return strings.Contains(d.Path, id) }
	for s := state(ctx, t, v); s.Devices[id] != "" || slices.ContainsFunc(s.Drives, uses); s = state(ctx, t, v) {
		if ctx.Err() != nil {
			t.Fatal("the device stays")
		}
	}
}

// TestAdoptedDiskMigration: QEMU opens an adopted qcow2 image again by the secret that it was
// opened with, so that one is what is kept for a migration; the disk's record starts it.
func TestAdoptedDiskMigration(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, _ := vm(t, hotplug.Options{})
	path := filepath.Join(t.TempDir(), "q.qcow2")
	must.Run(t, "", "qemu-img", "create", "-q", "--object", "secret,id=s,data="+key, "-f", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", path, "8M")
	byHand(ctx, t, v, fileNode("f", path), keyObject("sec"), command("blockdev-add", "driver", "qcow2", "node-name", "l", "file", "f", "encrypt", object("format", "luks", "key-secret", "sec")), deviceOf("hand", "l", "lun", 3))
	options := adoptOptions("sdb", "l")
	var recorded coldstart.Disk
	options.Before = func(_ context.Context, xml []byte, p hotplug.Prepared) (string, error) {
		recorded = coldstart.Disk{Disk: must.Get(diskxml.ParseDisk(xml))(t), Method: p.Method, Spec: hotplug.Spec{Devices: p.Devices}}
		return "", nil
	}
	got := must.Get(v.AdoptDisk(ctx, store(key), options))(t)
	if !slices.Equal(got.Reopened, []string{"sec"}) || recorded.Devices[0].String() != `{"driver":"scsi-hd","id":"luksplug-sdb","bus":"scsi0.0","channel":0,"scsi-id":0,"lun":3,"drive":"luksplug-sdb-payload-format"}` {
		t.Errorf("adopted: %+v, recorded %v", got, recorded.Devices)
	}
	needed, missing, err := v.MissingSecrets(ctx, recorded)
	if err != nil || !slices.Equal(needed, []string{"sec"}) || !slices.Equal(missing, needed) {
		t.Errorf("needed %v, missing %v, %v", needed, missing, err)
	}
	if kept, err := v.KeepSecrets(ctx, recorded, store(key)); err != nil || !slices.Equal(kept, needed) || state(ctx, t, v).Objects["sec"] != "secret" {
		t.Errorf("kept %v, %v", kept, err)
	}
	if list := must.Get(v.List(ctx))(t); !slices.Equal(list[0].Objects, needed) {
		t.Errorf("list: %+v", list[0])
	}
	gone := must.Get(v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}))(t)
	if !slices.Contains(gone.Removed, "object sec") {
		t.Errorf("removed %v", gone.Removed)
	}
}

// TestAdoptedDiskStays: an adopted disk that another node uses is refused and stays luksplug's;
// a later detach removes it.
func TestAdoptedDiskStays(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	run := t.TempDir()
	v, _ := vm(t, hotplug.Options{RunDir: run})
	before := state(ctx, t, v)
	byHand(ctx, t, v, keyObject("sec"), fileNode("f", volume(t)), command("blockdev-add", "driver", "luks", "node-name", "l", "file", "f", "key-secret", "sec"), deviceOf("hand", "l"))
	must.Get(v.AdoptDisk(ctx, none, adoptOptions("sdb", "l")))(t)
	byHand(ctx, t, v, command("blockdev-add", "driver", "raw", "node-name", "peeking", "file", "f", "read-only", true))
	if _, err := v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}); !errors.Is(err, hotplug.ErrDiskInUse) {
		t.Errorf("a node in use: %v", err)
	}
	byHand(ctx, t, v, command("blockdev-del", "node-name", "peeking"))
	if gone := must.Get(v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}))(t); !slices.Equal(gone.Removed, []string{"device hand", "node l", "node f"}) {
		t.Errorf("removed %v", gone.Removed)
	}
	wantNothingLeft(ctx, t, v, before, run)
}

// TestAdoptDiskWhileMigrating: during a migration the secret stays in QEMU, which may need it
// again, and repair removes it later.
func TestAdoptDiskWhileMigrating(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, _ := vm(t, hotplug.Options{})
	byHand(ctx, t, v, keyObject("sec"), fileNode("f", volume(t)), command("blockdev-add", "driver", "luks", "node-name", "l", "file", "f", "key-secret", "sec"), deviceOf("hand", "l"),
		command("cont"), command("migrate-set-capabilities", "capabilities", []any{object("capability", "pause-before-switchover", "state", true)}),
		command("migrate", "uri", "file:"+filepath.Join(t.TempDir(), "migrated")))
	got := must.Get(v.AdoptDisk(ctx, none, adoptOptions("sdb", "l")))(t)
	if got.Secret != "" || state(ctx, t, v).Objects["sec"] != "secret" {
		t.Errorf("during a migration: %+v", got)
	}
	if removed, err := v.Repair(ctx); len(removed) > 0 || err != nil && !errors.Is(err, hotplug.ErrMigrating) {
		t.Errorf("repair during the migration: %+v, %v", removed, err)
	}
	byHand(ctx, t, v, command("migrate_cancel"))
	for {
		removed, err := v.Repair(ctx)
		if (errors.Is(err, hotplug.ErrMigrating) || err == nil && len(removed) == 0) && ctx.Err() == nil {
			continue // it is still being cancelled, and the VM resumed
		}
		if err != nil || len(removed) != 1 || !slices.Equal(removed[0].Objects, []string{"sec"}) {
			t.Errorf("repair after it: %+v, %v", removed, err)
		}
		break
	}
	if list := must.Get(v.List(ctx))(t); len(list) != 1 || list[0].Leftover() || len(list[0].Objects) > 0 {
		t.Errorf("list: %+v", list)
	}
}
