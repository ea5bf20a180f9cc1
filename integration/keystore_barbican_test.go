package integration

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/internal/testserver/barbicantest"
)

// TestKeystoreBarbican runs the suite of all stores on OpenStack's own server, and attaches a disk from it.
func TestKeystoreBarbican(t *testing.T) {
	peer.Long(t, "Barbican takes a minute to be unpacked, and seconds to start")
	t.Parallel()
	up := peer.Barbican(t)
	t.Run("of other programs", func(t *testing.T) {
		t.Parallel()
		barbicantest.TestForeign(t, barbicantest.NewGateway(t, up))
	})
	t.Run("attach", func(t *testing.T) {
		t.Parallel()
		attachFrom(bounded(t), t, func(ctx context.Context, t *testing.T, id uuid.UUID, passphrase []byte) keystoreCase {
			return filled(ctx, t, "barbican+"+up.String()+"/?timeout=1m&project="+uuid.NewString(), id, passphrase)
		})
	})
	storetest.Run(t, func(t *testing.T) storetest.Fixture { return barbicantest.Fixture(t, up) })
}
