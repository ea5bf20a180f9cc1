package keystore_test

import (
	"fmt"

	"github.com/luksplug/luksplug/secrets/keystore"
)

func Example() {
	store, err := keystore.Open("dir:/run/keys?encoding=base64", keystore.Options{})
	fmt.Println(store, err)
	_, err = keystore.Open("dir:/run/keys?mode=0600", keystore.Options{})
	fmt.Println(err)
	// Output:
	// dir:/run/keys?encoding=base64 <nil>
	// invalid key store URI: of kind dir: unknown parameter mode
}
