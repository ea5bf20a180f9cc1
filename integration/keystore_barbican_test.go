package integration

import (
	"testing"

	"github.com/luksplug/luksplug/integration/peer"
	"github.com/luksplug/luksplug/secrets/barbican/barbicantest"
	"github.com/luksplug/luksplug/secrets/storetest"
)

// TestKeystoreBarbican runs the suite of all stores on OpenStack's own server.
func TestKeystoreBarbican(t *testing.T) {
	peer.Long(t, "Barbican takes a minute to be unpacked, and seconds to start")
	t.Parallel()
	up := peer.Barbican(t)
	t.Run("of other programs", func(t *testing.T) {
		t.Parallel()
		barbicantest.TestForeign(t, barbicantest.NewGateway(t, up))
	})
	storetest.Run(t, func(t *testing.T) storetest.Fixture { return barbicantest.Fixture(t, up) })
}
