package peer

import (
	"encoding/json"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
)

func TestMatrixQEMU(t *testing.T) {
	Long(t, "starts the QEMU that TestAttachToVersions works with in every run")
	t.Parallel()
	ctx := testContext(t)
	q := Start(t, Options{Binary: MatrixQEMU(t, "bookworm"), Guest: true, RootPorts: 1})
	reply, err := q.Query(ctx, "query-version", nil)
	must.OK(t, err)
	var version struct{ QEMU struct{ Major, Minor int } }
	if err := json.Unmarshal(reply, &version); err != nil || version.QEMU.Major != 7 || version.QEMU.Minor != 2 {
		t.Errorf("QEMU of bookworm is %s, error %v; want 7.2", reply, err)
	}
	plugByHand(ctx, t, q, plugs()[0].device)
}
