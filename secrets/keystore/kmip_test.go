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

func TestKMIP(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]string{
		"kmip://keys.example.org":                                          "kmip://keys.example.org:5696",
		"kmip://keys.example.org:1234/":                                    "kmip://keys.example.org:1234",
		"kmip://[::1]:1234?cert-file=/a&key-file=/b&ca-file=/c&timeout=5s": "kmip://[::1]:1234",
		"kmip://h?attributes=custom&server-name=x":                         "kmip://h:5696",
		"kmip://h?find=name:disks/{uuid}":                                  "kmip://h:5696",
		"kmip://h?find=x-disk:%7Busage%7D&encoding=base64":                 "kmip://h:5696?encoding=base64",
		"kmip://192.0.2.1?cert-file=%2Fa%20b%2Fclient.crt&key-file=%2F":    "kmip://192.0.2.1:5696",
	} {
		store, err := keystore.Open(uri, keystore.Options{})
		if err != nil || store.String() != want {
			t.Errorf("%s: %v, %v", uri, store, err)
		}
	}
	for _, uri := range []string{
		"kmip:", "kmip:host", "kmip://", "kmip://h/path", "kmip://u:hunter2@h", "kmip://h:0", "kmip://h:70000", "kmip://h:x",
		"kmip://h?cert-file=/a", "kmip://h?key-file=/a", "kmip://h?attributes=none", "kmip://h?find=disk", "kmip://h?timeout=0", "kmip://h?password=x",
	} {
		if _, err := keystore.Open(uri, keystore.Options{}); !errors.Is(err, keystore.ErrInvalidURI) {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

// What the parameters mean, at a server.
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
