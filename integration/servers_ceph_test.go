package integration

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// rbdNamed uses other names: the cluster by a monitor without a port and by Ceph's configuration, the key by
// its usage, and a snapshot.
func rbdNamed(t *testing.T, ceph *peer.Ceph) {
	ctx := bounded(t)
	r := newRBD(ctx, t, ceph, peer.EmbeddedLUKS, "named")
	key := must.Get(base64.StdEncoding.DecodeString(ceph.Key))(t)
	r.keys["ceph-client.vm%20of%20tests"] = string(key)
	inner := "<auth username='vm'><secret type='ceph' usage='client.vm of tests'/></auth>" + r.encryption("")
	source := func(cluster, more string) string {
		return "<source protocol='rbd' name='rbd/named'>" + cluster + more + inner + "</source>"
	}
	use := func(source, command string) {
		t.Helper()
		r.use(t, source)
		r.whileAttached(ctx, t, "auto", func() { r.io(ctx, t, command) })
	}
	use(source(ceph.HostXML(0), ""), "write -P 0x51 1M 1M")
	must.Get(ceph.RBD(ctx, "snap", "create", "rbd/named@one"))(t)
	use(source("", ceph.ConfigXML(t)), "write -P 0x52 1M 1M")
	snapshot := source(ceph.HostXML(0), "<snapshot name='one'/>")
	use(snapshot+"<readonly/>", "read -P 0x51 1M 1M")
	use(source(ceph.HostXML(0), ""), "read -P 0x52 1M 1M")
	r.wantRefused(ctx, t, []refusedBy{
		{name: "snapshot to be written", source: snapshot, code: 5, says: []string{"rbd:rbd/named@one", "<readonly/>"}},
		{name: "missing snapshot", source: strings.Replace(snapshot, "one", "two", 1) + "<readonly/>", code: 5,
			says: []string{"rbd:rbd/named@two cannot be opened", "does not have it"}, ways: []string{"auto"}},
	})
}

// TestCephStopsAnswering stops a daemon of a cluster while a disk is attached. A detach needs no monitor, but
// waits for the OSD.
func TestCephStopsAnswering(t *testing.T) {
	peer.Long(t, "has a cluster of its own, which stops for seconds")
	t.Parallel()
	ceph := peer.StartCeph(t)
	ctx := bounded(t)
	r := newRBD(ctx, t, ceph, peer.EmbeddedLUKS, "disk")
	r.use(t, ceph.SourceXML("disk", r.cephx(t, ceph.User, ceph.Key)+r.encryption("")))
	before := stateOf(ctx, t, r.q)
	for _, c := range []struct {
		name    string
		suspend func() error
		resume  time.Duration
	}{
		{"monitor", ceph.SuspendMonitor, 0},
		{"store", ceph.SuspendStore, 3 * time.Second},
	} {
		r.attach(ctx, t, "auto")
		r.io(ctx, t, "write -P 0x61 1M 1M")
		must.OK(t, c.suspend())
		if c.resume > 0 {
			time.AfterFunc(c.resume, func() {
				if err := ceph.Resume(); err != nil {
					t.Error(err)
				}
			})
		}
		begin := time.Now()
		tool(ctx, t, r.q.Socket, "detach", remoteTarget).want(t, 0)
		t.Logf("detached after %s while the %s was stopped for %s", time.Since(begin), c.name, c.resume)
		must.OK(t, ceph.Resume())
		wantSame(ctx, t, r.q, before)
	}
}
