// Package similar finds the word that was probably meant by a misspelt one.
package similar

import "strings"

// Misspelt returns the known name that was probably meant by another one: it differs in case, by one letter, or, if it is
// long, by two. It returns "" for none.
func Misspelt(word string, known []string) string {
	const long, longest = 6, 64
	if len(word) > longest {
		return ""
	}
	best, least := "", 3
	for _, k := range known {
		n := Distance(strings.ToLower(word), strings.ToLower(k))
		if n < least && (n <= 1 || min(len(word), len(k)) >= long) {
			best, least = k, n
		}
	}
	return best
}

// Distance returns how many letters are added, removed, replaced, or swapped with the next one, from a to b.
func Distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		for j := range rows[i] {
			switch {
			case i == 0:
				rows[i][j] = j
				continue
			case j == 0:
				rows[i][j] = i
				continue
			}
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
