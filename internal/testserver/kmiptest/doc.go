// Package kmiptest tests the key store kmip. It provides certificates, a server
// in this process that is built on kmip-go's server half, PyKMIP's server, which
// shares no code with that, and a proxy in front of either that can hang or
// disconnect.
package kmiptest
