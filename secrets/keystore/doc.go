// Package keystore opens key stores by URI, as the command line and the
// configuration name them. It is apart from package secrets because it imports
// every kind of store, which all import that.
//
//	dir:PATH    a folder with one file per secret (package secrets/dir)
package keystore
