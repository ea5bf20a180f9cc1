package keystore_test

import (
	"errors"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/testserver/kmiptest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keystore"
	"github.com/luksplug/luksplug/secrets/kmip"
)

// The parameters are tested with a server.
func TestKMIPParameters(t *testing.T) {
	t.Parallel()
	a := kmiptest.NewAuthority(t)
	server := kmiptest.NewServer(t, a)
	client := a.Client(t, "client")
	uri := "kmip://" + server.Address + "?cert-file=" + client.Certificate + "&key-file=" + client.Key + "&ca-file=" + a.File
	store := must.Get(keystore.Open(uri+"&server-name=localhost", keystore.Options{}))(t)
	if documents, err := store.(secrets.Keeper).List(t.Context()); err != nil || len(documents) != 0 {
		t.Error(documents, err)
	}
	found, err := keystore.Open(uri+"&find=name:{uuid}", keystore.Options{})
	if _, is := found.(*kmip.Finder); err != nil || !is {
		t.Error(found, err)
	}
	other := must.Get(keystore.Open(uri+"&server-name=elsewhere", keystore.Options{}))(t)
	if _, err := other.(secrets.Keeper).List(t.Context()); !errors.Is(err, secrets.ErrDenied) {
		t.Error(err)
	}
}
