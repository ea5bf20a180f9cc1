package age

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"

	"filippo.io/age"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/luksplug/luksplug/secrets"
)

// The sizes of a payload (age-encryption.org/v1, section "Payload"), in bytes.
const (
	payloadNonce = 16
	chunkSize    = 64 << 10
	sealedChunk  = chunkSize + chacha20poly1305.Overhead
)

var errPayload = errors.New("its payload is cut off or was changed")

// open returns the content of the age file b. The library's own reader is not used,
// because it leaves the content in buffers that cannot be wiped.
func open(b []byte, keys ...age.Identity) (*secrets.Secret, error) {
	b, err := dearmored(b)
	if err != nil {
		return nil, err
	}
	header, payload, err := split(b)
	if err != nil {
		return nil, err
	}
	fileKey, err := age.DecryptHeader(header, keys...)
	if err != nil {
		return nil, err
	}
	defer clear(fileKey)
	if len(payload) < payloadNonce {
		return nil, errPayload
	}
	aead, err := payloadCipher(fileKey, payload[:payloadNonce])
	if err != nil {
		return nil, err
	}
	return openChunks(aead, payload[payloadNonce:])
}

// seal returns value as an age file for the recipients. The library's own writer leaves
// the value in a buffer when that grows.
func seal(value []byte, recipients []age.Recipient) ([]byte, error) {
	var fileKey []byte
	watched := make([]age.Recipient, len(recipients))
	for i, r := range recipients {
		watched[i] = watchedRecipient{r, &fileKey}
	}
	var out bytes.Buffer
	if _, err := age.Encrypt(&out, watched...); err != nil { // writes the header and the nonce
		return nil, err
	}
	defer clear(fileKey)
	begun := out.Bytes()
	aead, err := payloadCipher(fileKey, begun[len(begun)-payloadNonce:])
	if err != nil {
		return nil, err
	}
	chunks := max(1, (len(value)+chunkSize-1)/chunkSize)
	sealed := make([]byte, len(begun), len(begun)+len(value)+chunks*aead.Overhead())
	copy(sealed, begun)
	nonce := make([]byte, chacha20poly1305.NonceSize)
	for number := range chunks {
		n := min(len(value), chunkSize)
		setNonce(nonce, number, number == chunks-1)
		sealed = aead.Seal(sealed, nonce, value[:n], nil)
		value = value[n:]
	}
	return sealed, nil
}

// watchedRecipient copies the key of the file that is wrapped to it.
type watchedRecipient struct {
	age.Recipient
	fileKey *[]byte
}

// WrapWithLabels implements [age.RecipientWithLabels].
func (r watchedRecipient) WrapWithLabels(fileKey []byte) ([]*age.Stanza, []string, error) {
	*r.fileKey = append((*r.fileKey)[:0], fileKey...)
	if labelled, ok := r.Recipient.(age.RecipientWithLabels); ok {
		return labelled.WrapWithLabels(fileKey)
	}
	stanzas, err := r.Wrap(fileKey)
	return stanzas, nil, err
}

// payloadCipher returns the cipher of a payload.
func payloadCipher(fileKey, nonce []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, fileKey, nonce, "payload", chacha20poly1305.KeySize)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	return chacha20poly1305.New(key)
}

// setNonce sets the nonce of a chunk: its number, in 11 bytes of which [secrets.MaxLen]
// needs the last 4, and the flag of the last one.
func setNonce(nonce []byte, number int, last bool) {
	binary.BigEndian.PutUint32(nonce[len(nonce)-5:], uint32(number))
	if last {
		nonce[len(nonce)-1] = 1
	}
}

// dearmored returns an age file, which may be armored, without the armor.
func dearmored(b []byte) ([]byte, error) {
	if !isArmored(b) {
		return b, nil
	}
	return io.ReadAll(unarmored(b))
}

// split returns the header, which ends with the line that begins with "---", and the
// payload.
func split(b []byte) (header, payload []byte, err error) {
	begin := bytes.Index(b, []byte("\n--- "))
	if begin < 0 {
		return nil, nil, errors.New("it has no header of age")
	}
	length := bytes.IndexByte(b[begin+1:], '\n')
	if length < 0 {
		return nil, nil, errors.New("it has no header of age")
	}
	end := begin + 1 + length + 1
	return b[:end], b[end:], nil
}

// openChunks decrypts the chunks of a payload into one buffer, which it clears unless
// it becomes the secret. Only the last chunk, which a flag in its nonce marks, may be
// short, and it is empty only if it is the first one.
func openChunks(aead cipher.AEAD, sealed []byte) (*secrets.Secret, error) {
	if len(sealed) > secrets.MaxLen+sealedChunk {
		return nil, secrets.ErrTooLong
	}
	plain := make([]byte, 0, len(sealed))
	fail := func() (*secrets.Secret, error) {
		clear(plain[:cap(plain)])
		return nil, errPayload
	}
	nonce := make([]byte, chacha20poly1305.NonceSize)
	for number := 0; ; number++ {
		n := min(len(sealed), sealedChunk)
		last := n == len(sealed)
		if n < aead.Overhead() || last && n == aead.Overhead() && number > 0 {
			return fail()
		}
		setNonce(nonce, number, last)
		opened, err := aead.Open(plain, nonce, sealed[:n], nil)
		if err != nil {
			return fail()
		}
		plain, sealed = opened, sealed[n:]
		if last {
			return secrets.New(plain), nil
		}
	}
}
