package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// remote is a volume on a server, and the VM to which it is attached.
type remote struct {
	*peer.Volume
	q    *peer.QEMU
	keys map[string]string // values of secrets, by UUID
	xml  string            // path of the disk XML
	args []string          // further arguments of the program
	env  []string          // further variables of its environment
}

// remoteTarget is the target of the disks behind servers.
const remoteTarget = "sdb"

// newRemote returns a remote without disk XML.
func newRemote(t *testing.T, q *peer.QEMU, v *peer.Volume) *remote {
	t.Helper()
	return &remote{Volume: v, q: q, keys: map[string]string{v.SecretUUID: string(v.Passphrase)}}
}

// use writes the disk XML with that <source> and its following elements, and sets the program's arguments.
func (r *remote) use(t *testing.T, source string, args ...string) {
	t.Helper()
	r.xml, r.args = writeFile(t, "disk.xml", r.diskXML(source)), args
}

// encryption returns the volume's <encryption>, with inner after its secret.
func (r *remote) encryption(inner string) string {
	return "<encryption format='luks'><secret type='passphrase' uuid='" + r.SecretUUID + "'/>" + inner + "</encryption>"
}

func (r *remote) diskXML(source string) string {
	return "<disk type='network' device='disk'><driver name='qemu' type='" + r.Format + "'/>" + source + "<target dev='" + remoteTarget + "' bus='scsi'/></disk>"
}

// secret stores a value for the program to look up, and returns the attribute by which XML refers to it.
func (r *remote) secret(value string) (uuidAttribute string) {
	id := uuid.NewString()
	r.keys[id] = value
	return "uuid='" + id + "'"
}

// auth returns an <auth> of that user and password.
func (r *remote) auth(user, password string) string {
	return "<auth username='" + user + "'><secret type='iscsi' " + r.secret(password) + "/></auth>"
}

// keyStore makes a directory of the secrets.
func (r *remote) keyStore(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must.OK(t, os.Chmod(dir, 0o700))
	for id, value := range r.keys {
		must.OK(t, os.WriteFile(filepath.Join(dir, id), []byte(value), 0o600))
	}
	return dir
}

// command returns the program in QEMU's namespaces, with the same files and the same network.
func (r *remote) command(ctx context.Context, t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	line := slices.Concat([]string{luksplug, "--qmp", r.q.Socket, "--keystore", "dir:" + r.keyStore(t)}, args)
	if os.Geteuid() == 0 {
		line = append([]string{"nsenter", "--target", strconv.Itoa(r.q.PID), "--mount", "--net", "--"}, line...)
	}
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Env = append(os.Environ(), r.env...)
	return cmd
}

// attachArgs returns the arguments that attach the disk.
func (r *remote) attachArgs(unlock string) []string {
	return append([]string{"attach", "--unlock", unlock, r.xml}, r.args...)
}

// attach attaches the disk; a second attach changes nothing.
func (r *remote) attach(ctx context.Context, t *testing.T, unlock string) {
	t.Helper()
	run(ctx, t, r.command(ctx, t, r.attachArgs(unlock)...)).want(t, 0)
	run(ctx, t, r.command(ctx, t, r.attachArgs(unlock)...)).want(t, 0).wantStdout(t, "already attached")
}

// whileAttached attaches the disk, runs do, and detaches it, after which the VM is as it was.
func (r *remote) whileAttached(ctx context.Context, t *testing.T, unlock string, do func()) {
	t.Helper()
	before := stateOf(ctx, t, r.q)
	r.attach(ctx, t, unlock)
	do()
	tool(ctx, t, r.q.Socket, "detach", remoteTarget).want(t, 0)
	wantSame(ctx, t, r.q, before)
}

// another is a disk other than the attached one.
type another struct {
	source string // the XML of the <source>, and of the elements after it
	args   []string
	says   string // the difference
}

// wantAnother attaches other disks at the target of the attached one, which are refused with every method.
func (r *remote) wantAnother(ctx context.Context, t *testing.T, disks []another) {
	t.Helper()
	before := stateOf(ctx, t, r.q)
	for _, d := range disks {
		xml := writeFile(t, "another.xml", r.diskXML(d.source))
		got := run(ctx, t, r.command(ctx, t, append([]string{"attach", xml}, d.args...)...))
		if got.code != 5 {
			t.Errorf("%s: exit code %d, want 5: %s", d.says, got.code, got.stderr)
			continue
		}
		wantTexts(t, "the error", failure(got), []string{"another disk is attached as " + remoteTarget, d.says})
	}
	wantSame(ctx, t, r.q, before)
}

// io runs a qemu-io command on the disk's device in QEMU, such as "write -P 0xa7 8M 1M". QEMU reports the result
// on standard output.
func (r *remote) io(ctx context.Context, t *testing.T, command string) {
	t.Helper()
	before := must.Get(os.ReadFile(r.q.Log))(t)
	must.Get(r.q.Query(ctx, "human-monitor-command", map[string]string{
		"command-line": fmt.Sprintf("qemu-io -d /machine/peripheral/luksplug-%s %q", remoteTarget, command)}))(t)
	after := must.Get(os.ReadFile(r.q.Log))(t)
	text := string(after[len(before):])
	// "wrote 1048576/1048576 bytes at offset 8388608"
	if !strings.Contains(text, strconv.Itoa(peer.MiB)+"/"+strconv.Itoa(peer.MiB)+" bytes") || strings.Contains(text, "failed") {
		t.Fatalf("QEMU says to %q: %s", command, text)
	}
}

// unlockWays are the values of --unlock.
func unlockWays() []string { return []string{"auto", "qemu", "external"} }

// patternOf returns the byte that QEMU writes after unlocking with the i-th method.
func patternOf(i int) byte { return byte(0xa1 + i) }

// writeEachWay attaches the disk with each method, has QEMU write, and detaches it. While it is attached,
// others are refused.
func (r *remote) writeEachWay(ctx context.Context, t *testing.T, others []another) {
	t.Helper()
	for i, unlock := range unlockWays() {
		r.whileAttached(ctx, t, unlock, func() {
			r.wantAnother(ctx, t, others)
			r.io(ctx, t, fmt.Sprintf("write -P %#x %dM 1M", patternOf(i), 3*i+1))
		})
	}
}

// wantWritten checks with other programs the data of writeEachWay. The server must have closed the image.
func (r *remote) wantWritten(ctx context.Context, t *testing.T) {
	t.Helper()
	for i, unlock := range unlockWays() {
		plain := must.Get(r.ReadThrough(ctx, int64(3*i+1)*peer.MiB, peer.MiB))(t)
		if !bytes.Equal(plain, bytes.Repeat([]byte{patternOf(i)}, peer.MiB)) {
			t.Errorf("written with --unlock %s, and %x... read", unlock, plain[:8])
		}
	}
}

// refusedBy is the expected failure of a disk whose server refuses it, or does not answer.
type refusedBy struct {
	name   string
	source string // the XML of the <source>, and of the elements after it
	args   []string
	code   int
	says   []string
	ways   []string // values of --unlock; default all
}

// silence returns the failure of a server that does not answer, with a shorter limit than luksplug's own.
func silence(name, source string) refusedBy {
	return refusedBy{name: name, source: source, args: []string{"--timeout", "2s"}, code: 5,
		says: []string{"cannot be opened", "nothing has come from its server"}, ways: []string{"qemu"}}
}

// wantRefused attaches disks that servers refuse, with each method: it checks the message, that the VM is
// unchanged and answers meanwhile, and that the output has no secret.
func (r *remote) wantRefused(ctx context.Context, t *testing.T, cases []refusedBy) {
	t.Helper()
	before := stateOf(ctx, t, r.q)
	found := evidence{}
	for _, c := range cases {
		if c.ways == nil {
			c.ways = unlockWays()
		}
		for _, unlock := range c.ways {
			t.Run(c.name+", "+unlock, func(t *testing.T) {
				xml := writeFile(t, "disk.xml", r.diskXML(c.source))
				trace := filepath.Join(t.TempDir(), "trace")
				args := slices.Concat([]string{"-vv", "--trace", trace}, c.args, []string{"attach", "--unlock", unlock, xml})
				cmd := r.command(ctx, t, args...)
				var got result
				// Without a pause the queries would keep QEMU busy.
				if gap := longestGap(ctx, t, r.q, 20*time.Millisecond, func() { got = run(ctx, t, cmd) }); gap > longestSilence {
					t.Errorf("the VM did not answer for %s", gap)
				}
				found["arguments for "+c.name+unlock] = []byte(strings.Join(cmd.Args, "\x00"))
				found.output(c.name+unlock, got)
				found.dir(t, filepath.Dir(trace))
				line := failure(got)
				if got.code != c.code {
					t.Errorf("exit code %d, want %d: %s", got.code, c.code, line)
				}
				says := append(c.says, "luksplug: ")
				if c.code != 2 { // a mistake in the XML is reported by its element
					says = append(says, "disk "+remoteTarget)
				}
				wantTexts(t, "the error", line, says)
				wantSame(ctx, t, r.q, before)
			})
		}
	}
	for _, secret := range r.keys {
		found.hides(t, secret)
	}
}

// longestSilence bounds the gap between a monitor's answers while luksplug waits for a server. Only stalls of
// seconds count, because other tests run on the machine.
const longestSilence = 1500 * time.Millisecond
