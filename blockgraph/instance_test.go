package blockgraph

import "testing"

// TestInstances: the names of both instances of a disk are told apart, and have the same length.
func TestInstances(t *testing.T) {
	t.Parallel()
	other := OtherInstance("vdb")
	if OtherInstance(other) != "vdb" || TargetOf(other) != "vdb" || TargetOf("vdb") != "vdb" || other == "vdb" {
		t.Errorf("the other instance is %s, of %s, and its other one %s", other, TargetOf(other), OtherInstance(other))
	}
	for _, role := range []Role{RoleLUKS, RolePayloadStorage, RoleHeaderStorage.at(2), RoleSecret} {
		first, second := Name("vdb", role), Name(other, role)
		if first == second || len(first) != len(second) {
			t.Errorf("%s and %s", first, second)
		}
		for name, want := range map[string]string{first: "vdb", second: other} {
			if instance, got, ok := ParseName(name); !ok || instance != want || got != role {
				t.Errorf("%s: %s, %s, %t", name, instance, got, ok)
			}
		}
	}
	for _, name := range []string{"luksplug.", "luksplug.vdb-", "luksplug.vdb.2-luks", "luksplug-vdb.2-luks", "luksplug.other-luks"} {
		if instance, _, ok := ParseName(name); ok {
			t.Errorf("%s is of %s", name, instance)
		}
	}
}
