// Package barbicantest is for tests of what uses a Barbican: a small server in
// memory that answers as OpenStack's does, as far as package barbican asks it, and
// what the suite of all key stores needs of a server, be it this one or a real one.
package barbicantest
