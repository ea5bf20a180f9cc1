package integration

import (
	"os"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/memtest"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// TestKeystoreLibvirtLeavesNothing: package keystore has this test for the other stores.
func TestKeystoreLibvirtLeavesNothing(t *testing.T) {
	const socket, secretID = "LUKSPLUG_MEMTEST_SOCKET", "LUKSPLUG_MEMTEST_SECRET"
	if s := memtest.Child(); s != nil {
		id := must.Get(uuid.Parse(os.Getenv(secretID)))(t)
		memtest.Store(t, s, libvirtStore(t, os.Getenv(socket), time.Minute), secrets.Document{UUID: id}.Reference())
		return
	}
	t.Parallel()
	d, v, doc := peer.Libvirtd(t), memtest.NewValue(), secrets.Document{UUID: uuid.New()}
	newLibvirtKeys(t, d).define(t, doc, v.Bytes)
	v.Run(t, socket+"="+d.Socket, secretID+"="+doc.UUID.String())
}
