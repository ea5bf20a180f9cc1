// Package kmiptest is for tests of the key store kmip: certificates, an in-process
// server on kmip-go's own server half, PyKMIP's server, which knows nothing of
// that, and a proxy before either that can hang or go away.
package kmiptest
