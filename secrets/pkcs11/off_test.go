//go:build !pkcs11 || !cgo

package pkcs11_test

import (
	"errors"
	"testing"

	"github.com/luksplug/luksplug/secrets/pkcs11"
)

func TestNotBuilt(t *testing.T) {
	t.Parallel()
	if store, err := pkcs11.New(pkcs11.Options{}); store != nil || !errors.Is(err, pkcs11.ErrNotBuilt) {
		t.Error(store, err)
	}
}
