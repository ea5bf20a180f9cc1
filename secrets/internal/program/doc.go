// Package program runs a program that writes a secret to its standard output, for
// the key stores that are such programs. There is no shell, standard input is
// empty, and what the program writes goes straight to memory that is wiped.
package program
