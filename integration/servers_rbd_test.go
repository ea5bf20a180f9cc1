package integration

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// cephx returns an <auth> for Ceph. As in libvirt, the secret's value is the decoded bytes of Ceph's base64.
func (r *remote) cephx(t *testing.T, user, key string) string {
	t.Helper()
	value := must.Get(base64.StdEncoding.DecodeString(key))(t)
	return "<auth username='" + user + "'><secret type='ceph' " + r.secret(string(value)) + "/></auth>"
}

// TestRBD attaches images of a Ceph cluster that demands cephx.
func TestRBD(t *testing.T) {
	t.Parallel()
	ceph := peer.StartCeph(t)
	t.Run("QEMU decrypts", func(t *testing.T) { t.Parallel(); rbdEmbedded(t, ceph) })
	t.Run("detached header", func(t *testing.T) { t.Parallel(); rbdDetached(t, ceph) })
	t.Run("qcow2 with LUKS", func(t *testing.T) { t.Parallel(); rbdQcow2(t, ceph) })
	t.Run("qcow2 in what librbd decrypts", func(t *testing.T) { t.Parallel(); rbdQcow2InLUKS(t, ceph) })
	for _, format := range []string{"luks1", "luks2"} {
		t.Run("librbd decrypts "+format, func(t *testing.T) { t.Parallel(); rbdFormatted(t, ceph, format) })
	}
	t.Run("librbd decrypts a clone", func(t *testing.T) { t.Parallel(); rbdClone(t, ceph) })
	t.Run("named otherwise", func(t *testing.T) { t.Parallel(); rbdNamed(t, ceph) })
	t.Run("refused", func(t *testing.T) { t.Parallel(); rbdRefused(t, ceph) })
}

// newRBD starts a VM, and imports a volume's payload as that image of the cluster.
func newRBD(ctx context.Context, t *testing.T, ceph *peer.Ceph, kind peer.VolumeKind, image string) *remote {
	t.Helper()
	r := newRemote(t, peer.Start(t, peer.Options{SCSI: true, Paused: true}), peer.NewVolume(t, kind))
	must.OK(t, ceph.Import(ctx, r.Payload, image))
	return r
}

// fetch replaces the volume's file by the cluster's image.
func (r *remote) fetch(ctx context.Context, t *testing.T, ceph *peer.Ceph, image string) {
	t.Helper()
	must.OK(t, ceph.Export(ctx, image, r.Payload))
}

func rbdEmbedded(t *testing.T, ceph *peer.Ceph) {
	ctx := bounded(t)
	r := newRBD(ctx, t, ceph, peer.EmbeddedLUKS, "embedded")
	r.use(t, ceph.SourceXML("embedded", r.cephx(t, ceph.User, ceph.Key)+r.encryption("")))
	r.writeEachWay(ctx, t, []another{
		{source: ceph.SourceXML("another", r.cephx(t, ceph.User, ceph.Key)+r.encryption("")), says: "embedded, not "},
		{source: ceph.SourceXML("embedded", r.cephx(t, "admin", ceph.Key)+r.encryption("")), says: "user"},
	})
	r.fetch(ctx, t, ceph, "embedded")
	r.wantWritten(ctx, t)
}

// rbdDetached has the header in another image, and in a file of this host.
func rbdDetached(t *testing.T, ceph *peer.Ceph) {
	ctx := bounded(t)
	r := newRBD(ctx, t, ceph, peer.DetachedRaw, "payload")
	must.OK(t, ceph.Import(ctx, r.Header, "header"))
	auth := r.cephx(t, ceph.User, ceph.Key)
	before := stateOf(ctx, t, r.q)
	for _, header := range []string{
		"<header type='network'>" + ceph.SourceXML("header", auth) + "</header>",
		"<header type='file'><source file='" + r.Header + "'/></header>",
	} {
		r.use(t, ceph.SourceXML("payload", auth+r.encryption(header)))
		r.writeEachWay(ctx, t, nil)
		wantSame(ctx, t, r.q, before)
		r.fetch(ctx, t, ceph, "payload")
		r.wantWritten(ctx, t)
	}
}

// rbdQcow2 has the header inside of a qcow2 image.
func rbdQcow2(t *testing.T, ceph *peer.Ceph) {
	ctx := bounded(t)
	r := newRemote(t, peer.Start(t, peer.Options{SCSI: true, Paused: true}), servable(t))
	must.OK(t, ceph.Import(ctx, r.Payload, "qcow2"))
	auth := r.cephx(t, ceph.User, ceph.Key)
	r.use(t, ceph.SourceXML("qcow2", auth+r.encryption("")))
	r.writeEachWay(ctx, t, nil)
	r.wantRefused(ctx, t, []refusedBy{
		{name: "as plain qcow2", source: ceph.SourceXML("qcow2", auth), code: 5, says: []string{"is encrypted (luks)", "add <encryption format='luks'>"}, ways: []string{"auto"}},
	})
	r.fetch(ctx, t, ceph, "qcow2")
	r.wantWritten(ctx, t)
}

// rbdQcow2InLUKS has a qcow2 image inside of a volume that Ceph's library decrypts. It names no
// other file that the XML does not.
func rbdQcow2InLUKS(t *testing.T, ceph *peer.Ceph) {
	ctx := bounded(t)
	r := newRemote(t, peer.Start(t, peer.Options{SCSI: true, Paused: true}), ceph.Encrypted(t, "luks1", "outer"))
	inner := filepath.Join(t.TempDir(), "inner")
	fill := func(args ...string) {
		t.Helper()
		command(ctx, t, "qemu-img", slices.Concat([]string{"create", "-q", "-f", "qcow2"}, args, []string{inner, "32M"})...)
		content := must.Get(os.ReadFile(inner))(t)
		must.OK(t, os.WriteFile(inner, append(content, make([]byte, peer.MiB-len(content)%peer.MiB)...), 0o600))
		must.OK(t, ceph.QemuIO(ctx, "write -s "+inner+" 0 1M", "outer", ceph.Encrypt("luks", "s0"), r.PassphraseFile))
	}
	fill()
	r.Format = "qcow2"
	good := ceph.SourceXML("outer", r.cephx(t, ceph.User, ceph.Key)+r.librbd("luks", ""))
	r.use(t, good)
	for i, unlock := range unlockWays() {
		r.whileAttached(ctx, t, unlock, func() {
			for before := range i {
				r.io(ctx, t, fmt.Sprintf("read -P %#x %dM 1M", patternOf(before), before))
			}
			r.io(ctx, t, fmt.Sprintf("write -P %#x %dM 1M", patternOf(i), i))
		})
	}
	fill("-u", "-b", "/etc/hostname", "-F", "raw")
	r.wantRefused(ctx, t, []refusedBy{{name: "names a file", source: good, code: 5, says: []string{"names the backing file", "/etc/hostname"}}})
}

// librbd returns the volume's <encryption> with engine librbd, with the secrets of parents.
func (r *remote) librbd(format, parents string) string {
	return "<encryption format='" + format + "' engine='librbd'><secret type='passphrase' uuid='" + r.SecretUUID + "'/>" + parents + "</encryption>"
}

// rbdFormatted writes with the installed librbd, and reads with another program or librbd: without the kernel,
// QEMU and cryptsetup cannot read LUKS2 with sectors of 4096 bytes.
func rbdFormatted(t *testing.T, ceph *peer.Ceph, format string) {
	ctx := bounded(t)
	r := newRemote(t, peer.Start(t, peer.Options{SCSI: true, Paused: true}), ceph.Encrypted(t, format, format))
	xmlFormat := strings.TrimSuffix(format, "1")
	r.use(t, ceph.SourceXML(format, r.cephx(t, ceph.User, ceph.Key)+r.librbd(xmlFormat, "")))
	r.writeEachWay(ctx, t, nil)
	if format == "luks1" {
		r.fetch(ctx, t, ceph, format)
		r.wantWritten(ctx, t)
		return
	}
	for i, unlock := range unlockWays() {
		command := fmt.Sprintf("read -P %#x %dM 1M", patternOf(i), 3*i+1)
		if err := ceph.QemuIO(ctx, command, format, ceph.Encrypt(xmlFormat, "s0"), r.PassphraseFile); err != nil {
			t.Errorf("written with --unlock %s: %v", unlock, err)
		}
	}
}

// rbdClone attaches a clone that has another passphrase than its parent. It needs librbd 17 or later.
func rbdClone(t *testing.T, ceph *peer.Ceph) {
	ctx := bounded(t)
	peer.Long(t, "has Ceph encrypt a clone, and derives its keys again and again")
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true, Binary: filepath.Join(ceph.Programs, "qemu-system-x86_64")})
	r := newRemote(t, q, ceph.Encrypted(t, "luks1", "parent"))
	parent := r.SecretUUID
	parentFile := r.PassphraseFile
	must.OK(t, ceph.QemuIO(ctx, "write -P 0x77 20M 1M", "parent", ceph.Encrypt("luks", "s0"), parentFile))
	r.SecretUUID, r.Passphrase = uuid.NewString(), []byte("of the clone "+uuid.NewString())
	r.PassphraseFile = writeFile(t, "clone", string(r.Passphrase))
	r.keys[r.SecretUUID] = string(r.Passphrase)
	for _, args := range [][]string{
		{"snap", "create", "rbd/parent@one"}, {"snap", "protect", "rbd/parent@one"}, {"clone", "rbd/parent@one", "rbd/clone"},
	} {
		must.Get(ceph.RBD(ctx, args...))(t)
	}
	must.OK(t, ceph.Format(ctx, "clone", "luks1", r.PassphraseFile))
	auth, parents := r.cephx(t, ceph.User, ceph.Key), "<secret type='passphrase' uuid='"+parent+"'/>"
	r.wantRefused(ctx, t, []refusedBy{
		{name: "clone without <encryption>", source: ceph.SourceXML("clone", auth), code: 5,
			says: []string{"rbd:rbd/clone is a clone that Ceph's library has encrypted with LUKS", "engine='librbd'"}, ways: []string{"auto"}},
		{name: "clone for QEMU", source: ceph.SourceXML("clone", auth+r.encryption("")), code: 5, says: []string{"encrypted Ceph clone (for engine='librbd')"}, ways: []string{"auto"}},
	})
	// The library of this machine's storage daemon is too old, which does not mean that the VM's is.
	const noLimit = "--max-stall=0" // of a machine that other tests use
	r.use(t, ceph.SourceXML("clone", auth+r.librbd("luks", parents)), noLimit)
	r.whileAttached(ctx, t, "auto", func() {})
	r.env = []string{"PATH=" + ceph.Programs + ":" + os.Getenv("PATH")} // its storage daemon has that library, too
	for _, format := range []string{"luks", "luks-any"} {
		r.use(t, ceph.SourceXML("clone", auth+r.librbd(format, parents)), noLimit)
		r.writeEachWay(ctx, t, nil)
	}
	for i, unlock := range unlockWays() {
		command := fmt.Sprintf("read -P %#x %dM 1M", patternOf(i), 3*i+1)
		if err := ceph.QemuIO(ctx, command, "clone", ceph.Encrypt("luks", "s0", "s1"), r.PassphraseFile, parentFile); err != nil {
			t.Errorf("written with --unlock %s: %v", unlock, err)
		}
	}
	if err := ceph.QemuIO(ctx, "read -P 0x77 20M 1M", "clone", ceph.Encrypt("luks", "s0", "s1"), r.PassphraseFile, parentFile); err != nil {
		t.Errorf("of the parent: %v", err)
	}
}

// rbdRefused covers errors of a cluster, and of images that librbd decrypts.
func rbdRefused(t *testing.T, ceph *peer.Ceph) {
	ctx := bounded(t)
	r := newRBD(ctx, t, ceph, peer.EmbeddedLUKS, "luks-of-qemu")
	auth := r.cephx(t, ceph.User, ceph.Key)
	librbd := func(format, secret string) string {
		return "<encryption format='" + format + "' engine='librbd'><secret type='passphrase' " + secret + "/></encryption>"
	}
	own, wrong := "uuid='"+r.SecretUUID+"'", r.secret("another passphrase")
	must.Get(ceph.RBD(ctx, "create", "--size", "8M", "plain"))(t)
	source := func(image, inner string) string { return ceph.SourceXML(image, inner) }
	elsewhere := func(host string) string {
		return "<source protocol='rbd' name='rbd/luks-of-qemu'>" + host + auth + r.encryption("") + "</source>"
	}
	r.wantRefused(ctx, t, []refusedBy{
		{name: "wrong cephx key", source: source("luks-of-qemu", r.cephx(t, ceph.User, peer.CephKey())+r.encryption("")), code: 4,
			says: []string{"rbd:rbd/luks-of-qemu refuses the user vm", "correct the secret's value"}},
		{name: "cephx key in base64", source: source("luks-of-qemu", "<auth username='vm'><secret type='ceph' "+r.secret(ceph.Key)+"/></auth>"+r.encryption("")), code: 4,
			says: []string{"key of Ceph's as text", "base64 -d"}, ways: []string{"auto"}},
		{name: "unknown user", source: source("luks-of-qemu", r.cephx(t, "nobody", ceph.Key)+r.encryption("")), code: 4,
			says: []string{"refuses the user nobody"}, ways: []string{"auto"}},
		{name: "no user", source: source("luks-of-qemu", r.encryption("")), code: 4, says: []string{"add <auth>"}, ways: []string{"auto"}},
		{name: "missing image", source: source("missing", auth+r.encryption("")), code: 5,
			says: []string{"rbd:rbd/missing cannot be opened", "does not have it"}},
		{name: "missing pool", source: strings.Replace(source("missing", auth+r.encryption("")), "rbd/", "elsewhere/", 1), code: 5,
			says: []string{"rbd:elsewhere/missing cannot be opened", "does not have it"}, ways: []string{"auto"}},
		{name: "encrypted, without <encryption>", source: source("luks-of-qemu", auth), code: 5, says: []string{"is encrypted with LUKS"}, ways: []string{"auto"}},
		{name: "not encrypted", source: source("plain", auth+r.encryption("")), code: 5, says: []string{"rbd:rbd/plain"}},
		{name: "not encrypted by librbd", source: source("plain", auth+librbd("luks", own)), code: 5, says: []string{"rbd:rbd/plain", "LUKS"}},
		{name: "LUKS1 as LUKS2", source: source("luks-of-qemu", auth+librbd("luks2", own)), code: 5, says: []string{"LUKS1", "format='luks'"}},
		{name: "wrong passphrase for librbd", source: source("luks-of-qemu", auth+librbd("luks", wrong)), code: 4, says: []string{"does not open rbd:rbd/luks-of-qemu"}},
		{name: "wrong passphrase", source: source("luks-of-qemu", auth+strings.Replace(r.encryption(""), own, wrong, 1)), code: 4},
		{name: "a librbd too old for luks-any", source: source("luks-of-qemu", auth+librbd("luks-any", own)), code: 3,
			says: []string{"luks-any", "librbd of 17", "format='luks'"}},
		{name: "a librbd too old for two passphrases", source: source("luks-of-qemu", auth+strings.Replace(librbd("luks", own), "</enc", "<secret type='passphrase' "+wrong+"/></enc", 1)),
			code: 3, says: []string{"second passphrase", "librbd of 17", "rbd flatten"}, ways: []string{"auto"}},
		{name: "no server", source: elsewhere(peer.ClosedPort(t)), args: []string{"--timeout", "3s"}, code: 5, says: []string{"cannot be opened", "nothing has come"}},
		silence("silence", elsewhere(peer.SilentPort(t))),
	})
}
