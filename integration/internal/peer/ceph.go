package peer

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/must"
)

// Ceph is a cluster of one monitor and one OSD, which keeps its data in memory and requires cephx. Ceph, and
// the QEMU in [Ceph.Programs], are from another Debian release than this machine's.
type Ceph struct {
	Host     string // of the monitor, which listens on Ceph's own ports
	User     string // for cephx
	Key      string // of User, in base64 as Ceph writes it
	Programs string // directory of qemu-system-x86_64, qemu-io and so on, with Ceph's own newer library

	dir      string
	mon, osd *process
}

// CephPool is the only pool of a cluster.
const CephPool = "rbd"

// The ports of a monitor, for Ceph's newer and older protocol. With others a client tries both protocols.
const cephPort, cephOldPort = 3300, 6789

// StartCeph starts a cluster for a test and kills it when the test ends. It takes about two seconds, and a
// minute the first time, to fetch Ceph. Without mmdebstrap the test is skipped.
func StartCeph(t testing.TB) *Ceph {
	t.Helper()
	programs := matrix(t, "trixie", "ceph")
	dir := shortDir(t, "ceph")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	loopback := net.IPv4(127, byte(1+rand.IntN(254)), byte(rand.IntN(256)), byte(1+rand.IntN(254)))
	c := &Ceph{Host: loopback.String(), User: "vm", Programs: programs, dir: dir}
	atEnd(t, c.Close, c.path("mon.a.log"), c.path("osd.0.log"))
	c.start(ctx, t)
	return c
}

// Close kills the cluster, because a regular shutdown takes seconds. It may be called again.
func (c *Ceph) Close() {
	for _, p := range []*process{c.osd, c.mon} {
		if p != nil {
			p.kill()
		}
	}
}

func (c *Ceph) path(name string) string { return filepath.Join(c.dir, name) }

// start creates a cluster without administration tools: the monitor's initial maps contain the users and the
// OSD. Only the pool has to be created.
func (c *Ceph) start(ctx context.Context, t testing.TB) {
	t.Helper()
	run := func(program string, args ...string) {
		t.Helper()
		_, err := c.run(ctx, program, args...)
		must.OK(t, err)
	}
	c.configure(t)
	monitor := fmt.Sprintf("[v2:%s:%d,v1:%s:%d]", c.Host, cephPort, c.Host, cephOldPort)
	run("monmaptool", "--create", "--fsid", cephID, "--addv", "a", monitor, c.path("monmap"))
	run("osdmaptool", "--createsimple", "1", c.path("osdmap"))
	run("ceph-mon", "-i", "a", "--mkfs", "--monmap", c.path("monmap"), "--osdmap", c.path("osdmap"), "--keyring", c.path("keyring"))
	c.mon = c.daemon(t, "ceph-mon", "a")
	run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", cephID) // queries the monitor
	c.osd = c.daemon(t, "ceph-osd", "0")
	run("ceph", "osd", "pool", "create", CephPool, "4", "4") // waits for the monitor
	run("rbd", "create", "--size", "1M", "first")            // waits for the OSD
}

// cephID is the UUID (fsid) of the cluster. Only its own daemons see it.
const cephID = "6a7b2a3e-4a8e-4c1d-9d53-0d4f6f6f8f11"

// configure writes Ceph's configuration and the keys.
func (c *Ceph) configure(t testing.TB) {
	t.Helper()
	libraries := filepath.Join(filepath.Dir(c.Programs), "root", "usr", "lib", "x86_64-linux-gnu")
	config := strings.NewReplacer("@host@", c.Host, "@dir@", c.dir, "@fsid@", cephID, "@libraries@", libraries).Replace(cephConfig)
	keys := map[string]string{}
	for _, who := range []string{"mon.", "client.admin", "client." + c.User, "osd.0"} {
		keys[who] = CephKey()
	}
	c.Key = keys["client."+c.User]
	keyring := func(who string, caps ...string) string {
		text := "[" + who + "]\n\tkey = " + keys[who] + "\n"
		for _, c := range caps {
			text += "\tcaps " + c + "\n"
		}
		return text
	}
	all := keyring("mon.", `mon = "allow *"`) +
		keyring("client.admin", `mon = "allow *"`, `osd = "allow *"`) +
		keyring("client."+c.User, `mon = "profile rbd"`, `osd = "profile rbd"`) +
		keyring("osd.0", `mon = "allow profile osd"`, `osd = "allow *"`)
	must.OK(t, errors.Join(os.Mkdir(c.path("mon"), 0o700), os.Mkdir(c.path("osd"), 0o700)))
	writeFiles(t, c.dir, map[string][]byte{
		"ceph.conf": []byte(config), "keyring": []byte(all),
		"keyring.client.admin": []byte(keyring("client.admin")), "osd/keyring": []byte(keyring("osd.0")),
	})
}

// cephConfig keeps the cluster small and its start short.
const cephConfig = `[global]
fsid = @fsid@
mon host = @host@
public network = 127.0.0.0/8
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = false
keyring = @dir@/keyring.$name
run dir = @dir@
admin socket =
log file = @dir@/$name.log
mon cluster log file = @dir@/cluster.log
mon data = @dir@/mon
mon data avail crit = 1
mon allow pool size one = true
mon tick interval = 1
paxos propose interval = 0.05
osd data = @dir@/osd
osd objectstore = memstore
memstore device bytes = 1073741824
osd pool default size = 1
osd pool default min size = 1
osd crush chooseleaf type = 0
osd class dir = @libraries@/rados-classes
erasure code dir = @libraries@/ceph/erasure-code
plugin dir = @libraries@/ceph
[osd.0]
keyring = @dir@/osd/keyring
`

// CephKey makes a random key in the format of Ceph's CryptoKey: type (1, AES), time, length, 16 bytes.
func CephKey() string {
	b := binary.LittleEndian.AppendUint16(nil, 1)
	b = binary.LittleEndian.AppendUint32(b, uint32(time.Now().Unix()))
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint16(b, 16)
	for range 2 {
		b = binary.LittleEndian.AppendUint64(b, rand.Uint64())
	}
	return base64.StdEncoding.EncodeToString(b)
}

// daemon starts a server of the cluster in the foreground.
func (c *Ceph) daemon(t testing.TB, program, id string) *process {
	t.Helper()
	p, err := startTied(exec.Command(filepath.Join(c.Programs, program), "-c", c.path("ceph.conf"), "-i", id, "-f"), c.path(program+".messages"))
	must.OK(t, err)
	return p
}

// run runs one of the cluster's programs as its administrator.
func (c *Ceph) run(ctx context.Context, program string, args ...string) (string, error) {
	return Output(ctx, filepath.Join(c.Programs, program), slices.Concat([]string{"-c", c.path("ceph.conf")}, args)...)
}

// RBD runs rbd as the cluster's administrator and returns what it printed.
func (c *Ceph) RBD(ctx context.Context, args ...string) (string, error) {
	return c.run(ctx, "rbd", args...)
}

// Import makes an image from a file.
func (c *Ceph) Import(ctx context.Context, file, image string) error {
	_, err := c.RBD(ctx, "import", "--no-progress", file, CephPool+"/"+image)
	return err
}

// Export writes an image to a file, which is replaced.
func (c *Ceph) Export(ctx context.Context, image, file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	_, err := c.RBD(ctx, "export", "--no-progress", CephPool+"/"+image, file)
	return err
}

// Format encrypts an image with Ceph's library: rbd encryption format. It takes seconds, as Ceph has no
// option for the cost of the key derivation.
func (c *Ceph) Format(ctx context.Context, image, format, passphraseFile string, args ...string) error {
	_, err := c.RBD(ctx, append([]string{"encryption", "format", CephPool + "/" + image, format, passphraseFile}, args...)...)
	return err
}

// Encrypt returns the option encrypt, with which librbd opens an image: with a secret, and one more for each
// parent that has its own passphrase.
func (c *Ceph) Encrypt(format string, secrets ...string) map[string]any {
	var out map[string]any
	for _, s := range slices.Backward(secrets) {
		level := map[string]any{"format": format, "key-secret": s}
		if out != nil {
			level["parent"] = out
		}
		out = level
	}
	return out
}

// QemuIO runs one command of the newer qemu-io on an image, opened with the option encrypt, whose secrets s0,
// s1 and so on are in passphraseFiles.
func (c *Ceph) QemuIO(ctx context.Context, command, image string, encrypt map[string]any, passphraseFiles ...string) error {
	keyring := c.path("keyring.client.admin")
	conf := c.path("qemu.conf")
	text := fmt.Sprintf("[global]\nmon host = %s\nkeyring = %s\n", c.Host, keyring)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	options, err := json.Marshal(map[string]any{"driver": "rbd", "pool": CephPool, "image": image, "conf": conf, "user": "admin", "encrypt": encrypt})
	if err != nil {
		return err
	}
	args := []string{"-c", command}
	for i, file := range passphraseFiles {
		args = append(args, "--object", fmt.Sprintf("secret,id=s%d,file=%s", i, escapeComma(file)))
	}
	return qemuIO(ctx, filepath.Join(c.Programs, "qemu-io"), append(args, "json:"+string(options))...)
}

// Encrypted makes a volume in the format luks1 or luks2 with Ceph's library, as an image of the cluster.
// cryptsetup then sets a passphrase with a fast key derivation. All such volumes share one volume key.
func (c *Ceph) Encrypted(t testing.TB, format, image string) *Volume {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	dir, err := cached("rbd-"+format+"-v1", func(dir string) error { return c.encrypt(ctx, dir, format) })
	must.OK(t, err)
	own := t.TempDir()
	v := &Volume{Kind: EmbeddedLUKS, Format: "raw", Payload: filepath.Join(own, "payload.img"), PassphraseFile: filepath.Join(own, "passphrase"), SecretUUID: uuid.NewString()}
	must.OK(t, v.takePassphrase(dir))
	must.OK(t, c.Import(ctx, filepath.Join(dir, "image"), image))
	return v
}

// encrypt has Ceph's library encrypt an image and writes the image into dir.
func (c *Ceph) encrypt(ctx context.Context, dir, format string) error {
	image, file, slow := "to-be-"+format, filepath.Join(dir, "image"), filepath.Join(dir, "slow")
	v := Volume{PassphraseFile: filepath.Join(dir, "passphrase")}
	if err := errors.Join(v.newPassphrase(), os.WriteFile(slow, []byte("of nobody"), 0o600)); err != nil {
		return err
	}
	if _, err := c.RBD(ctx, "create", "--size", "48M", image); err != nil {
		return err
	}
	if err := c.Format(ctx, image, format, slow); err != nil {
		return err
	}
	if err := c.Export(ctx, image, file); err != nil {
		return err
	}
	_, err := Output(ctx, "cryptsetup", "luksChangeKey", "--batch-mode", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
		"--key-file", slow, file, v.PassphraseFile)
	return err
}

// SourceXML returns the <source> of an image. inner follows its <host>.
func (c *Ceph) SourceXML(image, inner string) string {
	return "<source protocol='rbd' name='" + CephPool + "/" + image + "'>" + c.HostXML(cephPort) + inner + "</source>"
}

// ConfigXML writes a configuration with the address of the monitor, and returns its <config>.
func (c *Ceph) ConfigXML(t testing.TB) string {
	t.Helper()
	file := c.path("client.conf")
	must.OK(t, os.WriteFile(file, []byte("[global]\nmon host = "+c.Host+"\n"), 0o644))
	return "<config file='" + file + "'/>"
}

// HostXML returns the <host> of the monitor, with a port unless it is 0.
func (c *Ceph) HostXML(port int) string {
	if port == 0 {
		return "<host name='" + c.Host + "'/>"
	}
	return "<host name='" + c.Host + "' port='" + strconv.Itoa(port) + "'/>"
}

// SuspendMonitor stops the monitor with SIGSTOP, as [Server.Suspend] does.
func (c *Ceph) SuspendMonitor() error { return c.mon.signal(syscall.SIGSTOP) }

// SuspendStore stops the OSD, which holds the images, with SIGSTOP.
func (c *Ceph) SuspendStore() error { return c.osd.signal(syscall.SIGSTOP) }

// Resume continues the monitor and the OSD.
func (c *Ceph) Resume() error {
	return errors.Join(c.mon.signal(syscall.SIGCONT), c.osd.signal(syscall.SIGCONT))
}
