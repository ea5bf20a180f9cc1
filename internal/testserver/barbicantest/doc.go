// Package barbicantest tests clients of Barbican. [Server] is a small server in
// memory that implements the part of OpenStack's API that package barbican uses;
// [Gateway] and [Fixture] connect the test suite of all key stores to this server
// or to a real one. Only tests may import this package: it imports the store that
// it tests.
package barbicantest
