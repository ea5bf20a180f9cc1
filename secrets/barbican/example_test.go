package barbican_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"net/url"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/testserver/barbicantest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/barbican"
)

func Example() {
	// A server in memory, instead of https://HOST:9311/.
	server := httptest.NewServer(&barbicantest.Server{Token: "letmein"})
	defer server.Close()
	at, err := url.Parse(server.URL)
	if err != nil {
		fmt.Println(err)
		return
	}
	store, err := barbican.New(at, barbican.Options{
		Token: func() (*secrets.Secret, error) { return secrets.New([]byte("letmein")), nil },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx := context.Background()
	volume := secrets.Document{
		UUID:      uuid.MustParse("0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f"),
		UsageType: secrets.UsageVolume, Usage: "/var/lib/images/vm1.img",
	}
	passphrase := secrets.New([]byte("correct horse"))
	defer passphrase.Wipe()
	fmt.Println(store.Define(ctx, volume), store.Set(ctx, volume.Reference(), passphrase))

	found, err := store.Lookup(ctx, secrets.Reference{Type: secrets.Passphrase, Usage: "/var/lib/images/vm1.img"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer found.Wipe()
	fmt.Println(found, found.Equal(passphrase))
	// Output:
	// <nil> <nil>
	// [redacted] true
}
