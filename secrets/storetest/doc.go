// Package storetest is the test suite that every key store passes: the contract
// at [secrets.Store], [secrets.Lister] and [secrets.Keeper], executed. A store's
// own test makes a [Fixture] and calls [Run]; what is particular to that store it
// tests beside.
package storetest
