package integration

import (
	"cmp"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// refusal is a command that luksplug has to refuse.
type refusal struct {
	name string
	args []string // of the program, without the VM
	code int
	says []string // texts of the one line on standard error
	// tries means that only QEMU can refuse: commands that change something are sent, and undone.
	tries bool
}

// refuse runs every refusal against the VM, through a proxy that records the commands.
func refuse(ctx context.Context, t *testing.T, q *peer.QEMU, refusals []refusal) {
	t.Helper()
	for _, r := range refusals {
		t.Run(r.name, func(t *testing.T) {
			before := stateOf(ctx, t, q)
			proxy := peer.NewProxy(t, q.Socket, peer.ProxyHooks{})
			got := tool(ctx, t, proxy.Address, r.args...).want(t, r.code)
			wantOneLine(t, got, r.says...)
			if steps := proxy.Steps(); r.tries != (len(steps) > 0) {
				t.Errorf("sent to QEMU, of what changes something: %v", steps)
			}
			wantSame(ctx, t, q, before)
		})
	}
}

// wantNoSteps checks that no command that changes something was sent through the proxy.
func wantNoSteps(t *testing.T, proxy *peer.Proxy) {
	t.Helper()
	if steps := proxy.Steps(); len(steps) > 0 {
		t.Errorf("sent to QEMU, of what changes something: %v", steps)
	}
}

// failure returns the error on standard error: its last line, or the one before a hint.
func failure(r result) string {
	lines := strings.Split(strings.TrimSpace(r.stderr), "\n")
	last := len(lines) - 1
	if last > 0 && strings.HasPrefix(lines[last], "luksplug: hint: ") {
		last--
	}
	return lines[last]
}

// wantOneLine checks that a failure is one line on standard error, with those texts, and nothing on standard output.
func wantOneLine(t *testing.T, r result, says ...string) {
	t.Helper()
	if !strings.HasPrefix(r.stderr, "luksplug: ") || strings.Count(r.stderr, "\n") != 1 || !strings.HasSuffix(r.stderr, "\n") {
		t.Errorf("standard error is not one line of luksplug's:\n%s", r.stderr)
	}
	wantTexts(t, "the error", r.stderr, says)
	if r.stdout != "" {
		t.Errorf("standard output of a failure: %s", r.stdout)
	}
}

// attachArgs returns the arguments that attach the disk of xml with the volume's passphrase.
func attachArgs(t *testing.T, v *peer.Volume, xml string) []string {
	t.Helper()
	return []string{"--passphrase-file", v.PassphraseFile, "attach", writeFile(t, "disk.xml", xml)}
}

// edited returns xml with each old text replaced by the new one that follows it. A missing text ends the test.
func edited(t *testing.T, xml string, replacements ...string) string {
	t.Helper()
	for i := 0; i < len(replacements); i += 2 {
		if !strings.Contains(xml, replacements[i]) {
			t.Fatalf("no %q in %s", replacements[i], xml)
		}
		xml = strings.ReplaceAll(xml, replacements[i], replacements[i+1])
	}
	return xml
}

// withoutEncryption returns the disk XML of a volume without its <encryption>.
func withoutEncryption(t *testing.T, v *peer.Volume, target string) string {
	t.Helper()
	xml := v.DiskXML(target, "virtio")
	begin, end := strings.Index(xml, "<encryption"), strings.Index(xml, "</encryption>")
	if begin < 0 || end < 0 {
		t.Fatalf("no <encryption> in %s", xml)
	}
	return xml[:begin] + xml[end+len("</encryption>"):]
}

// TestRefusedBeforeAnything covers errors of a disk or its files on a VM without disks.
func TestRefusedBeforeAnything(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Paused: true, RootPorts: 2, SCSI: true})
	v, other := peer.NewVolume(t, peer.DetachedRaw), peer.NewVolume(t, peer.DetachedRaw)
	embedded, qcow2 := peer.NewVolume(t, peer.EmbeddedLUKS), peer.NewVolume(t, peer.Qcow2LUKS)
	xml := v.DiskXML("vdb", "virtio")
	disk := writeFile(t, "disk.xml", xml)
	missing := filepath.Join(t.TempDir(), "missing")
	plain := sized(t, "plain.img", 8*peer.MiB)
	two := luks2(ctx, t, v)
	plainQcow2 := filepath.Join(t.TempDir(), "plain.qcow2")
	command(ctx, t, "qemu-img", "create", "-q", "-f", "qcow2", plainQcow2, "8M")
	with := func(replacements ...string) []string {
		return attachArgs(t, v, edited(t, xml, replacements...))
	}
	withPassphrase := func(file string) []string { return []string{"--passphrase-file", file, "attach", disk} }
	withStore := func(dir string) []string { return []string{"--keystore", "dir:" + dir, "attach", disk} }

	refuse(ctx, t, q, []refusal{
		{name: "wrong passphrase", args: withPassphrase(writeFile(t, "key", "wrong")), code: 4,
			says: []string{"vdb", v.Header, "wrong passphrase"}},
		{name: "header of another passphrase", args: with(v.Header, other.Header), code: 4,
			says: []string{"vdb", other.Header, "wrong passphrase"}},
		{name: "wrong passphrase, embedded", args: attachArgs(t, v, embedded.DiskXML("vdb", "virtio")), code: 4,
			says: []string{"vdb", embedded.Payload, "wrong passphrase"}},
		{name: "wrong passphrase for QEMU", args: append(withPassphrase(writeFile(t, "key", "wrong")), "--unlock", "qemu"), code: 4, tries: true,
			says: []string{"vdb", "as it was before", "Invalid password"}},
		{name: "wrong passphrase for a storage daemon", args: append(withPassphrase(writeFile(t, "key", "wrong")), "--unlock", "external"), code: 4,
			says: []string{"vdb", "Invalid password"}},
		{name: "passphrase file missing", args: withPassphrase(missing), code: 4, says: []string{"vdb", missing, "no such file"}},
		{name: "passphrase file empty", args: withPassphrase(writeFile(t, "key", "")), code: 4, says: []string{"vdb", "empty"}},
		{name: "no passphrase given", args: []string{"attach", disk}, code: 2, says: []string{"--passphrase-file", "--keystore"}},
		{name: "not in the key store", args: withStore(t.TempDir()), code: 4, says: []string{"vdb", v.SecretUUID, "no such secret"}},
		{name: "key store missing", args: withStore(missing), code: 4, says: []string{missing, "cannot be reached"}},
		{name: "key readable by others", args: withStore(keyDir(t, v.SecretUUID, v.Passphrase, 0o644)), code: 4,
			says: []string{"0644", "chmod 600"}},
		{name: "payload missing", args: with(v.Payload, missing), code: 5, says: []string{"payload", missing, "no such file"}},
		{name: "header missing", args: with(v.Header, missing), code: 5, says: []string{"header", missing, "no such file"}},
		{name: "payload is a directory", args: with(v.Payload, t.TempDir()), code: 5, says: []string{"payload"}},
		{name: "header is not LUKS", args: with(v.Header, plain), code: 5, says: []string{plain, "no LUKS header"}},
		{name: "header is empty", args: with(v.Header, sized(t, "empty.hdr", 0)), code: 5, says: []string{"empty.hdr"}},
		{name: "header is cut off", args: with(v.Header, cutOff(t, v.Header)), code: 5, says: []string{"cut.hdr"}},
		{name: "header and payload swapped", args: attachArgs(t, v, edited(t, xml, v.Header, "\x00", v.Payload, v.Header, "\x00", v.Payload)),
			code: 5, says: []string{v.Payload, "no LUKS header"}},
		{name: "payload has a header of its own", args: with(v.Payload, embedded.Payload), code: 5,
			says: []string{embedded.Payload, "leave <header> out"}},
		{name: "LUKS without <encryption>", args: attachArgs(t, v, withoutEncryption(t, embedded, "vdb")), code: 5,
			says: []string{embedded.Payload, "add <encryption format='luks'>"}},
		{name: "encrypted qcow2 without <encryption>", args: attachArgs(t, v, withoutEncryption(t, qcow2, "vdb")), code: 5,
			says: []string{qcow2.Payload, "add <encryption format='luks'>"}},
		{name: "<encryption> on plain raw", args: attachArgs(t, v, edited(t, embedded.DiskXML("vdb", "virtio"), embedded.Payload, plain)),
			code: 5, says: []string{plain, "no LUKS header"}},
		{name: "<encryption> on plain qcow2", args: attachArgs(t, v, edited(t, qcow2.DiskXML("vdb", "virtio"), qcow2.Payload, plainQcow2)),
			code: 5, says: []string{plainQcow2, "not encrypted"}},
		{name: "raw called qcow2", args: with("type='raw'", "type='qcow2'"), code: 5, says: []string{v.Payload, "not a qcow2 image"}},
		{name: "LUKS2 for QEMU", args: append(with(v.Header, two), "--unlock", "qemu"), code: 3, says: []string{two, "QEMU's own driver", "LUKS2"}},
		{name: "LUKS2 for a storage daemon", args: append(with(v.Header, two), "--unlock", "external"), code: 3, says: []string{two, "QEMU's own driver", "LUKS2"}},
		{name: "LUKS2 with large sectors", args: with(v.Header, luks2(ctx, t, v, "--sector-size", "4096")), code: 3, says: []string{"sector", "4096"}},
		{name: "unknown method to unlock", args: append(with(), "--unlock", "magic"), code: 2, says: []string{"magic", "auto, qemu, external"}},
		{name: "ide", args: with("vdb", "hdb", "'virtio'", "'ide'"), code: 3, says: []string{"ide", "virtio, scsi or usb"}},
		{name: "sata", args: with("vdb", "sdb", "'virtio'", "'sata'"), code: 3, says: []string{"sata", "virtio, scsi or usb"}},
		{name: "fdc", args: with("vdb", "fdb", "'virtio'", "'fdc'", "device='disk'", "device='floppy'"), code: 3, says: []string{"fdc"}},
		{name: "element that is not supported", args: with("<target", "<backenddomain name='other'/><target"), code: 3,
			says: []string{"unsupported", "<backenddomain>", "Xen"}},
		{name: "unknown element", args: with("<target", "<tarquet/><target"), code: 2, says: []string{"<tarquet>", "line"}},
		{name: "unknown attribute", args: with("<target", "<target colour='red'"), code: 2, says: []string{"colour"}},
		{name: "malformed XML", args: with("</disk>", ""), code: 2, says: []string{"disk XML"}},
		{name: "usb without a controller", args: with("vdb", "sdb", "'virtio'", "'usb'"), code: 5, says: []string{"no USB controller", "qemu-xhci"}},
		{name: "bus that the VM lacks", args: with("<target", "<address type='pci' domain='0' bus='7' slot='0' function='0'/><target"), code: 5,
			says: []string{"pci.7", "rp1", "<address>"}},
		{name: "controller that the VM lacks", args: with("vdb", "sdb", "'virtio'/>", "'scsi'/><address type='drive' controller='3' bus='0' target='0' unit='0'/>"), code: 5,
			says: []string{"scsi3", "scsi0", "<address>"}},
		{name: "detach of a missing disk", args: []string{"detach", "vdb"}, code: 5, says: []string{"has no disk vdb"}},
	})
}

// TestRefusedBesideAnother covers conflicts of a disk with the VM's other disks.
func TestRefusedBesideAnother(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Paused: true, RootPorts: 2, SCSI: true})
	v, other, scsi := peer.NewVolume(t, peer.DetachedRaw), peer.NewVolume(t, peer.DetachedRaw), peer.NewVolume(t, peer.DetachedQcow2)
	args := attachArgs(t, v, v.DiskXML("vdb", "virtio"))
	tool(ctx, t, q.Socket, args...).want(t, 0)
	const address = "><address type='drive' controller='0' bus='0' target='0' unit='5'/>"
	tool(ctx, t, q.Socket, attachArgs(t, scsi, edited(t, scsi.DiskXML("sda", "scsi"), "bus='scsi'/>", "bus='scsi'/"+address))...).want(t, 0)
	xml := other.DiskXML("vdc", "virtio")

	refuse(ctx, t, q, []refusal{
		{name: "two disks on one header", args: attachArgs(t, v, edited(t, xml, other.Header, v.Header)), code: 5,
			says: []string{v.Header, "in use by disk vdb", "make a header for each"}},
		{name: "one payload twice", args: attachArgs(t, other, edited(t, xml, other.Payload, v.Payload)), code: 5,
			says: []string{v.Payload, "in use by disk vdb"}},
		{name: "one payload twice, by another name", args: attachArgs(t, other, edited(t, xml, other.Payload, linked(t, v.Payload))), code: 5,
			says: []string{"in use by disk vdb"}},
		{name: "target of another disk", args: attachArgs(t, other, other.DiskXML("vdb", "virtio")), code: 5,
			says: []string{"another disk is attached as vdb", "detach it first"}},
		{name: "SCSI unit taken", args: attachArgs(t, other, edited(t, other.DiskXML("sdb", "scsi"), "bus='scsi'/>", "bus='scsi'/"+address)), code: 5,
			says: []string{"unit 5", "scsi0", "in use"}},
		{name: "detach of another", args: []string{"detach", "vdc"}, code: 5, says: []string{"no disk vdc", "sda, vdb"}},
	})

	t.Run("the same disk again", func(t *testing.T) {
		before := stateOf(ctx, t, q)
		proxy := peer.NewProxy(t, q.Socket, peer.ProxyHooks{})
		again := tool(ctx, t, proxy.Address, args...).want(t, 0)
		if !strings.HasPrefix(again.stdout, "vdb already attached\n") || again.stderr != "" {
			t.Errorf("stdout %q, stderr %q", again.stdout, again.stderr)
		}
		wantNoSteps(t, proxy)
		wantSame(ctx, t, q, before)
	})
	t.Run("detach of a missing disk, ignored", func(t *testing.T) {
		before := stateOf(ctx, t, q)
		tool(ctx, t, q.Socket, "detach", "vdc", "--ignore-missing").want(t, 0)
		wantSame(ctx, t, q, before)
	})
	t.Run("no port left", func(t *testing.T) {
		// This disk takes the second of two ports.
		tool(ctx, t, q.Socket, attachArgs(t, other, xml)...).want(t, 0)
		third := peer.NewVolume(t, peer.EmbeddedLUKS)
		refuse(ctx, t, q, []refusal{{name: "refused", args: attachArgs(t, third, third.DiskXML("vdd", "virtio")), code: 5,
			says: []string{"no hot-pluggable pcie-root-port is free", "the VM has 2", "-device pcie-root-port", "model='pcie-root-port'"}}})
	})
}

// TestRefusedLockedImage: an image that another QEMU has open for writing is refused.
func TestRefusedLockedImage(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, other := peer.NewVolume(t, peer.DetachedRaw), peer.NewVolume(t, peer.DetachedRaw)
	peer.Start(t, peer.Options{Paused: true, Extra: []string{
		"-blockdev", "driver=file,node-name=one,filename=" + v.Payload, "-device", "virtio-blk-pci,drive=one",
		"-blockdev", "driver=file,node-name=two,filename=" + other.Header, "-device", "virtio-blk-pci,drive=two",
	}})
	q := peer.Start(t, peer.Options{Paused: true, RootPorts: 2})
	refuse(ctx, t, q, []refusal{
		{name: "payload", args: attachArgs(t, v, v.DiskXML("vdb", "virtio")), code: 5,
			says: []string{"payload", v.Payload, "in use outside of this VM"}},
		{name: "header", args: attachArgs(t, other, other.DiskXML("vdb", "virtio")), code: 5,
			says: []string{"header", other.Header, "in use outside of this VM"}},
	})
}

// TestRefusedReadOnlyHeader: QEMU would open such a disk, and then fail to add its device. A header that only
// luksplug reads may be read-only.
func TestRefusedReadOnlyHeader(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Paused: true, RootPorts: 2})
	v := peer.NewVolume(t, peer.DetachedRaw)
	before := stateOf(ctx, t, q)
	proxy := peer.NewProxy(t, q.Socket, peer.ProxyHooks{})
	args := attachArgs(t, v, v.DiskXML("vdb", "virtio"))
	got := run(ctx, t, readOnlyFor(ctx, t, v.Header, proxy.Address, append(args, "--unlock", "qemu")...)).want(t, 5)
	wantTexts(t, "the error", failure(got), []string{"header", v.Header, "cannot be written", "<readonly/>"})
	wantNoSteps(t, proxy)
	wantSame(ctx, t, q, before)

	run(ctx, t, readOnlyFor(ctx, t, v.Header, q.Socket, args...)).want(t, 0)
	if d := listed(ctx, t, q)["vdb"]; d.State != "attached" || d.ReadOnly || d.Header != v.Header {
		t.Errorf("a disk whose header only luksplug reads: %+v", d)
	}
}

// readOnlyFor returns the program in a mount namespace where path is read-only: permissions do not restrict
// root.
func readOnlyFor(ctx context.Context, t *testing.T, path, address string, args ...string) *exec.Cmd {
	t.Helper()
	args = slices.Concat([]string{luksplug}, named(address), args)
	if os.Geteuid() != 0 {
		must.OK(t, os.Chmod(path, 0o400))
		return exec.CommandContext(ctx, args[0], args[1:]...)
	}
	const script = `set -e; mount --make-rprivate /; mount --bind "$1" "$1"; mount -o remount,ro,bind "$1"; shift; exec "$@"`
	return exec.CommandContext(ctx, "unshare", append([]string{"--mount", "sh", "-c", script, "sh", path}, args...)...)
}

// sized makes a file of size bytes without content.
func sized(t *testing.T, name string, size int64) string {
	t.Helper()
	path := writeFile(t, name, "")
	must.OK(t, os.Truncate(path, size))
	return path
}

// cutOff copies the first bytes of a header, without its key slots.
func cutOff(t *testing.T, header string) string {
	t.Helper()
	return writeFile(t, "cut.hdr", string(must.Get(os.ReadFile(header))(t)[:100]))
}

// linked returns another name of a file.
func linked(t *testing.T, path string) string {
	t.Helper()
	link := filepath.Join(t.TempDir(), "link")
	must.OK(t, os.Symlink(path, link))
	return link
}

// keyDir makes a directory of keys, with one key.
func keyDir(t *testing.T, name string, key []byte, mode os.FileMode) string {
	t.Helper()
	dir := t.TempDir()
	must.OK(t, os.Chmod(dir, 0o700))
	path := filepath.Join(dir, name)
	must.OK(t, os.WriteFile(path, key, mode))
	must.OK(t, os.Chmod(path, mode)) // independent of the umask
	return dir
}

// luks2 makes a detached header of LUKS2 with the volume's passphrase. format are more arguments of
// cryptsetup.
func luks2(ctx context.Context, t *testing.T, v *peer.Volume, format ...string) string {
	t.Helper()
	header := sized(t, "luks2.hdr", 16*peer.MiB)
	command(ctx, t, "cryptsetup", append([]string{"luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
		"--key-file", v.PassphraseFile, "--header", header, v.Payload}, format...)...)
	return header
}

// addKey adds a passphrase to a volume, and returns a file that has it.
func addKey(ctx context.Context, t *testing.T, v *peer.Volume, passphrase string) string {
	t.Helper()
	file := writeFile(t, "key", passphrase)
	command(ctx, t, "cryptsetup", "luksAddKey", "--batch-mode", "--pbkdf-force-iterations", "1000", "--key-file", v.PassphraseFile,
		cmp.Or(v.Header, v.Payload), file)
	return file
}

// command runs a program that the test needs.
func command(ctx context.Context, t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}
