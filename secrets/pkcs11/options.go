package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// ErrNotBuilt is wrapped by the error of [New] in a program that was built without
// PKCS#11.
var ErrNotBuilt = errors.New("this program was built without PKCS#11, which needs cgo: build it with make build-pkcs11, or go build -tags pkcs11")

// Mechanism is how a key of the token wraps the values in a directory.
type Mechanism string

// The mechanisms. The package comment says what they write.
const (
	AESGCM        Mechanism = "aes-gcm"
	AESKeyWrapPad Mechanism = "aes-key-wrap-pad"
	AESKeyWrap    Mechanism = "aes-key-wrap"
)

// Options say which token, and what on it. URI is needed.
type Options struct {
	// URI names the module, the token and what on it.
	URI URI
	// Folder is that of wrapped files; "" for data objects.
	Folder string
	// Mechanism is the one of Folder's files; "" for AESGCM.
	Mechanism Mechanism
	// Application is the CKA_APPLICATION of objects that others have made; ""
	// for any.
	Application string
	// PIN returns the PIN; question says what for. The caller of it wipes the
	// Secret. Where it is nil, a token that wants one is [secrets.ErrLocked].
	PIN func(ctx context.Context, question string) (*secrets.Secret, error)
	// Timeout bounds each call, with the time that it takes to answer PIN; 0
	// for 30 seconds.
	Timeout time.Duration
}

// checkTemplate returns an error for a text with other placeholders than
// [storecall.Template] has.
func checkTemplate(text string) error {
	if !storecall.Template(text).Valid() {
		return fmt.Errorf("%w: %q: what stands for something is {uuid}, {usage} and {type}", ErrInvalidURI, text)
	}
	return nil
}
