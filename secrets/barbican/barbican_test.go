package barbican_test

import (
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/internal/testserver/barbicantest"
)

// serve serves a server in memory.
func serve(t *testing.T, s *barbicantest.Server) *url.URL {
	t.Helper()
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	u := must.Get(url.Parse(h.URL))(t)
	return u
}

func TestStore(t *testing.T) {
	t.Parallel()
	up := serve(t, &barbicantest.Server{})
	storetest.Run(t, func(t *testing.T) storetest.Fixture { return barbicantest.Fixture(t, up) })
}
