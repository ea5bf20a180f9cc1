package inventory

import "testing"

func TestPCIAddress(t *testing.T) {
	t.Parallel()
	for devfn, want := range map[uint]string{0: "0x0", 8: "0x1", 0xfb: "0x1f.0x3"} {
		if got := pciAddress(devfn); got != want {
			t.Errorf("%#x: %s, want %s", devfn, got, want)
		}
	}
}
