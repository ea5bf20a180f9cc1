package keyring

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"

	"github.com/godbus/dbus/v5"

	"github.com/luksplug/luksplug/secrets"
)

// algorithm is the only encrypted session algorithm of the specification (chapter
// "Transfer of Secrets").
const algorithm = "dh-ietf1024-sha256-aes128-cbc-pkcs7"

// prime returns the prime of the second Oakley group (RFC 2409 section 6.2), whose
// generator is 2.
func prime() *big.Int {
	p, _ := new(big.Int).SetString("FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74"+
		"020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437"+
		"4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"+
		"EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE65381FFFFFFFFFFFFFFFF", 16)
	return p
}

const groupLen = 128 // length of a number of the group, in bytes

// exchange is the client's half of the key agreement.
type exchange struct {
	private *big.Int
}

func newExchange() (*exchange, error) {
	private, err := rand.Int(rand.Reader, prime())
	if err != nil {
		return nil, err
	}
	return &exchange{private}, nil
}

// public returns the public key for the service.
func (e *exchange) public() []byte {
	return new(big.Int).Exp(big.NewInt(2), e.private, prime()).FillBytes(make([]byte, groupLen))
}

var errExchange = errors.New("the service's public key in the key agreement is invalid")

// key returns the shared key.
func (e *exchange) key(theirs []byte) ([]byte, error) {
	p := prime()
	y := new(big.Int).SetBytes(theirs)
	// 0, 1 and p-1 would make a predictable key.
	if one := big.NewInt(1); y.Cmp(one) <= 0 || y.Cmp(new(big.Int).Sub(p, one)) >= 0 {
		return nil, errExchange
	}
	shared := new(big.Int).Exp(y, e.private, p).FillBytes(make([]byte, groupLen))
	defer clear(shared)
	return hkdf.Key(sha256.New, shared, nil, "", aes.BlockSize)
}

// wire is a secret on the bus, of the signature (oayays).
type wire struct {
	Session     dbus.ObjectPath
	Parameters  []byte // the IV
	Value       []byte
	ContentType string
}

// session encrypts values between client and service.
type session struct {
	path dbus.ObjectPath
	key  []byte
}

func (s *session) seal(value *secrets.Secret) (wire, error) {
	block, err := aes.NewCipher(s.key)
	if err != nil {
		return wire{}, err
	}
	w := wire{Session: s.path, Parameters: make([]byte, aes.BlockSize), ContentType: "application/octet-stream"}
	_, _ = rand.Read(w.Parameters) // never fails
	err = value.Use(func(b []byte) error {
		pad := aes.BlockSize - len(b)%aes.BlockSize
		w.Value = make([]byte, len(b)+pad)
		copy(w.Value, b)
		copy(w.Value[len(b):], bytes.Repeat([]byte{byte(pad)}, pad))
		cipher.NewCBCEncrypter(block, w.Parameters).CryptBlocks(w.Value, w.Value)
		return nil
	})
	return w, err
}

func (s *session) open(w wire) (*secrets.Secret, error) {
	block, err := aes.NewCipher(s.key)
	if err != nil {
		return nil, err
	}
	n := len(w.Value)
	if len(w.Parameters) != aes.BlockSize || n == 0 || n%aes.BlockSize != 0 {
		return nil, fmt.Errorf("%w: the service's answer is not encrypted as agreed", secrets.ErrDamaged)
	}
	cipher.NewCBCDecrypter(block, w.Parameters).CryptBlocks(w.Value, w.Value)
	defer clear(w.Value)
	pad := int(w.Value[n-1])
	if pad == 0 || pad > aes.BlockSize || !bytes.Equal(w.Value[n-pad:], bytes.Repeat([]byte{byte(pad)}, pad)) {
		return nil, fmt.Errorf("%w: the service's answer is not encrypted as agreed", secrets.ErrDamaged)
	}
	return secrets.New(w.Value[:n-pad]), nil
}
