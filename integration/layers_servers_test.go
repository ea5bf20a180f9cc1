package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// servable makes a qcow2 volume with LUKS inside, with room for its clusters: most servers have
// images of a fixed size.
func servable(t *testing.T) *peer.Volume {
	t.Helper()
	v := peer.NewVolume(t, peer.Qcow2LUKS)
	must.OK(t, os.Truncate(v.Payload, peer.VolumeSize+8*peer.MiB))
	return v
}

// TestEncryptedQcow2OnServers attaches qcow2 images with LUKS inside from servers, and from slices
// of a server's image.
func TestEncryptedQcow2OnServers(t *testing.T) {
	t.Parallel()
	t.Run("NBD", func(t *testing.T) {
		t.Parallel()
		ctx, r := bounded(t), newRemote(t, peer.Start(t, peer.Options{SCSI: true, Paused: true}), servable(t))
		server := peer.StartNBD(t, r.Payload)
		r.use(t, server.SourceXML("", r.encryption("")))
		r.writeEachWay(ctx, t, nil)
		r.wantRefused(ctx, t, []refusedBy{
			{name: "as plain qcow2", source: server.SourceXML("", ""), code: 5, says: []string{"is encrypted (luks)", "add <encryption format='luks'>"}},
		})
		server.Stop()
		r.wantWritten(ctx, t)
	})
	t.Run("NBD, slice", func(t *testing.T) {
		t.Parallel()
		ctx, r := bounded(t), newRemote(t, peer.Start(t, peer.Options{SCSI: true, Paused: true}), servable(t))
		image, slice := inSlice(t, r.Payload)
		server := peer.StartNBD(t, image)
		r.use(t, server.SourceXML("", slice+r.encryption("")))
		r.writeEachWay(ctx, t, nil)
		server.Stop()
		outOfSlice(t, image, r.Payload)
		r.wantWritten(ctx, t)
	})
	t.Run("SSH", func(t *testing.T) {
		t.Parallel()
		ctx, server, v := bounded(t), peer.StartSSH(t), peer.NewVolume(t, peer.Qcow2LUKS)
		r := newRemote(t, startKnowing(t, server, server.Host), v)
		r.use(t, server.SourceXML(v.Payload, r.encryption("")))
		r.writeEachWay(ctx, t, nil)
		r.wantWritten(ctx, t)
	})
	t.Run("iSCSI", func(t *testing.T) {
		t.Parallel()
		ctx, r := bounded(t), newRemote(t, peer.Start(t, peer.Options{SCSI: true, Paused: true}), servable(t))
		server := peer.StartISCSI(t, r.Payload)
		r.use(t, server.SourceXML(1, r.auth(server.User, server.Password)+r.encryption("")))
		r.writeEachWay(ctx, t, nil)
		r.wantWritten(ctx, t)
	})
	t.Run("HTTPS", func(t *testing.T) {
		t.Parallel()
		ctx, r := bounded(t), newRemote(t, peer.Start(t, peer.Options{SCSI: true, Paused: true}), servable(t))
		server := peer.StartWeb(t, peer.NewAuthority(t))
		must.OK(t, os.Symlink(r.Payload, filepath.Join(server.Files, "volume.img")), r.WriteOnHost(ctx, "write -P 0xb7 1M 1M"))
		cookies := "<ssl verify='no'/><cookies><cookie name='session'>" + server.Cookie + "</cookie></cookies>"
		r.use(t, server.SourceXML("volume.img", cookies+r.auth(server.User, server.Password)+r.encryption(""))+"<readonly/>")
		for _, unlock := range unlockWays() {
			r.whileAttached(ctx, t, unlock, func() { r.io(ctx, t, "read -P 0xb7 1M 1M") })
		}
	})
}

// TestLayersOnServers attaches an encrypted overlay over an encrypted image, both on servers, where
// the overlay is larger.
func TestLayersOnServers(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	for _, kind := range []peer.VolumeKind{plainQcow2, peer.Qcow2LUKS} {
		r := newRemote(t, peer.Start(t, peer.Options{SCSI: true, Paused: true}), peer.NewVolume(t, peer.EmbeddedLUKS))
		must.OK(t, r.WriteOnHost(ctx, "write -P 0xb7 9M 1M"))
		base := peer.StartNBD(t, r.Payload)
		backing := "<backingStore type='network'><format type='raw'/>" + base.SourceXML("", r.encryption("")) + "<backingStore/></backingStore>"
		path, encryption := filepath.Join(t.TempDir(), "top"), ""
		if kind == plainQcow2 {
			command(ctx, t, "qemu-img", "create", "-q", "-f", "qcow2", path, "128M")
		} else {
			v := peer.NewVolume(t, kind)
			path, encryption = v.Payload, (&remote{Volume: v}).encryption("")
			r.keys[v.SecretUUID] = string(v.Passphrase)
			command(ctx, t, "qemu-img", "resize", "-q", "--object", "secret,id=s,file="+v.PassphraseFile, "--image-opts",
				"driver=qcow2,file.filename="+path+",encrypt.key-secret=s", "128M")
		}
		must.OK(t, os.Truncate(path, 32*peer.MiB))
		top := peer.StartNBD(t, path)
		r.Format = "qcow2"
		r.use(t, top.SourceXML("", encryption)+backing)
		for i, unlock := range unlockWays() {
			r.whileAttached(ctx, t, unlock, func() {
				r.io(ctx, t, "read -P 0xb7 9M 1M")
				r.io(ctx, t, fmt.Sprintf("write -P %#x %dM 1M", patternOf(i), 100+i))
				r.io(ctx, t, fmt.Sprintf("read -P %#x %dM 1M", patternOf(i), 100+i))
			})
		}
	}
}

// TestEncryptedSlices attaches LUKS volumes of every kind from slices of a file of this host, with
// the detached header in a slice as well.
func TestEncryptedSlices(t *testing.T) {
	t.Parallel()
	for _, kind := range peer.VolumeKinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			ctx, r := bounded(t), newRemote(t, peer.Start(t, peer.Options{SCSI: true, Paused: true}), peer.NewVolume(t, kind))
			if r.Format == "qcow2" {
				must.OK(t, os.Truncate(r.Payload, peer.VolumeSize+8*peer.MiB))
			}
			image, slice := inSlice(t, r.Payload)
			headers := []string{""}
			if r.Header != "" {
				file, slice := inSlice(t, r.Header)
				headers = []string{"<header type='file'><source file='" + r.Header + "'/></header>", "<header type='file'><source file='" + file + "'>" + slice + "</source></header>"}
			}
			for _, header := range headers {
				xml := strings.Replace(r.diskXML("<source file='"+image+"'>"+slice+r.encryption(header)+"</source>"), "'network'", "'file'", 1)
				r.xml = writeFile(t, "disk.xml", xml)
				r.writeEachWay(ctx, t, nil)
			}
			outOfSlice(t, image, r.Payload)
			r.wantWritten(ctx, t)
		})
	}
}

const sliceOffset = 3 * peer.MiB

// inSlice copies a file into a slice of another one, and returns its element.
func inSlice(t *testing.T, file string) (image, element string) {
	t.Helper()
	content := must.Get(os.ReadFile(file))(t)
	image = filepath.Join(t.TempDir(), "slices")
	must.OK(t, os.WriteFile(image, append(make([]byte, sliceOffset), content...), 0o600), os.Truncate(image, int64(sliceOffset+len(content)+peer.MiB)))
	return image, fmt.Sprintf("<slices><slice type='storage' offset='%d' size='%d'/></slices>", sliceOffset, len(content))
}

// outOfSlice copies the slice back.
func outOfSlice(t *testing.T, image, file string) {
	t.Helper()
	content := must.Get(os.ReadFile(image))(t)
	must.OK(t, os.WriteFile(file, content[sliceOffset:len(content)-peer.MiB], 0o600))
}
