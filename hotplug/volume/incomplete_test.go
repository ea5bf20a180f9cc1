package volume_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// oddSize is a size that is no multiple of a cluster or a page, as a source may have.
const oddSize = size + luks.SectorSize

// incompletes are the requests of all layouts, for incomplete volumes.
func incompletes(t *testing.T) map[string]volume.Request {
	t.Helper()
	all := layouts(t)
	for name, r := range all {
		r.Incomplete, r.Size = true, oddSize
		all[name] = r
	}
	delete(all, "qcow2 aes-cbc 0640") // qemu-img measures for seconds
	delete(all, "raw aes-128 detached")
	return all
}

// wantMarked checks that no other program finds a LUKS header in the volume.
func wantMarked(t *testing.T, v *volume.Volume, key string) {
	t.Helper()
	i := must.Get(volume.Inspect(t.Context(), v.Path, v.Header, nil))(t)
	if !i.LUKS.Incomplete || !errors.Is(i.Problem, volume.ErrIncomplete) || i.Size != oddSize {
		t.Errorf("incomplete: %v, problem: %v, size %d", i.LUKS.Incomplete, i.Problem, i.Size)
	}
	file := v.Path
	if v.Header != "" {
		file = v.Header
	}
	if out, err := exec.Command("cryptsetup", "luksDump", file).CombinedOutput(); err == nil {
		t.Errorf("cryptsetup: %s", out)
	}
	if v.LUKS.Version != 1 {
		return // QEMU opens LUKS1 only
	}
	object, options := node(t, v, key)
	if out, err := exec.Command("qemu-io", "--object", object, "-c", "read 0 512", options).CombinedOutput(); err == nil || !strings.Contains(string(out), "not in LUKS format") {
		t.Errorf("QEMU: %v: %s", err, out)
	}
}

// TestIncomplete: an incomplete volume of each layout is opened by nothing until it is complete, and has exactly the size that was
// asked for.
func TestIncomplete(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img", "qemu-io", "cryptsetup")
	for name, r := range incompletes(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, keys := keysIn(t)
			v, l, stored := created(t, r, store, keys)
			key := value(t, store, v)
			if !v.LUKS.Incomplete || v.Size != oddSize {
				t.Errorf("%+v", v)
			}
			wantMarked(t, v, key)
			wantRefusals(t, v, l, stored)

			for range 2 {
				must.OK(t, volume.Complete(t.Context(), l))
			}
			i := must.Get(volume.Inspect(t.Context(), v.Path, v.Header, nil))(t)
			if i.LUKS.Incomplete || i.Problem != nil || i.LUKS.UUID != v.UUID || i.LUKS.LUKS2 != nil && i.LUKS.LUKS2.OtherCopy != nil {
				t.Errorf("%+v", i)
			}
			if v.LUKS.Version == 1 {
				object, options := node(t, v, key)
				var info struct {
					Size int64 `json:"virtual-size"`
				}
				must.OK(t, json.Unmarshal([]byte(must.Run(t, "", "qemu-img", "info", "--output", "json", "--object", object, options)), &info))
				if info.Size != oddSize {
					t.Errorf("QEMU reports %d bytes", info.Size)
				}
			}
			backup := filepath.Join(t.TempDir(), "backup")
			must.Get(volume.BackupHeader(t.Context(), volume.HeaderBackup{Path: v.Path, Header: v.Header, To: backup, Passphrase: valueOf(t, stored)}))(t)
			must.Run(t, "", "cryptsetup", "luksDump", "-q", "--dump-volume-key", "--key-file", key, backup)

			for range 2 {
				must.OK(t, volume.MarkIncomplete(t.Context(), l))
			}
			wantMarked(t, v, key)
			if _, err := volume.RestoreHeader(t.Context(), volume.Restoring{Path: v.Path, Header: v.Header, Backup: backup, Passphrase: valueOf(t, stored)}); !errors.Is(err, volume.ErrIncomplete) {
				t.Errorf("restored: %v", err)
			}
			if v.Header == "" && v.Format == blockgraph.FormatRaw {
				if _, err := volume.AttachHeader(t.Context(), volume.Attaching{Path: v.Path, Header: backup, Passphrase: valueOf(t, stored)}); !errors.Is(err, volume.ErrIncomplete) {
					t.Errorf("a header is written into it: %v", err)
				}
			}
			wantMarked(t, v, key)
			if d := destroyed(t, volume.Destroying{Path: v.Path, Header: v.Header}); d.UUID != v.UUID || d.LUKS == nil {
				t.Errorf("%+v", d)
			}
			wantFiles(t, filepath.Dir(v.Path))
		})
	}
}

// destroyed destroys a volume. A process that another test begins has the files of this process open for a moment.
func destroyed(t *testing.T, d volume.Destroying) *volume.Destroyed {
	t.Helper()
	for range 100 {
		if out, err := volume.Destroy(t.Context(), d); !errors.Is(err, volume.ErrInUse) {
			return must.Get(out, err)(t)
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the volume stays in use")
	return nil
}

// wantRefusals checks that the operations on a volume refuse an incomplete one, and change nothing.
func wantRefusals(t *testing.T, v *volume.Volume, l volume.Location, stored *volume.Stored) {
	t.Helper()
	ctx, known, aside := t.Context(), valueOf(t, stored), filepath.Join(t.TempDir(), "aside")
	before := headerBytes(t, v)
	_, keys := keysIn(t)
	for what, run := range map[string]func() error{
		"backup": func() error {
			_, err := volume.BackupHeader(ctx, volume.HeaderBackup{Path: v.Path, Header: v.Header, To: aside})
			return err
		},
		"change": func() error {
			_, err := volume.ChangePassphrase(ctx, volume.Change{Volumes: []volume.Location{l}, Stored: stored})
			return err
		},
		"add": func() error {
			_, err := volume.AddPassphrase(ctx, volume.Addition{Location: l, Known: known}, keys)
			return err
		},
		"remove": func() error {
			_, err := volume.RemovePassphrase(ctx, volume.Removal{Location: l, Known: known, Passphrase: phrase(t, "another")})
			return err
		},
		"resize": func() error {
			_, err := volume.Resize(ctx, volume.Resizing{Path: v.Path, Header: v.Header, Size: hotplug.NewSize{Bytes: 2 * size}})
			return err
		},
		"detach": func() error {
			if v.Header != "" {
				return volume.ErrIncomplete // nothing to be detached
			}
			_, err := volume.DetachHeader(ctx, volume.Detaching{Path: v.Path, To: aside, Passphrase: known, Wipe: true})
			return err
		},
		"find": func() error {
			_, err := volume.FindVolumes(ctx, filepath.Dir(v.Path), *stored)
			return err
		},
	} {
		if err := run(); !errors.Is(err, volume.ErrIncomplete) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if !bytes.Equal(headerBytes(t, v), before) {
		t.Error("the header was changed")
	}
	if slot := must.Get(volume.TrySlot(ctx, v.Path, v.Header, known))(t); slot != 0 {
		t.Errorf("slot %d", slot)
	}
	all := must.Get(volume.List(ctx, volume.Search{Pools: []string{filepath.Dir(v.Path)}, Documents: claim(stored)}, time.Now()))(t)
	if len(all) == 0 || !errors.Is(all[len(all)-1].Problem, volume.ErrIncomplete) {
		t.Errorf("listed: %+v", all)
	}
	other, otherKeys := keysIn(t)
	another := must.Get(volume.Create(ctx, volume.Request{Path: filepath.Join(t.TempDir(), "volume"), Size: size}, otherKeys))(t)
	if found, err := volume.FindVolumes(ctx, filepath.Dir(v.Path), volume.Stored{Store: other, Document: another.Secret}); err != nil || len(found) > 0 {
		t.Errorf("volumes of another secret: %v, %v", found, err)
	}
}

func claim(s *volume.Stored) []volume.Claim {
	return []volume.Claim{{Store: s.Store, Document: s.Document}}
}

// TestIncompleteDevice: a block device is marked as a file is.
func TestIncompleteDevice(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup", "wipefs")
	dev := loop(t, "512")
	store, keys := keysIn(t)
	v, l, stored := created(t, volume.Request{Path: dev, Incomplete: true}, store, keys)
	key := value(t, store, v)
	refused := func() {
		t.Helper()
		if out, err := exec.Command("cryptsetup", "luksDump", dev).CombinedOutput(); err == nil {
			t.Errorf("cryptsetup: %s", out)
		}
		if _, err := volume.AddPassphrase(t.Context(), volume.Addition{Location: l, Known: valueOf(t, stored)}, keys); !errors.Is(err, volume.ErrIncomplete) {
			t.Errorf("a passphrase is added: %v", err)
		}
	}
	refused()
	if _, err := volume.Create(t.Context(), volume.Request{Path: dev}, keys); !errors.Is(err, volume.ErrSignature) || !strings.Contains(err.Error(), "crypto_LUKS_incomplete at byte 0") {
		t.Errorf("another volume over it: %v", err)
	}
	must.OK(t, volume.Complete(t.Context(), l))
	must.Run(t, "", "cryptsetup", "luksDump", "-q", "--dump-volume-key", "--key-file", key, dev)
	must.OK(t, volume.MarkIncomplete(t.Context(), l))
	refused()
}

// opened is a volume that a storage daemon has open, and exports by NBD.
type opened struct {
	socket string
	daemon *exec.Cmd
}

// serve opens a node in a storage daemon.
func serve(t *testing.T, d disk) *opened {
	t.Helper()
	o := &opened{socket: filepath.Join(must.Dir(t, ""), "nbd")}
	options, _ := strings.CutPrefix(d.options, "json:")
	options = `{"node-name":"volume","discard":"unmap",` + options[1:]
	o.daemon = exec.CommandContext(t.Context(), "qemu-storage-daemon", "--object", d.object, "--blockdev", options,
		"--nbd-server", "addr.type=unix,addr.path="+o.socket, "--export", "type=nbd,id=export,node-name=volume,writable=on")
	var complaint bytes.Buffer
	o.daemon.Stderr = &complaint
	must.OK(t, o.daemon.Start())
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(o.socket); err == nil {
			return o
		}
		if time.Now().After(deadline) {
			_ = o.daemon.Process.Kill()
			_ = o.daemon.Wait()
			t.Fatalf("the storage daemon does not serve: %s", complaint.String())
		}
	}
}

// io runs commands of qemu-io on what is exported.
func (o *opened) io(t *testing.T, commands ...string) {
	t.Helper()
	args := []string{"-f", "raw"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	if out := must.Run(t, "", "qemu-io", append(args, "nbd+unix:///volume?socket="+o.socket)...); strings.Contains(out, "fail") {
		t.Error(out)
	}
}

// close ends the daemon, which closes the volume, or kills it.
func (o *opened) close(t *testing.T, with syscall.Signal) {
	t.Helper()
	must.OK(t, o.daemon.Process.Signal(with))
	_ = o.daemon.Wait() // its exit code is that of the signal
}

// byEphemeral returns how QEMU opens the volume by an ephemeral header.
func byEphemeral(t *testing.T, v *volume.Volume, passphrase *secrets.Secret) disk {
	t.Helper()
	path := v.Path
	if v.Header != "" {
		path = v.Header
	}
	f := must.Get(os.Open(path))(t)
	defer func() { _ = f.Close() }() // only read
	h := must.Get(luks.ReadIncomplete(f))(t)
	key := must.Get(h.Unlock(t.Context(), must.Use(t, passphrase)))(t)
	defer key.Wipe()
	e := must.Get(luks.Ephemeral(key))(t)
	defer e.Wipe()
	payload := *v
	payload.Header = must.File(t, must.Use(t, e))
	return nodeOf(t, &payload, must.File(t, must.Use(t, e.Passphrase())))
}

// TestIncompleteWhileOpen: the mark stays while QEMU fills the volume, and when it closes it or is killed. Data that were
// written before the volume is complete are there afterwards.
func TestIncompleteWhileOpen(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img", "qemu-io", "qemu-storage-daemon", "cryptsetup")
	for name, r := range incompletes(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, keys := keysIn(t)
			v, l, stored := created(t, r, store, keys)
			key, passphrase := value(t, store, v), valueOf(t, stored)
			inside := v.Format == blockgraph.FormatQcow2 && v.Header == ""
			open := func() *opened {
				if !inside {
					return serve(t, byEphemeral(t, v, passphrase))
				}
				must.OK(t, volume.Complete(t.Context(), l)) // QEMU itself opens it
				o := serve(t, nodeOf(t, v, key))
				must.OK(t, volume.MarkIncomplete(t.Context(), l))
				return o
			}
			marked := func(when string) {
				i := must.Get(volume.Inspect(t.Context(), v.Path, v.Header, nil))(t)
				if !i.LUKS.Incomplete || i.LUKS.LUKS2 != nil && i.LUKS.LUKS2.OtherCopy != nil {
					t.Fatalf("%s: it has no mark", when)
				}
			}
			header := headerBytes(t, v)
			last := fmt.Sprintf("%d 1024", oddSize-1024)
			for i, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
				o := open()
				marked("before the first byte")
				o.io(t, fmt.Sprintf("write -P %d 0 %d", i+1, size), fmt.Sprintf("write -P %d %s", i+1, last), "discard 1M 1M", "write -z 2M 64k", "flush")
				marked("written to")
				o.close(t, signal)
				marked("closed by " + signal.String())
				if !bytes.Equal(headerBytes(t, v), header) {
					t.Fatalf("closed by %s: the header was changed", signal)
				}
				wantMarked(t, v, key)
			}
			o := open()
			marked("open")
			o.io(t, "read -P 2 0 1M", "read -P 2 "+last)
			must.OK(t, volume.Complete(t.Context(), l)) // while it is open, as in a switch
			o.io(t, "write -P 3 64k 64k", "flush")
			o.close(t, syscall.SIGTERM)
			if i := must.Get(volume.Inspect(t.Context(), v.Path, v.Header, nil))(t); i.LUKS.Incomplete || i.Problem != nil {
				t.Errorf("not complete: %+v", i)
			}
			o = serve(t, byOwnHeader(t, v, key, passphrase))
			o.io(t, "read -P 2 0 64k", "read -P 3 64k 64k", "read -P 2 "+last)
			o.close(t, syscall.SIGTERM)
			if v.Format == blockgraph.FormatQcow2 {
				image := disk{"secret,id=unused,data=unused", `json:{"driver":"qcow2","file":{"driver":"file","filename":"` + v.Path + `"}}`}
				if inside {
					image = nodeOf(t, v, key)
				}
				must.Run(t, "", "qemu-img", "check", "-q", "--object", image.object, image.options)
			}
		})
	}
}

// disk is how QEMU opens a volume.
type disk struct{ object, options string }

func nodeOf(t *testing.T, v *volume.Volume, key string) disk {
	t.Helper()
	object, options := node(t, v, key)
	return disk{object, options}
}

// byOwnHeader returns how QEMU opens a complete volume: LUKS2 by an ephemeral header.
func byOwnHeader(t *testing.T, v *volume.Volume, key string, passphrase *secrets.Secret) disk {
	t.Helper()
	if v.LUKS.Version == 2 {
		return byEphemeral(t, v, passphrase)
	}
	return nodeOf(t, v, key)
}
