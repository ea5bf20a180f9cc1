package check

import "testing"

// TestBugIn: a bug ends in every series with a fix, and in the first version without it.
func TestBugIn(t *testing.T) {
	t.Parallel()
	b := bug{fixed: []string{"7.2.22", "10.0.7"}}
	b.feature.Since = "10.2"
	for version, want := range map[string]bool{
		"6.2.0": true, "7.2.21 (Debian 1:7.2.21)": true, "7.2.22": false, "7.2.30": false, "8.2.9": true, "9.2.4": true,
		"10.0.2": true, "10.0.7": false, "10.0.13 (x)": false, "10.1.0": true, "10.2.0": false, "11.1.3": false,
	} {
		if got := b.in(version); got != want {
			t.Errorf("%s has the bug: %v", version, got)
		}
	}
}
