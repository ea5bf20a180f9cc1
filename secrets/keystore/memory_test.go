package keystore_test

import (
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/memtest"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/testserver/barbicantest"
	"github.com/luksplug/luksplug/internal/testserver/kmiptest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keystore"
)

// memoryStores make a store of each kind that needs no program, and return its URI. What
// has no document is put in by put. The others are tested in their own packages, and libvirt
// in the integration tests.
var memoryStores = map[string]func(t *testing.T, d secrets.Document, value []byte) (uri string){
	"dir": func(t *testing.T, d secrets.Document, value []byte) string {
		return put(t, "dir:"+t.TempDir(), d, value)
	},
	"dir in hex": func(t *testing.T, d secrets.Document, value []byte) string {
		dir := t.TempDir()
		put(t, "dir:"+dir, d, hex.AppendEncode(nil, value))
		return "dir:" + dir + "?encoding=hex"
	},
	"dir in base64": func(t *testing.T, d secrets.Document, value []byte) string {
		return put(t, "dir:"+t.TempDir()+"?encoding=base64", d, value)
	},
	"vm": func(t *testing.T, d secrets.Document, value []byte) string {
		return put(t, "vm:"+must.Dir(t, "/dev/shm")+"?uuid="+one, d, value)
	},
	"age": func(t *testing.T, d secrets.Document, value []byte) string {
		return put(t, "age:"+t.TempDir(), d, value)
	},
	"age hybrid": func(t *testing.T, d secrets.Document, value []byte) string {
		return put(t, "age:"+t.TempDir()+"?key=hybrid", d, value)
	},
	"exec": func(t *testing.T, _ secrets.Document, value []byte) string {
		return "exec:cat " + must.File(t, string(value))
	},
	"credentials": func(t *testing.T, d secrets.Document, value []byte) string {
		dir := t.TempDir()
		must.Write(t, filepath.Join(dir, d.UUID.String()), string(value))
		t.Setenv("CREDENTIALS_DIRECTORY", dir)
		return "credentials:"
	},
	"kmip": func(t *testing.T, d secrets.Document, value []byte) string {
		return put(t, kmipURI(t), d, value)
	},
	"kmip, custom attributes": func(t *testing.T, d secrets.Document, value []byte) string {
		return put(t, kmipURI(t)+"&attributes=custom", d, value)
	},
	"barbican": func(t *testing.T, d secrets.Document, value []byte) string {
		server := httptest.NewUnstartedServer(&barbicantest.Server{Token: "letmein", Password: "open sesame"})
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.StartTLS()
		t.Cleanup(server.Close)
		ca := must.File(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
		return put(t, "barbican+"+server.URL+"/?token-file="+must.File(t, "letmein")+"&ca-file="+ca, d, value)
	},
	"barbican in clear": func(t *testing.T, d secrets.Document, value []byte) string {
		server := httptest.NewServer(&barbicantest.Server{Token: "letmein", Password: "open sesame"})
		t.Cleanup(server.Close)
		return put(t, "barbican+"+server.URL+"/?token-file="+must.File(t, "letmein"), d, value)
	},
}

func kmipURI(t *testing.T) string {
	a := kmiptest.NewAuthority(t)
	client := a.Client(t, "client")
	return "kmip://" + kmiptest.NewServer(t, a).Address + "?cert-file=" + client.Certificate + "&key-file=" + client.Key + "&ca-file=" + a.File
}

// put defines the secret in the store.
func put(t *testing.T, uri string, d secrets.Document, value []byte) string {
	t.Helper()
	k := open(t, uri).(secrets.Keeper)
	must.OK(t, k.Define(t.Context(), d), k.Set(t.Context(), d.Reference(), secrets.New(append([]byte(nil), value...))))
	return uri
}

// TestNoValueIsLeftInMemory: after the use of a secret, no copy of its value is in the
// memory of the process, without waiting for a garbage collection.
func TestNoValueIsLeftInMemory(t *testing.T) {
	for name, fill := range memoryStores {
		t.Run(name, func(t *testing.T) {
			if s := memtest.Child(); s != nil {
				id := must.Get(uuid.Parse(os.Getenv("LUKSPLUG_MEMTEST_SECRET")))(t)
				store := must.Get(keystore.Open(os.Getenv("LUKSPLUG_MEMTEST_URI"), keystore.Options{}))(t)
				memtest.Store(t, s, store, secrets.Document{UUID: id}.Reference())
				return
			}
			v, d := memtest.NewValue(), secrets.Document{UUID: uuid.New()}
			uri := fill(t, d, v.Bytes)
			v.Run(t, "LUKSPLUG_MEMTEST_URI="+uri, fmt.Sprintf("LUKSPLUG_MEMTEST_SECRET=%s", d.UUID))
		})
	}
}
