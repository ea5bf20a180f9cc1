package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// ErrNotBuilt is wrapped by the error of [New] in a program built without PKCS#11.
var ErrNotBuilt = errors.New("this program was built without PKCS#11, which needs cgo: build it with make build-pkcs11, or go build -tags pkcs11")

// Mechanism selects how a key of the token wraps the values in a directory.
type Mechanism string

// The mechanisms, whose file formats the package comment documents.
const (
	AESGCM        Mechanism = "aes-gcm"
	AESKeyWrapPad Mechanism = "aes-key-wrap-pad"
	AESKeyWrap    Mechanism = "aes-key-wrap"
)

// Options select the token and the objects on it. URI is required.
type Options struct {
	// URI names the module, the token and the objects.
	URI URI
	// Dir is the directory of wrapped files; "" for data objects.
	Dir string
	// Mechanism wraps the files in Dir; "" means AESGCM.
	Mechanism Mechanism
	// Application is the CKA_APPLICATION of other programs' objects; "" matches
	// any.
	Application string
	// PIN returns the PIN; question names the token. The store wipes the Secret.
	// If PIN is nil, a token that needs one fails with [secrets.ErrLocked].
	PIN func(ctx context.Context, question string) (*secrets.Secret, error)
	// Timeout limits each call, including the time that PIN takes; 0 means 30
	// seconds.
	Timeout time.Duration
}

// checkTemplate returns an error for a text with placeholders that
// [storecall.Template] does not have.
func checkTemplate(text string) error {
	if !storecall.Template(text).Valid() {
		return fmt.Errorf("%w: %q: the placeholders are {uuid}, {usage} and {type}", ErrInvalidURI, text)
	}
	return nil
}
