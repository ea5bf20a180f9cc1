package unlock

import (
	"encoding/base64"
	"errors"
	"testing"

	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/secrets"
)

// TestCephKeyAsText: the text that Ceph prints for a key is not the key, and a key
// may be any bytes.
func TestCephKeyAsText(t *testing.T) {
	t.Parallel()
	key := append([]byte{1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 0}, "\x00\xffsixteen bytes."...)
	text := base64.StdEncoding.EncodeToString(key)
	for value, refused := range map[string]bool{
		string(key): false, text: true, text + "\n": true, "": true, "QUJDRA==": false, text[4:]: false,
	} {
		if err := CheckSecret([]byte(value), secrets.Ceph); errors.Is(err, outcome.ErrUnusableSecret) != refused {
			t.Errorf("%q: %v", value, err)
		}
	}
	if err := CheckSecret([]byte(text), secrets.Passphrase); err != nil {
		t.Errorf("as a passphrase: %v", err)
	}
}
