// Package certfile reads files with certificates and keys, within a bound and without
// waiting for pipes: the directories that they are in may be another user's.
package certfile

import (
	"crypto/tls"

	"github.com/luksplug/luksplug/internal/fsutil"
)

// limit bounds the size of a file in bytes. A bundle of all public authorities has 0.3 MB.
const limit = 16 << 20

// Read returns the content of a file. The errors are those of [fsutil.ReadLinked].
func Read(path string) ([]byte, error) { return fsutil.ReadLinked(path, limit) }

// KeyPair is [tls.LoadX509KeyPair] by [Read]. It overwrites the bytes of the key that it has
// read.
func KeyPair(certificate, key string) (tls.Certificate, error) {
	public, err := Read(certificate)
	if err != nil {
		return tls.Certificate{}, err
	}
	private, err := Read(key)
	if err != nil {
		return tls.Certificate{}, err
	}
	defer clear(private)
	return tls.X509KeyPair(public, private)
}
