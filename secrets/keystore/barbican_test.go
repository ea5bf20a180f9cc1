package keystore_test

import (
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/internal/testserver/barbicantest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keystore"
)

func TestBarbican(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(&barbicantest.Server{Token: "letmein", Password: "open sesame"})
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it logs that the client does not trust it
	server.StartTLS()
	t.Cleanup(server.Close)
	ca := must.File(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	token, password := must.File(t, "letmein\n"), must.File(t, "open sesame")
	base := "barbican+" + server.URL + "/"
	d := secrets.Document{UUID: uuid.New()}
	first := open(t, base+"?token-file="+token+"&ca-file="+ca+"&encoding=to-hex")
	k := first.(secrets.Keeper)
	must.OK(t, errors.Join(k.Define(t.Context(), d), k.Set(t.Context(), d.Reference(), secrets.New([]byte("00ff")))))
	if first.String() != base+"?encoding=to-hex" {
		t.Error(first)
	}
	for _, wrong := range []string{"0", "0g", "FF", "f f"} { // encoding would not restore them
		if err := k.Set(t.Context(), d.Reference(), secrets.New([]byte(wrong))); err == nil || !strings.Contains(err.Error(), "lower case") {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	keystone := "&keystone=" + server.URL + "/v3&password-file=" + password
	for _, parameters := range []string{
		"?timeout=1m&token-file=" + token,
		"?application-credential=a" + keystone,
		"?user=u&project=p" + keystone,
	} {
		store := open(t, base+parameters+"&ca-file="+ca)
		// Application credentials imply their project.
		found, err := store.Lookup(t.Context(), d.Reference())
		if err != nil || !found.Equal(secrets.New([]byte("\x00\xff"))) || store.String() != base {
			t.Errorf("%s: %v, error %v", parameters, store, err)
		}
	}
	storetest.Fails(t, open(t, base+"?token-file="+token), d.Reference(), secrets.ErrUnreachable, "certificate")
	storetest.Fails(t, open(t, base+"?token-file=/nonexistent&ca-file="+ca), d.Reference(), secrets.ErrLocked, "")
	for _, parameters := range []string{
		"?token=hunter2", "?password=hunter2", "?token-file=/x" + keystone, "?keystone=" + server.URL + "/v3", "?user=u&project=p",
		"?application-credential=a&password-file=/x", "?password-file=/x", "?application-credential=a&user=u" + keystone,
		"?ca-file=/nonexistent", "?ca-file=" + token, "?timeout=0", "?application-credential=a&password-file=/x&keystone=http://example.org/v3",
		"?application-credential=a&password-file=/x&keystone=https://u:hunter2@example.org/v3", "?application-credential=a&password-file=/x&keystone=%3A",
	} {
		if store, err := keystore.Open(base+parameters, keystore.Options{}); !errors.Is(err, keystore.ErrInvalidURI) || store != nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, %v", parameters, store, err)
		}
	}
}
