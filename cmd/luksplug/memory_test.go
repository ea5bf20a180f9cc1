package main

import (
	"fmt"
	"os"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/memtest"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keystore"
)

// TestNoValueIsLeftInMemory: after secret get-value, in each form of its output, and after
// set-value, no copy of the value is in the memory of the program.
func TestNoValueIsLeftInMemory(t *testing.T) {
	const store, secretID, file = "LUKSPLUG_MEMTEST_STORE", "LUKSPLUG_MEMTEST_SECRET", "LUKSPLUG_MEMTEST_FILE"
	if s := memtest.Child(); s != nil {
		id := os.Getenv(secretID)
		for _, args := range [][]string{
			{"secret", "get-value", id}, {"secret", "get-value", "--base64", id}, {"--output", "json", "secret", "get-value", id},
			{"secret", "set-value", id, "--file", os.Getenv(file)},
		} {
			null := must.Get(os.OpenFile(os.DevNull, os.O_WRONLY, 0))(t)
			a := &app{streams: streams{in: os.Stdin, out: null, err: os.Stderr}}
			if code := run(t.Context(), a, append([]string{"--keystore", os.Getenv(store)}, args...)); code != exitDone {
				t.Fatalf("%v: exit code %d", args, code)
			}
			must.OK(t, null.Close())
			s.Nothing(t, fmt.Sprint("after ", args))
		}
		return
	}
	v, d, uri := memtest.NewValue(), secrets.Document{UUID: uuid.New()}, "age:"+t.TempDir()
	k := must.Get(keystore.Open(uri, keystore.Options{}))(t).(secrets.Keeper)
	must.OK(t, k.Define(t.Context(), d), k.Set(t.Context(), d.Reference(), secrets.New(append([]byte(nil), v.Bytes...))))
	v.Run(t, store+"="+uri, secretID+"="+d.UUID.String(), file+"="+must.File(t, string(v.Bytes)))
}
