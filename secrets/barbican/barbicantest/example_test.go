package barbicantest_test

import (
	"fmt"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/luksplug/luksplug/secrets/barbican/barbicantest"
	"github.com/luksplug/luksplug/secrets/storetest"
)

func Example() {
	test := func(t *testing.T) {
		server := httptest.NewServer(&barbicantest.Server{})
		defer server.Close()
		at, err := url.Parse(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		f := barbicantest.Fixture(t, at)
		if _, err := f.Store.Lookup(t.Context(), storetest.ByUUID()); err == nil {
			t.Error("found in a project without secrets")
		}
	}
	fmt.Println(testing.RunTests(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{{Name: "store", F: test}}))
	// Output: true
}
