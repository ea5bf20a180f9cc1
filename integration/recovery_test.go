package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// backup returns the path of a new backup of the volume's header.
func backup(ctx context.Context, t *testing.T, v *peer.Volume) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "backup.hdr")
	command(ctx, t, "cryptsetup", "luksHeaderBackup", v.Payload, "--header-backup-file", path)
	return path
}

// overwrite writes content into a file.
func overwrite(t *testing.T, path string, at int64, content []byte) {
	t.Helper()
	f := must.Get(os.OpenFile(path, os.O_WRONLY, 0))(t)
	_, err := f.WriteAt(content, at)
	must.OK(t, err, f.Close())
}

// noise is what overwrites a header: no zeros, and nothing that is another format.
func noise(n int64) []byte { return []byte(strings.Repeat("~damage~", int(n)/8+1)[:n]) }

// recovered returns the disk XML of the volume with that header, as the attribute recover of <header> has it.
func recovered(t *testing.T, v *peer.Volume, target, bus, header, recover string) string {
	t.Helper()
	if recover != "" {
		recover = " recover='" + recover + "'"
	}
	with := "<header type='file'" + recover + "><source file='" + header + "'/></header>\n    </encryption>"
	return writeFile(t, "recovered.xml", strings.Replace(v.DiskXML(target, bus), "</encryption>", with, 1))
}

// TestRecovery damages a header in one part after the other. Each time the disk is refused with a hint at the
// recovery, and by the backup the guest reads its data, and cannot write.
func TestRecovery(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup")
	q := booted(bounded(t), t, peer.Options{SCSI: true})
	const copyOf = 16 << 10 // of LUKS2 metadata
	type damage struct {
		name       string
		start, end int64
		alone      int    // exit code of the disk's own XML, without recovery
		with       int    // that of <header> without recovery
		says       string // the warning about what is damaged
	}
	for name, c := range map[string]struct {
		format  []string
		damages []damage
	}{
		"LUKS1": {[]string{"--type", "luks1", "--pbkdf-force-iterations", "1000"}, []damage{
			{"the magic", 0, 6, 5, 0, "the magic and version"},
			{"the cipher", 8, 104, 5, 5, "the cipher and hash"},
			{"the payload offset", 104, 108, 5, 5, "the payload offset"},
			{"the digest", 112, 164, 4, 5, "the digest of the volume key"},
			{"the key slots", 208, 592, 5, 5, "key slot 0"},
			{"the key material", 4096, 2 << 20, 4, 5, "the key material of slot 0"},
			{"the first page", 0, 4096, 5, 0, "key slot 0"},
			{"all of it", 0, 2 << 20, 5, 0, "nothing is left of a LUKS header"},
		}},
		"LUKS2": {[]string{"--type", "luks2", "--sector-size", "512", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}, []damage{
			{"the magic", 0, 6, 5, 0, "the first copy of the metadata"},
			{"both copies of the JSON", 4096, copyOf + 8192, 5, 5, "the second copy of the metadata"},
			{"both copies of the metadata", 0, 2 * copyOf, 5, 0, "the first copy of the metadata"},
			{"the key material", 2 * copyOf, 16 << 20, 4, 5, "the key material of slot 0"},
			{"all of it", 0, 16 << 20, 5, 0, "nothing is left of a LUKS header"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := bounded(t)
			v := peer.NewFormatted(t, peer.EmbeddedLUKS, c.format...)
			header := backup(ctx, t, v)
			p := newPlug(t, q, v, "sdb", "scsi", "")
			p.attach(ctx, t)
			pattern := []byte("data that outlives its header; ")
			p.write(ctx, t, p.inGuest(ctx, t), []int{5}, pattern)
			p.detach(ctx, t)
			before := stateOf(ctx, t, q)
			whole := must.Get(os.ReadFile(v.Payload))(t)
			withHeader := recovered(t, v, "sdb", "scsi", header, "")
			key := "--passphrase-file=" + v.PassphraseFile
			for _, d := range c.damages {
				must.OK(t, os.WriteFile(v.Payload, whole, 0o600))
				overwrite(t, v.Payload, d.start, noise(d.end-d.start))
				damaged := must.Get(os.ReadFile(v.Payload))(t)
				got := tool(ctx, t, q.Socket, key, "attach", p.xml).want(t, d.alone)
				if d.alone == 5 {
					wantOneLine(t, got, "name it in <header> and attach with --recover")
				}
				if d.with != 0 {
					wantOneLine(t, tool(ctx, t, q.Socket, key, "attach", withHeader).want(t, 5), "a LUKS header of its own", "attach with --recover")
				}
				wantSame(ctx, t, q, before)

				xml := strings.Replace(string(must.Get(os.ReadFile(p.xml))(t)), "</encryption>", "<header><source file='"+header+"'/></header></encryption>", 1)
				serial := writeFile(t, "disk.xml", xml)
				got = tool(ctx, t, q.Socket, key, "--output", "json", "attach", "--recover", serial).want(t, 0)
				wantTexts(t, d.name, got.stderr, []string{d.says})
				var report struct {
					Size             int64
					ReadOnly         bool `json:"read_only"`
					Recovery, Unlock string
				}
				if got.decode(t, &report); report.Size != peer.VolumeSize || !report.ReadOnly || report.Recovery != "read-only" || report.Unlock != "ephemeral" {
					t.Errorf("%s: attach reports %+v", d.name, report)
				}
				dev := p.inGuest(ctx, t)
				if hash := must.Get(q.Guest().ReadHash(ctx, dev, 5, 1))(t); hash != peer.HashOf(peer.Pattern(pattern)) {
					t.Errorf("%s: the guest reads something else", d.name)
				}
				if _, err := q.Guest().Run(ctx, "echo no > "+dev); err == nil {
					t.Errorf("%s: the guest can write", d.name)
				}
				p.detach(ctx, t)
				wantSame(ctx, t, q, before)
				if string(damaged) != string(must.Get(os.ReadFile(v.Payload))(t)) {
					t.Errorf("%s: the image was changed", d.name)
				}
			}
		})
	}
}

// TestRecoveryWays recovers volumes of each kind with each method to unlock, and reads data through QEMU.
func TestRecoveryWays(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	must.OK(t, v.WriteOnHost(ctx, "write -P 0xd7 8M 1M"))
	header := backup(ctx, t, v)
	overwrite(t, v.Payload, 0, noise(4096))
	const part = 3 * peer.MiB // where the slice begins
	inSlice := sized(t, "slice.img", part+v.Offset+peer.VolumeSize)
	overwrite(t, inSlice, part, must.Get(os.ReadFile(v.Payload))(t))
	qcow2 := filepath.Join(t.TempDir(), "payload.qcow2")
	command(ctx, t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", v.Payload, qcow2)
	r := newRemote(t, q, v)
	served := func(path string) string {
		copied := writeFile(t, "served.img", string(must.Get(os.ReadFile(path))(t)))
		n := peer.StartNBD(t, copied)
		return "protocol='nbd' name='disk'>" + n.HostXML()
	}
	local := r.encryption("<header recover='read-only'><source file='" + header + "'/></header>")
	disk := func(kind, format, source, after string) string {
		return "<disk type='" + kind + "' device='disk'><driver name='qemu' type='" + format + "'/><source " + source + "</source><target dev='" + remoteTarget + "' bus='scsi'/>" + after + "</disk>"
	}
	file := "file='" + v.Payload + "'>"
	slice := "file='" + inSlice + "'><slices><slice type='storage' offset='3145728' size='69206016'/></slices>"
	for i, c := range []struct {
		name, xml string
		ways      []string
	}{
		{"a file", disk("file", "raw", file+local, ""), unlockWays()},
		{"a block device", disk("block", "raw", onBlock(t, v.Payload)+">"+local, ""), unlockWays()},
		{"a slice", disk("file", "raw", slice+local, ""), unlockWays()},
		{"qcow2", disk("file", "qcow2", "file='"+qcow2+"'>"+local, ""), unlockWays()},
		{"a server", disk("network", "raw", served(v.Payload)+local, ""), unlockWays()},
		{"a backup on a server", disk("file", "raw", file+r.encryption("<header type='network' recover='read-only'><source "+served(header)+"</source></header>"), ""), unlockWays()},
		{"both on servers", disk("network", "raw", served(v.Payload)+r.encryption("<header type='network' recover='read-only'><source "+served(header)+"</source></header>"), ""), unlockWays()},
		{"a transient disk", disk("file", "raw", file+local, "<transient/>"), unlockWays()},
	} {
		r.xml = writeFile(t, "disk.xml", c.xml)
		transient := strings.Contains(c.xml, "<transient/>")
		for j, way := range c.ways {
			if !peer.IsLong() && j != i%len(c.ways) {
				continue // every run has each kind of disk in one way
			}
			r.whileAttached(ctx, t, way, func() {
				r.io(ctx, t, "read -P 0xd7 8M 1M")
				if d := listed(ctx, t, q)[remoteTarget]; d.ReadOnly == transient || d.Recovery != "read-only" {
					t.Errorf("%s, %s: list shows %+v", c.name, way, d)
				}
				if transient {
					r.io(ctx, t, "write -P 0xd8 9M 1M")
				}
			})
		}
	}
	if text := must.Get(os.ReadFile(v.Payload))(t); string(text[:4096]) != string(noise(4096)) {
		t.Error("the header was changed")
	}

	// Where key material shows the volume, and writes were asked for.
	r.xml = writeFile(t, "disk.xml", strings.Replace(disk("file", "raw", file+local, ""), "recover='read-only'", "recover='read-write'", 1))
	for i, way := range unlockWays() {
		r.whileAttached(ctx, t, way, func() { r.io(ctx, t, fmt.Sprintf("write -P %#x %dM 1M", patternOf(i), 20+i)) })
	}
	restored := must.Get(os.ReadFile(header))(t)
	overwrite(t, v.Payload, 0, restored)
	for i := range unlockWays() {
		must.OK(t, v.QemuIO(ctx, fmt.Sprintf("read -P %#x %dM 1M", patternOf(i), 20+i)))
	}
}

// TestRecoveryRefused: a recovery that could show the guest noise, or that is not needed, is refused before
// anything is changed.
func TestRecoveryRefused(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
	before := stateOf(ctx, t, q)
	v, other := peer.NewVolume(t, peer.EmbeddedLUKS), peer.NewVolume(t, peer.EmbeddedLUKS)
	whole, header := must.Get(os.ReadFile(v.Payload))(t), backup(ctx, t, v)
	plain := writeFile(t, "plain.hdr", "")
	must.OK(t, os.Truncate(plain, 4*peer.MiB))
	detached := peer.NewVolume(t, peer.DetachedRaw)
	key := "--passphrase-file=" + v.PassphraseFile
	partitions := make([]byte, 512)
	copy(partitions[450:], "\x83\x00\x00\x00\x01\x00\x00\x00\x10")
	copy(partitions[510:], "\x55\xaa")
	for _, c := range []struct {
		name    string
		damage  func()
		header  string
		recover string
		args    []string
		code    int
		says    []string
	}{
		{"nothing is damaged", nil, header, "read-only", nil, 5, []string{"it needs no recovery, so leave <header> out"}},
		{"another volume", nil, backup(ctx, t, other), "read-only", nil, 5, []string{"is not a backup of the one in", "its UUID is"}},
		{"another volume, the key slots are damaged", func() { overwrite(t, v.Payload, 208, noise(4096)) }, backup(ctx, t, other), "read-only", nil, 5, []string{"its UUID is"}},
		{"writes without proof", func() { overwrite(t, v.Payload, 0, noise(2*peer.MiB)) }, header, "read-write", nil, 5,
			[]string{"nothing is left of a LUKS header", "luksHeaderRestore", "(use --recover alone"}},
		{"in re-encryption", func() { overwrite(t, v.Payload, 0, []byte("LUKS\xde\xad")) }, header, "read-only", nil, 5, []string{"re-encryption"}},
		{"a backup that is none", func() { overwrite(t, v.Payload, 0, noise(512)) }, plain, "read-only", nil, 5, []string{plain + " has no LUKS header"}},
		{"a header without an offset", func() { overwrite(t, v.Payload, 0, noise(512)) }, detached.Header, "read-only", nil, 5, []string{"attach the disk without recovery"}},
		{"plain data in place of the encrypted", func() { overwrite(t, v.Payload, 0, noise(512)); overwrite(t, v.Payload, 2*peer.MiB, partitions) }, header, "read-only", nil, 5,
			[]string{"has the signature of dos at byte 2097662", "--allow-signature"}},
		{"cut off", func() { must.OK(t, os.Truncate(v.Payload, peer.MiB)); overwrite(t, v.Payload, 0, noise(512)) }, header, "read-only", nil, 5, []string{"it has been cut off"}},
		{"partitions over the header, not recovered", func() { overwrite(t, v.Payload, 0, partitions) }, header, "", nil, 5,
			[]string{"has the signature of dos at byte 510", "or with --recover if it has overwritten"}},
		{"a wrong passphrase", func() { overwrite(t, v.Payload, 0, noise(512)) }, header, "read-only", []string{"--passphrase-file=" + other.PassphraseFile}, 4, []string{"wrong passphrase"}},
		{"two values", nil, header, "read-write", []string{"--recover"}, 2, []string{"recover"}},
		{"an unknown value", nil, header, "yes", nil, 2, []string{"use read-only, read-write"}},
	} {
		must.OK(t, os.WriteFile(v.Payload, whole, 0o600))
		if c.damage != nil {
			c.damage()
		}
		args := append([]string{key, "attach", recovered(t, v, "sdb", "scsi", c.header, c.recover)}, c.args...)
		got := tool(ctx, t, q.Socket, args...)
		if got.code != c.code {
			t.Errorf("%s: exit code %d: %s", c.name, got.code, got.stderr)
		}
		wantTexts(t, c.name, failure(got), c.says)
	}
	wantSame(ctx, t, q, before)

	// What has overwritten the header does not refuse the recovery.
	must.OK(t, os.WriteFile(v.Payload, whole, 0o600))
	overwrite(t, v.Payload, 0, partitions)
	xml := recovered(t, v, "sdb", "scsi", header, "")
	got := tool(ctx, t, q.Socket, key, "attach", "--recover", xml).want(t, 0)
	wantTexts(t, "attach", got.stderr, []string{"was overwritten by dos at byte 510", "the key material of a slot is that of the backup"})
	wantTexts(t, "attach", got.stdout, []string{"read-only", "the header is a backup"})
	tool(ctx, t, q.Socket, "list").want(t, 0).wantStdout(t, header+" (a backup)")
	wantTexts(t, "attach again", failure(tool(ctx, t, q.Socket, key, "attach", "--recover=read-write", xml).want(t, 5)), []string{"another disk is attached as sdb"})
	tool(ctx, t, q.Socket, "detach", "sdb").want(t, 0)
	wantOneLine(t, tool(ctx, t, q.Socket, key, "attach", "--recover", newPlug(t, q, v, "sdb", "scsi", "").xml).want(t, 2), "<header>")
	wantSame(ctx, t, q, before)
	for _, plan := range [][]string{{"plan", "--recover", xml}, {"cmdline", "--recover", xml}} {
		got := tool(ctx, t, q.Socket, plan...)
		if plan[0] == "cmdline" {
			got = run(ctx, t, exec.CommandContext(ctx, luksplug, append(plan, key)...))
			wantTexts(t, "cmdline", got.want(t, 0).stdout, []string{`"read-only":true,"driver":"luks"`, header})
		}
		wantTexts(t, plan[0], got.want(t, 0).stderr, []string{"is taken as a backup of the one in " + v.Payload + ", read-only"})
	}
}

// TestRecoveryOfADomain: a recovered disk of a libvirt domain is recorded with its recovery, and does not belong to
// the domain.
func TestRecoveryOfADomain(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	l := peer.Libvirtd(t)
	d := must.Get(l.StartDomain(ctx, peer.DomainOptions{SCSI: true, Persistent: true}))(t)
	before := stateOf(ctx, t, d)
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	header := backup(ctx, t, v)
	overwrite(t, v.Payload, 0, noise(512))
	xml := recovered(t, v, "sdb", "scsi", header, "")
	attach := []string{"--passphrase-file", v.PassphraseFile, "attach", "--recover", xml}
	refused := viaLibvirt(ctx, t, l, d.Name, append(attach, "--persistent")...).want(t, 3)
	wantTexts(t, "the error", failure(refused), []string{"<header recover=...>", "cryptsetup luksHeaderRestore"})
	viaLibvirt(ctx, t, l, d.Name, attach...).want(t, 0)
	if text := metadata(ctx, l, d.Name, "--live"); !strings.Contains(text, `recover="read-only"`) {
		t.Errorf("the record lacks the recovery: %s", text)
	}
	list := disksIn[listEntry](t, viaLibvirt(ctx, t, l, d.Name, "--output", "json", "list"))
	if len(list) != 1 || !list[0].ReadOnly || list[0].Recovery != "read-only" || list[0].Header != header {
		t.Errorf("list shows %+v", list)
	}
	viaLibvirt(ctx, t, l, d.Name, "detach", "sdb").want(t, 0)
	wantSame(ctx, t, d, before)
}

// TestHookRestoresARecovery: a domain that was saved with a recovered disk is restored with it, although the header
// was restored meanwhile.
func TestHookRestoresARecovery(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h := newHookHost(t, "")
	d := must.Get(h.StartDomain(ctx, peer.DomainOptions{Persistent: true, SCSI: true, Movable: true}))(t)
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	h.learn(t, v)
	header := backup(ctx, t, v)
	overwrite(t, v.Payload, 0, noise(512))
	h.tool(ctx, t, d, "attach", "--recover", recovered(t, v, "sda", "scsi", header, "")).want(t, 0)
	virsh(ctx, t, h.Libvirt, "managedsave", d.Name)
	command(ctx, t, "cryptsetup", "luksHeaderRestore", "--batch-mode", v.Payload, "--header-backup-file", header)
	virsh(ctx, t, h.Libvirt, "start", d.Name)
	list := disksIn[listEntry](t, h.tool(ctx, t, d, "--output", "json", "list"))
	if len(list) != 1 || list[0].State != "attached" || !list[0].ReadOnly || list[0].Recovery != "read-only" {
		t.Errorf("list shows %+v", list)
	}
	h.tool(ctx, t, d, "detach", "sda").want(t, 0)
	h.tool(ctx, t, d, "attach", writeFile(t, "disk.xml", v.DiskXML("sda", "scsi"))).want(t, 0)
}
