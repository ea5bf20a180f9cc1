package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/qmp/qmplibvirt"
)

// TestVirshPassesFile sends a sealed memfd by virsh to the QEMU of a real libvirtd, which opens it by the
// number of its descriptor set.
func TestVirshPassesFile(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	daemon := peer.Libvirtd(t)
	domain := must.Get(daemon.StartDomain(ctx, peer.DomainOptions{}))(t)
	before := stateOf(ctx, t, domain)
	l := libvirt.NewWithDialer(dialers.NewLocal(dialers.WithSocket(daemon.Socket)))
	must.OK(t, l.ConnectToURI(libvirt.QEMUSystem))
	defer func() { _ = l.Disconnect() }() // the daemon ends with the test
	handle := must.Get(l.DomainLookupByName(domain.Name))(t)
	virsh := qmplibvirt.Virsh{Program: virshProgram(ctx, t, daemon), URI: daemon.URI, Domain: uuid.UUID(handle.UUID).String()}
	client := must.Get(qmplibvirt.NewClient(ctx, l, handle, virsh.PassFile))(t)
	defer func() { _ = client.Close() }() // as above
	if !client.PassesFiles() {
		t.Error("PassesFiles is false")
	}

	const size = 3 << 20
	file := sealedMemfd(t, size)
	add := qmp.Command{Execute: "add-fd", File: file, Arguments: qmp.Object{
		{Name: "fdset-id", Value: 77}, {Name: "opaque", Value: "a \"quoted\" name, ü; $HOME 'x'"},
	}}
	node := qmp.Object{{Name: "driver", Value: "file"}, {Name: "node-name", Value: "passed"}, {Name: "filename", Value: "/dev/fdset/77"}, {Name: "locking", Value: "off"}}
	set := qmp.Object{{Name: "fdset-id", Value: 77}}
	for _, cmd := range []qmp.Command{
		add,
		{Execute: "blockdev-add", Arguments: node},
		{Execute: "remove-fd", Arguments: set},
	} {
		must.Get(client.Execute(ctx, cmd))(t)
	}
	if _, err := file.Stat(); err != nil {
		t.Errorf("the file is no longer the caller's: %v", err)
	}
	nodes, err := client.Execute(ctx, qmp.Command{Execute: "query-named-block-nodes"})
	if err != nil || !strings.Contains(string(nodes), fmt.Sprintf(`"virtual-size":%d`, size)) {
		t.Errorf("the node is not the file: %s, error %v", nodes, err)
	}
	if _, err := client.Execute(ctx, qmp.Command{Execute: "blockdev-del", Arguments: node[1:2]}); err != nil {
		t.Error(err)
	}
	wantSame(ctx, t, domain, before)

	// An error of QEMU is returned as such.
	add.Arguments = qmp.Object{{Name: "fdset-id", Value: -1}}
	_, err = client.Execute(ctx, add)
	var refusal *qmp.Error
	if !errors.As(err, &refusal) || refusal.Command != "add-fd" {
		t.Errorf("a refusal: %v", err)
	}
	// An error of virsh itself means that nothing has reached QEMU.
	for what, wrong := range map[string]qmplibvirt.Virsh{
		"domain": {Program: virsh.Program, URI: virsh.URI, Domain: "no-such-domain"},
		"socket": {Program: virsh.Program, URI: "qemu+unix:///system?socket=/nonexistent/socket", Domain: virsh.Domain},
	} {
		_, err := wrong.PassFile(ctx, []byte(`{"execute":"add-fd"}`), file)
		if !errors.Is(err, qmp.ErrNotSent) || strings.Contains(err.Error(), "\n") {
			t.Errorf("wrong %s: %v", what, err)
		}
	}
	wantSame(ctx, t, domain, before)
}

// virshProgram returns a script that runs the unpacked virsh with its libraries.
func virshProgram(ctx context.Context, t *testing.T, daemon *peer.Libvirt) string {
	t.Helper()
	cmd := daemon.VirshCommand(ctx)
	libraries := ""
	for _, v := range cmd.Env {
		if strings.HasPrefix(v, "LD_LIBRARY_PATH=") {
			libraries = v
		}
	}
	return script(t, "virsh", fmt.Sprintf(`exec env '%s' '%s' "$@"`, libraries, cmd.Path))
}

// sealedMemfd returns a read-only file in memory, as attach passes it.
func sealedMemfd(t *testing.T, size int64) *os.File {
	t.Helper()
	fd := must.Get(unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING))(t)
	file := os.NewFile(uintptr(fd), "memfd")
	t.Cleanup(func() { _ = file.Close() }) // nothing was written
	must.OK(t, file.Truncate(size))
	must.Get(unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE))(t)
	return file
}
