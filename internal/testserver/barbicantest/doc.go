// Package barbicantest tests users of a Barbican. [Server] is a small server in
// memory that answers as OpenStack's does, as far as package barbican queries it;
// [Gateway] and [Fixture] give the test suite of all key stores what it needs of
// a server, of this one or of a real one. Only tests may import this package: it
// imports the store that it tests.
package barbicantest
