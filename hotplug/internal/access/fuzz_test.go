package access

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
)

// FuzzAppArmor: a path is granted by exactly one line that holds it unchanged, or refused, and
// revoking it restores the profile.
func FuzzAppArmor(f *testing.F) {
	f.Add("  \"/var/lib/libvirt/images/vm1.img\" rwk,\n", "/var/lib/luksplug/images/a b.img", "vdb", true)
	f.Add("", "/ü", "vda", false)
	f.Add("# luksplug\n  # luksplug vdb\n", "/a,\n  \"/etc/shadow\" rw", "sdaa", true)
	f.Add("  \"/a\" rk, # luksplug vdc\n", "/a\x00\u00a0\u2028", "vdb", false)
	f.Add("  \"/a\" rk,", "/@{PROC}/x", "hdb", false)
	names := regexp.MustCompile(`^[a-z]{2,6}$`)
	f.Fuzz(func(t *testing.T, old, path, target string, write bool) {
		if !names.MatchString(target) || strings.Contains(old, ours+target) {
			return
		}
		const profile = "libvirt-6695eb01-f6a4-8304-79aa-97f2502e193f"
		a := AppArmor{Dir: t.TempDir(), Parser: "true"}
		file := filepath.Join(a.Dir, profile+".files")
		must.Write(t, file, old)
		content := func() string { return string(must.Get(os.ReadFile(file))(t)) }
		if err := a.Grant(t.Context(), profile, target, []File{{Path: path, Write: write}}); err != nil {
			if content() != old {
				t.Errorf("refused, and changed to %q", content())
			}
			return
		}
		rights := "rk"
		if write {
			rights = "rwk"
		}
		begun := old
		if begun != "" && !strings.HasSuffix(begun, "\n") {
			begun += "\n"
		}
		if want := begun + `  "` + path + `" ` + rights + "," + ours + target + "\n"; content() != want {
			t.Errorf("granted %q:\ngot  %q\nwant %q", path, content(), want)
		}
		_, err := a.Revoke(t.Context(), profile, func(name string) bool { return name == target })
		must.OK(t, err)
		if content() != begun {
			t.Errorf("revoked: %q, want %q", content(), begun)
		}
	})
}
