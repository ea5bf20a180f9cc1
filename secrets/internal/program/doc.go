// Package program runs a program that writes a secret to its standard output, for
// key stores that get secrets from programs. There is no shell, standard input is
// empty, and the output is read directly into memory that is wiped.
package program
