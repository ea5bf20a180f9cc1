package volume_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// opensBy checks that cryptsetup opens the volume, and for LUKS1 that QEMU reads its data, with the header in a file or,
// if header is "", in the image.
func opensBy(t *testing.T, v *volume.Volume, header, key string) {
	t.Helper()
	args := []string{"open", "--test-passphrase", "--batch-mode", "--key-file", key}
	if header != "" {
		args = append(args, "--header", header)
	}
	must.Run(t, "", "cryptsetup", append(args, v.Path)...)
	if v.LUKS.Version == 1 {
		moved := *v
		moved.Header = header
		object, options := node(t, &moved, key)
		must.Run(t, "", "qemu-io", "-r", "--object", object, "-c", "read -P 7 0 64k", "-c", fmt.Sprintf("read -P 9 %d 512", size-512), options)
	}
}

// moving returns a new volume of a version of LUKS, with data in it, and the file with its passphrase.
func moving(t *testing.T, version int) (v *volume.Volume, passphrase *secrets.Secret, key string) {
	t.Helper()
	v, passphrase, _, _ = made(t, volume.Request{Path: filepath.Join(t.TempDir(), "volume"), Size: size, LUKS: luks.Format{Version: version}})
	key = must.File(t, must.Use(t, passphrase))
	if version == 1 {
		object, options := node(t, v, key)
		must.Run(t, "", "qemu-io", "--object", object, "-c", "write -P 7 0 64k", "-c", fmt.Sprintf("write -P 9 %d 512", size-512), options)
	}
	return v, passphrase, key
}

// TestMoveHeader: a header that is moved out of its image and back opens the volume with QEMU and cryptsetup each time, and
// the payload stays as it was.
func TestMoveHeader(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup", "qemu-io")
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("LUKS%d", version), func(t *testing.T) {
			t.Parallel()
			v, passphrase, key := moving(t, version)
			length := v.LUKS.PayloadOffset()
			before := must.Get(os.ReadFile(v.Path))(t)
			dir := t.TempDir()
			file := filepath.Join(dir, "header")
			detach := volume.Detaching{Path: v.Path, To: file, Passphrase: passphrase, DryRun: true, Wipe: true}
			must.Get(volume.DetachHeader(t.Context(), detach))(t)
			wantFiles(t, dir)
			detach.DryRun, detach.Wipe = false, false
			if d := must.Get(volume.DetachHeader(t.Context(), detach))(t); !d.Copied || d.Wiped || d.Length != length {
				t.Errorf("%+v", d)
			}
			wantMode(t, file, 0o600)
			wantContent(t, v.Path, before)
			wantContent(t, file, before[:length])
			opensBy(t, v, file, key)
			if _, err := volume.DetachHeader(t.Context(), detach); !errors.Is(err, volume.ErrExists) {
				t.Errorf("to a file that exists: %v", err)
			}
			detach.Wipe = true
			for range 2 { // the second time there is nothing to do
				if d := must.Get(volume.DetachHeader(t.Context(), detach))(t); d.Copied || !d.Wiped {
					t.Errorf("%+v", d)
				}
			}
			wiped := append(make([]byte, length), before[length:]...)
			wantContent(t, v.Path, wiped)
			opensBy(t, v, file, key)

			attach := volume.Attaching{Path: v.Path, Header: file, Passphrase: passphrase, DryRun: true, Remove: true}
			must.Get(volume.AttachHeader(t.Context(), attach))(t)
			wantContent(t, v.Path, wiped)
			attach.DryRun, attach.Remove = false, false
			if a := must.Get(volume.AttachHeader(t.Context(), attach))(t); !a.Written || a.Removed || a.Replaced != "" {
				t.Errorf("%+v", a)
			}
			wantContent(t, v.Path, before)
			opensBy(t, v, "", key)
			attach.Remove = true
			for range 2 {
				if a := must.Get(volume.AttachHeader(t.Context(), attach))(t); a.Written || !a.Removed {
					t.Errorf("%+v", a)
				}
			}
			wantContent(t, v.Path, before)
			wantFiles(t, dir)
		})
	}
}

// wantContent checks the content of a file.
func wantContent(t *testing.T, path string, want []byte) {
	t.Helper()
	if !bytes.Equal(must.Get(os.ReadFile(path))(t), want) {
		t.Errorf("%s has another content", path)
	}
}

// TestMoveAfterCrash: what an interrupted move leaves is finished, or turned back.
func TestMoveAfterCrash(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup", "wipefs")
	v, passphrase, key := moving(t, 1)
	length := v.LUKS.PayloadOffset()
	before := must.Get(os.ReadFile(v.Path))(t)
	file := filepath.Join(t.TempDir(), "header")
	detach := volume.Detaching{Path: v.Path, To: file, Passphrase: passphrase, Wipe: true}
	attach := volume.Attaching{Path: v.Path, Header: file, Passphrase: passphrase}
	must.Get(volume.DetachHeader(t.Context(), detach))(t)
	for what, left := range map[string]func(image []byte){
		"key material wiped in part": func(b []byte) { damageBytes(b[4096 : 64<<10]) },
		"the first sector is left":   func(b []byte) { clear(b[512:length]); damageBytes(b[512:1024]) },
		"written in part":            func(b []byte) { clear(b[:100<<10]) },
	} {
		image := bytes.Clone(before)
		left(image)
		for way, move := range map[string]func() error{
			"finished":    func() error { _, err := volume.DetachHeader(t.Context(), detach); return err },
			"turned back": func() error { _, err := volume.AttachHeader(t.Context(), attach); return err },
		} {
			must.Write(t, v.Path, image)
			if err := move(); err != nil {
				t.Errorf("%s is not %s: %v", what, way, err)
			}
			want := before
			if way == "finished" {
				want = append(make([]byte, length), before[length:]...)
			}
			wantContent(t, v.Path, want)
		}
	}
	// The file is wiped in part, and the header in the image opens the volume.
	must.Write(t, v.Path, before)
	header := bytes.Clone(before[:length])
	damageBytes(header[4096:])
	must.Write(t, file, header)
	attach.Remove = true
	if a := must.Get(volume.AttachHeader(t.Context(), attach))(t); !a.Removed {
		t.Errorf("%+v", a)
	}
	opensBy(t, v, "", key)
}

// damageBytes overwrites bytes.
func damageBytes(b []byte) { copy(b, bytes.Repeat([]byte("damage! "), len(b)/8+1)) }

// TestMoveReplaces: a header of the same volume is replaced, and kept beside the new one.
func TestMoveReplaces(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup")
	v, passphrase, key := moving(t, 1)
	dir := t.TempDir()
	file := filepath.Join(dir, "header")
	must.Get(volume.DetachHeader(t.Context(), volume.Detaching{Path: v.Path, To: file, Passphrase: passphrase}))(t)
	must.Run(t, "", "cryptsetup", "luksAddKey", "--batch-mode", "--pbkdf-force-iterations=1000", "--key-file", key, v.Path, must.File(t, "added"))
	old := must.Get(os.ReadFile(v.Path))(t)[:v.LUKS.PayloadOffset()]
	// A file with fewer key slots is no reason to wipe the header that has them.
	if _, err := volume.DetachHeader(t.Context(), volume.Detaching{Path: v.Path, To: file, Passphrase: passphrase, Wipe: true}); !errors.Is(err, volume.ErrOccupied) {
		t.Errorf("got %v", err)
	}
	a := must.Get(volume.AttachHeader(t.Context(), volume.Attaching{Path: v.Path, Header: file, Passphrase: passphrase}))(t)
	wantContent(t, a.Replaced, old)
	wantMode(t, a.Replaced, 0o600)
	opensBy(t, v, "", key)
}

// TestMoveRefuses: what a move would destroy, or cannot move, is refused, and nothing is changed.
func TestMoveRefuses(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup", "wipefs", "qemu-img")
	all := layouts(t)
	v, passphrase, _ := moving(t, 1)
	other, otherPassphrase, _ := moving(t, 1)
	detached, detachedPassphrase, _, _ := made(t, all["raw detached"])
	inside, insidePassphrase, _, _ := made(t, all["qcow2"])
	dir := t.TempDir()
	file, free, linked := filepath.Join(dir, "header"), filepath.Join(dir, "free"), filepath.Join(dir, "linked")
	must.Get(volume.DetachHeader(t.Context(), volume.Detaching{Path: v.Path, To: file, Passphrase: passphrase}))(t)
	must.Write(t, linked, must.Get(os.ReadFile(file))(t))
	must.OK(t, os.Link(linked, filepath.Join(dir, "other name")))
	image := func(beginning []byte) string {
		path := must.File(t, beginning)
		must.OK(t, os.Truncate(path, 8<<20))
		return path
	}
	noise := image(bytes.Repeat([]byte("noise..."), 4<<20/8))
	fileSystem := image(append(make([]byte, 32<<10), "\x01CD001\x01"...))
	use := []hotplug.Use{{VM: "vm1", Target: "vdb", Payload: v.Path}}
	locked := must.Get(os.OpenFile(other.Path, os.O_RDWR, 0))(t)
	defer func() { _ = locked.Close() }()
	must.OK(t, unix.FcntlFlock(locked.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Start: 201, Len: 1})) // as QEMU: writes are not shared
	before := must.Get(os.ReadFile(v.Path))(t)
	copied, link := must.File(t, before), filepath.Join(t.TempDir(), "link")
	must.OK(t, os.Symlink(v.Path, link))
	for what, c := range map[string]struct {
		d    volume.Detaching
		want error
	}{
		"a wrong passphrase":             {volume.Detaching{Path: v.Path, To: free, Passphrase: otherPassphrase}, volume.ErrWrongPassphrase},
		"attached":                       {volume.Detaching{Path: v.Path, To: free, Passphrase: passphrase, Attached: use}, volume.ErrAttached},
		"open in a QEMU":                 {volume.Detaching{Path: other.Path, To: free, Passphrase: otherPassphrase}, volume.ErrAttached},
		"detached":                       {volume.Detaching{Path: detached.Path, Header: detached.Header, To: free, Passphrase: detachedPassphrase}, volume.ErrDetached},
		"no header":                      {volume.Detaching{Path: detached.Path, To: free, Passphrase: detachedPassphrase}, volume.ErrNoVolume},
		"to the image itself":            {volume.Detaching{Path: v.Path, To: link, Passphrase: passphrase, Wipe: true}, volume.ErrRequest},
		"inside of qcow2":                {volume.Detaching{Path: inside.Path, To: free, Passphrase: insidePassphrase}, volume.ErrPlace},
		"a file with another header":     {volume.Detaching{Path: noise, To: file, Passphrase: passphrase, Wipe: true}, volume.ErrOccupied},
		"a file that is no header":       {volume.Detaching{Path: v.Path, To: noise, Passphrase: passphrase, Wipe: true}, volume.ErrExists},
		"a header of no place":           {volume.Detaching{Path: detached.Path, To: detached.Header, Passphrase: detachedPassphrase, Wipe: true}, volume.ErrPlace},
		"a file, and a wrong passphrase": {volume.Detaching{Path: v.Path, To: file, Passphrase: otherPassphrase, Wipe: true}, volume.ErrWrongPassphrase},
	} {
		if _, err := volume.DetachHeader(t.Context(), c.d); !errors.Is(err, c.want) {
			t.Errorf("detach, %s: %v", what, err)
		}
	}
	for what, c := range map[string]struct {
		a    volume.Attaching
		want error
	}{
		"a wrong passphrase":      {volume.Attaching{Path: v.Path, Header: file, Passphrase: otherPassphrase}, volume.ErrWrongPassphrase},
		"attached":                {volume.Attaching{Path: v.Path, Header: file, Passphrase: passphrase, Attached: use}, volume.ErrAttached},
		"no room":                 {volume.Attaching{Path: detached.Path, Header: detached.Header, Passphrase: detachedPassphrase}, volume.ErrPlace},
		"a qcow2 image":           {volume.Attaching{Path: inside.Path, Header: file, Passphrase: passphrase}, volume.ErrPlace},
		"data":                    {volume.Attaching{Path: noise, Header: file, Passphrase: passphrase}, volume.ErrOccupied},
		"a file system":           {volume.Attaching{Path: fileSystem, Header: file, Passphrase: passphrase}, volume.ErrOccupied},
		"another volume's header": {volume.Attaching{Path: image(must.Get(os.ReadFile(other.Path))(t)), Header: file, Passphrase: passphrase}, volume.ErrOccupied},
		"no file":                 {volume.Attaching{Path: v.Path, Header: free, Passphrase: passphrase}, os.ErrNotExist},
		"a file with two names":   {volume.Attaching{Path: v.Path, Header: linked, Passphrase: passphrase, Remove: true}, volume.ErrOccupied},
		"an image as header":      {volume.Attaching{Path: v.Path, Header: copied, Passphrase: passphrase, Remove: true}, volume.ErrOccupied},
		"the image itself":        {volume.Attaching{Path: v.Path, Header: link, Passphrase: passphrase, Remove: true}, volume.ErrRequest},
	} {
		if _, err := volume.AttachHeader(t.Context(), c.a); !errors.Is(err, c.want) {
			t.Errorf("attach, %s: %v", what, err)
		}
	}
	wantContent(t, v.Path, before)
	wantFiles(t, dir, file, linked, "other name")
}
