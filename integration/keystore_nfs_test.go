package integration

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/age"
)

// nfsHost is a host, the small guest, with mounts of one directory of an NFS server by the kernel's client.
type nfsHost struct {
	guest  *peer.Guest
	server *peer.NFSServer
	files  string // the directory, on the server
}

// The mounts of nfsHost. The first two have separate caches, as two hosts have.
const (
	mountOne, mountTwo = "/mnt/one", "/mnt/two"
	mountSquashed      = "/mnt/squashed" // root of the host is another user there
	mountOld           = "/mnt/old"      // NFS 3, without locks of the server
)

func startNFSHost(ctx context.Context, t *testing.T) *nfsHost {
	t.Helper()
	files := t.TempDir()
	must.OK(t, os.Chmod(files, 0o755), os.WriteFile(filepath.Join(files, "luksplug"), must.Get(os.ReadFile(luksplug))(t), 0o755),
		os.WriteFile(filepath.Join(files, "right"), []byte("open sesame"), 0o644))
	server := peer.StartNFS(t, files)
	q := peer.Start(t, peer.Options{Guest: true, Kernel: peer.NFSGuest, Through: server.Through(),
		Extra: []string{"-m", "768", "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net"}})
	h := &nfsHost{q.Guest(), server, files}
	h.do(ctx, t, "ip link set lo up; ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; mkdir "+strings.Join([]string{mountOne, mountTwo, mountSquashed, mountOld}, " "))
	four := "mount -t nfs4 -o vers=4.1,nosharecache,timeo=20,addr=10.0.2.2,clientaddr=10.0.2.15 10.0.2.2:"
	h.do(ctx, t, four+"/files "+mountOne)
	h.do(ctx, t, four+"/files "+mountTwo)
	h.do(ctx, t, four+"/squashed "+mountSquashed)
	h.do(ctx, t, "mount -t nfs -o vers=3,nolock,proto=tcp,port=2049,mountproto=tcp,addr=10.0.2.2,mountaddr=10.0.2.2 10.0.2.2:"+files+" "+mountOld)
	// Not from a mount that may hang.
	h.do(ctx, t, "cp "+mountOne+"/luksplug "+mountOne+"/right /tmp; chmod 600 /tmp/right")
	return h
}

// do runs a command in the guest, which must succeed.
func (h *nfsHost) do(ctx context.Context, t *testing.T, command string) string {
	t.Helper()
	out, err := h.guest.Run(ctx, command)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// luksplug runs the program in the guest, and wants an exit code and texts.
func (h *nfsHost) luksplug(ctx context.Context, t *testing.T, code int, arguments string, says ...string) string {
	t.Helper()
	out, err := h.guest.Run(ctx, "/tmp/luksplug "+arguments)
	var exit *peer.ExitError
	got := 0
	switch {
	case errors.As(err, &exit):
		got, out = exit.Status, exit.Output
	case err != nil:
		t.Fatal(err)
	}
	if got != code {
		t.Errorf("%s: exit code %d, want %d: %s", arguments, got, code, out)
	}
	wantTexts(t, arguments, out, says)
	return out
}

// TestKeystoreOverNFS: hosts share a key store by NFS. The server is a real one, and its client is Linux'. What other
// hosts do is done on a second mount, and on the server itself.
func TestKeystoreOverNFS(t *testing.T) {
	peer.Long(t, "fetches an NFS server and a kernel, and waits for a server that hangs")
	t.Parallel()
	ctx := bounded(t)
	h := startNFSHost(ctx, t)
	keys := filepath.Join(h.files, "keys")
	protectedIdentity(ctx, t, keys, "open sesame")
	onServer := age.New(keys, age.Options{})
	d := secrets.Document{UUID: uuid.New(), Usage: "/x", UsageType: secrets.UsageVolume}
	set := func(value string) {
		t.Helper()
		must.OK(t, onServer.Set(ctx, d.Reference(), secrets.New([]byte(value))))
	}
	must.OK(t, onServer.Define(ctx, d))
	set("first")
	at := func(mount string) string { return "--keystore age:" + mount + "/keys " }
	get := func(mount string) string {
		t.Helper()
		return h.luksplug(ctx, t, 0, at(mount)+"secret get-value "+d.UUID.String())
	}

	// Unlocked once, by the file on the server.
	h.luksplug(ctx, t, 4, at(mountOne)+"secret get-value "+d.UUID.String(), "luksplug secret unlock age:"+mountOne+"/keys")
	for _, mount := range []string{mountOne, mountTwo, mountOld} {
		h.luksplug(ctx, t, 0, "secret unlock age:"+mount+"/keys --passphrase-file /tmp/right", "unlocked until the host reboots")
		if got := get(mount); got != "first" {
			t.Errorf("%s: %q", mount, got)
		}
	}
	// A value that another host replaces atomically is found at once, although the client has the old file in its cache.
	for _, value := range []string{"second", "third"} {
		set(value)
		for _, mount := range []string{mountOne, mountTwo, mountOld} {
			if got := get(mount); got != value {
				t.Errorf("%s: %q, want %q", mount, got, value)
			}
		}
	}
	// A secret that another host defines, after it was looked for.
	added := secrets.Document{UUID: uuid.New()}
	for _, mount := range []string{mountOne, mountTwo, mountOld} {
		h.luksplug(ctx, t, 4, at(mount)+"secret get-value "+added.UUID.String(), "no such secret")
	}
	must.OK(t, onServer.Define(ctx, added), onServer.Set(ctx, added.Reference(), secrets.New([]byte("added"))))
	for _, mount := range []string{mountOne, mountTwo, mountOld} {
		h.luksplug(ctx, t, 0, at(mount)+"secret get-value "+added.UUID.String(), "added")
	}
	must.OK(t, onServer.Remove(ctx, added.Reference()))
	h.luksplug(ctx, t, 4, at(mountOne)+"secret get-value "+added.UUID.String(), "no such secret")
	h.do(ctx, t, "printf fourth > /tmp/value; chmod 600 /tmp/value")
	h.luksplug(ctx, t, 0, at(mountOne)+"secret set-value "+d.UUID.String()+" --file /tmp/value")
	if got := get(mountTwo); got != "fourth" {
		t.Errorf("set on another host: %q", got)
	}
	// A file that the client removes while it is open stays under another name.
	h.do(ctx, t, "cd "+mountOne+"/keys; umask 077; printf x > removed; (exec 3< removed; rm removed; sleep 1000) & sleep 1; ls -a | grep '^[.]nfs'")
	out := h.luksplug(ctx, t, 0, at(mountOne)+"secret list", d.UUID.String())
	if strings.Count(out, "\n") != 2 {
		t.Errorf("the list: %s", out)
	}

	t.Run("locks", func(t *testing.T) { //nolint:paralleltest // one guest
		h.locks(ctx, t)
	})
	t.Run("another directory", func(t *testing.T) { //nolint:paralleltest // one guest
		h.exchanged(ctx, t)
	})
	t.Run("volumes", func(t *testing.T) { //nolint:paralleltest // one guest
		h.volumes(ctx, t)
	})
	// An identity that another host has replaced is not that which was unlocked.
	other := filepath.Join(t.TempDir(), "other")
	protectedIdentity(ctx, t, other, "open sesame")
	must.OK(t, os.Rename(filepath.Join(other, "identity.txt"), filepath.Join(keys, "identity.txt.new")))
	// By a client: the server itself caches names against changes behind its back.
	h.do(ctx, t, "cd "+mountOne+"/keys; mv identity.txt identity.txt.old; mv identity.txt.new identity.txt")
	h.luksplug(ctx, t, 4, at(mountTwo)+"secret get-value "+d.UUID.String(), "was replaced since it was unlocked")
	h.do(ctx, t, "cd "+mountOne+"/keys; mv identity.txt.old identity.txt")
	if got := get(mountTwo); got != "fourth" {
		t.Errorf("with its identity again: %q", got)
	}
	// root is another user for the server.
	h.luksplug(ctx, t, 4, at(mountSquashed)+"secret get-value "+d.UUID.String(), "access denied", "root_squash")
	h.luksplug(ctx, t, 4, "--keystore age:"+mountSquashed+"/new secret define "+h.document(ctx, t), "access denied", "root_squash")

	// A hard mount waits for its server without a limit, and luksplug does not.
	must.OK(t, h.server.Suspend())
	for _, command := range []string{"secret get-value " + d.UUID.String(), "secret list", "secret set-value " + d.UUID.String() + " --file /tmp/value", "secret status"} {
		began := time.Now()
		code := 4
		h.luksplug(ctx, t, code, "--timeout 2s "+at(mountOne)+command, "does not answer")
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("%s: ended after %s", command, took)
		}
	}
	must.OK(t, h.server.Resume())
	if got := get(mountOne); got != "fourth" {
		t.Errorf("when the server answers again: %q", got)
	}
	h.luksplug(ctx, t, 0, "secret lock", "age:"+mountOne+"/keys")
}

// document writes a document of a new secret in the guest, and returns its path.
func (h *nfsHost) document(ctx context.Context, t *testing.T) string {
	t.Helper()
	id := uuid.NewString()
	h.do(ctx, t, "echo '<secret><uuid>"+id+"</uuid></secret>' > /tmp/"+id+".xml")
	return "/tmp/" + id + ".xml"
}

// locks: while one mount has the lock, another one waits for it.
func (h *nfsHost) locks(ctx context.Context, t *testing.T) {
	first, second := h.document(ctx, t), h.document(ctx, t)
	// The passphrase of a new identity is asked for with the lock held.
	h.do(ctx, t, "mkdir -m 700 "+mountOne+"/new; mkfifo -m 600 /tmp/pipe; (/tmp/luksplug --timeout 5m --keystore 'age:"+mountOne+"/new?protect=passphrase&passphrase-file=/tmp/pipe' secret define "+first+"; echo $? > /tmp/code) > /tmp/out 2>&1 &")
	h.do(ctx, t, "i=0; until [ -e "+mountOne+"/new/.lock ]; do i=$((i+1)); [ $i -lt 100 ] || exit 1; sleep 0.1; done; sleep 1")
	h.luksplug(ctx, t, 4, "--timeout 2s --keystore age:"+mountTwo+"/new secret define "+second, "locked by another process", "one that shares it")
	h.do(ctx, t, "cat /tmp/right > /tmp/pipe; i=0; until [ -e /tmp/code ]; do i=$((i+1)); [ $i -lt 900 ] || exit 1; sleep 0.1; done; cat /tmp/out; [ $(cat /tmp/code) = 0 ]")
	h.luksplug(ctx, t, 0, "--keystore age:"+mountTwo+"/new secret define "+second)
	// Many writers at once.
	h.do(ctx, t, "for i in 1 2 3; do for m in "+mountOne+" "+mountTwo+"; do printf '<secret/>' | /tmp/luksplug --timeout 10m --keystore age:$m/new secret define - > /tmp/w.$i.${m##*/} 2>&1 & done; done; wait")
	if names := must.Get(filepath.Glob(filepath.Join(h.files, "new", "*.xml")))(t); len(names) != 8 {
		t.Errorf("%d documents, want 8: %s", len(names), h.do(ctx, t, "cat /tmp/w.*"))
	}
}

// volumes: one change of a volume's passphrase at a time has its header. NFS makes a lock of fcntl(2) of every flock(2), with which
// QEMU's would collide, so the lock is a file of the host.
func (h *nfsHost) volumes(ctx context.Context, t *testing.T) {
	h.do(ctx, t, "mkdir -p /run; mkdir -m 700 "+mountOne+"/volumes; printf 'open barley' > /tmp/new; chmod 600 /tmp/new")
	for name, flags := range map[string]string{"luks1": "", "luks2": " --luks2"} {
		path := "/volumes/" + name
		with := func(passphrase, limit string) string {
			return "--timeout " + limit + " --keystore dir:" + mountOne + "/volumes --passphrase-file /tmp/" + passphrase + " volume "
		}
		change := with("right", "5m") + "passphrase change --new-passphrase-file /tmp/new " + mountOne + path
		h.luksplug(ctx, t, 0, with("right", "5m")+"create "+name+" --size 1M --unlock-time 10ms --path "+mountOne+path+flags)
		// One derives the new key, with the lock.
		h.do(ctx, t, "rm -f /tmp/code; (/tmp/luksplug "+change+" --unlock-time 1h & echo $! > /tmp/pid; wait $!; echo $? > /tmp/code) > /tmp/out 2>&1 &")
		h.do(ctx, t, "i=0; until [ -e /run/cryptsetup/luksplug_* ]; do i=$((i+1)); [ $i -lt 600 ] || exit 1; sleep 0.1; done")
		h.luksplug(ctx, t, 5, with("right", "1m")+"passphrase change --new-passphrase-file /tmp/new "+mountOne+path, "another program is changing the header")
		h.do(ctx, t, "kill -INT $(cat /tmp/pid); i=0; until [ -e /tmp/code ]; do i=$((i+1)); [ $i -lt 600 ] || exit 1; sleep 0.1; done; cat /tmp/out; [ $(cat /tmp/code) = 1 ]; [ -z \"$(ls /run/cryptsetup)\" ]")
		h.luksplug(ctx, t, 0, with("right", "5m")+"info --check "+mountTwo+path)
		h.luksplug(ctx, t, 0, change+" --unlock-time 10ms")
		h.do(ctx, t, "[ -z \"$(ls /run/cryptsetup)\" ]")
		h.luksplug(ctx, t, 0, with("new", "5m")+"info --check "+mountTwo+path)
		h.luksplug(ctx, t, 4, with("right", "5m")+"info --check "+mountTwo+path)
	}
}

// exchanged: the directory is another one by the time that it is written to.
func (h *nfsHost) exchanged(ctx context.Context, t *testing.T) {
	dir := filepath.Join(h.files, "exchanged")
	document := h.document(ctx, t)
	h.do(ctx, t, "rm -f /tmp/code /tmp/out; mkdir -m 700 "+mountOne+"/exchanged; (/tmp/luksplug --timeout 5m --keystore 'age:"+mountOne+"/exchanged?protect=passphrase&passphrase-file=/tmp/pipe' secret define "+document+"; echo $? > /tmp/code) > /tmp/out 2>&1 &")
	h.do(ctx, t, "i=0; until [ -e "+mountOne+"/exchanged/.lock ]; do i=$((i+1)); [ $i -lt 100 ] || exit 1; sleep 0.1; done; sleep 1")
	must.OK(t, os.RemoveAll(dir), os.Mkdir(dir, 0o700))
	out := h.do(ctx, t, "cat /tmp/right > /tmp/pipe; i=0; until [ -e /tmp/code ]; do i=$((i+1)); [ $i -lt 900 ] || exit 1; sleep 0.1; done; cat /tmp/out /tmp/code")
	// By the server's kind it is a stale handle, or no such directory.
	if !strings.Contains(out, "cannot write identity.txt") || !strings.HasSuffix(out, "4\n") {
		t.Errorf("a write to a directory that is gone: %s", out)
	}
	if names := must.Get(os.ReadDir(dir))(t); len(names) != 0 {
		t.Errorf("the new directory has %v", names)
	}
	h.luksplug(ctx, t, 0, "--keystore age:"+mountOne+"/exchanged secret define "+document)
}
