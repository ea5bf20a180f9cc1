package hotplug

import "testing"

// TestFaultIn: a fault ends in every series that was mended, and for good in the
// first version without it.
func TestFaultIn(t *testing.T) {
	t.Parallel()
	f := fault{mended: []string{"7.2.22", "10.0.7"}}
	f.feature.Since = "10.2"
	for version, want := range map[string]bool{
		"6.2.0": true, "7.2.21 (Debian 1:7.2.21)": true, "7.2.22": false, "7.2.30": false, "8.2.9": true, "9.2.4": true,
		"10.0.2": true, "10.0.7": false, "10.0.13 (x)": false, "10.1.0": true, "10.2.0": false, "11.1.3": false,
	} {
		if got := f.in(version); got != want {
			t.Errorf("%s has the fault: %v", version, got)
		}
	}
}
