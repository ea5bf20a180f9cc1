// Package storetest is the test suite that every key store passes. It checks the
// contract at [secrets.Store], [secrets.Lister] and [secrets.Keeper]. The test of
// a store makes a [Fixture] and calls [Run]; behaviour specific to the store is
// tested in the store's own package. Only tests may import this package.
package storetest
