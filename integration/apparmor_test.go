package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// confined is a host with AppArmor profiles: libvirt's own program makes them, and
// AppArmor's parser reads them, without a kernel that enforces them.
type confined struct {
	*hookHost
	dir string // holds the profiles, and the output of the parser
}

// confine runs a command where the host's profiles are those of dir, and no profile is
// loaded into the kernel: the parser writes the rules of what it would load to a file.
const confine = `set -e
dir=$1; shift
if [ ! -e "$dir/profiles" ]; then
	mkdir "$dir/profiles"
	cp -r /etc/apparmor.d/. "$LIBVIRT/etc/apparmor.d/." "$dir/profiles/"
	cp "$(command -v apparmor_parser)" "$dir/parser"
	printf '#!/bin/sh\nexec %s/parser --skip-kernel-load --skip-cache --dump=rule-exprs "$@" > "%s/rules" 2>&1\n' "$dir" "$dir" > "$dir/wrapper"
	chmod 755 "$dir/wrapper"
fi
mount --bind "$dir/profiles" /etc/apparmor.d
mount --bind "$dir/wrapper" "$(command -v apparmor_parser)"
exec "$@"
`

func newConfined(t *testing.T) *confined {
	t.Helper()
	must.Have(t, "apparmor_parser")
	return &confined{newHookHost(t, ""), shortDir(t, "")}
}

// do runs a command with standard input on the host.
func (c *confined) do(ctx context.Context, t *testing.T, input string, args ...string) result {
	t.Helper()
	cmd := c.Inside(ctx, "unshare", append([]string{"--mount", "sh", "-c", confine, "sh", c.dir}, args...)...)
	cmd.Env = append(os.Environ(), "LIBVIRT="+c.Root())
	cmd.Stdin = strings.NewReader(input)
	return run(ctx, t, cmd)
}

// helper is the program by which libvirt makes, changes and removes profiles.
func (c *confined) helper(ctx context.Context, t *testing.T, xml, uuid string, args ...string) {
	t.Helper()
	c.do(ctx, t, xml, append([]string{"/usr/lib/libvirt/virt-aa-helper", "-u", "libvirt-" + uuid}, args...)...).want(t, 0)
}

// hook runs luksplug as libvirt's hook.
func (c *confined) hook(ctx context.Context, t *testing.T, xml, operation string) {
	t.Helper()
	c.do(ctx, t, xml, luksplug, "hook", "vm1", operation, "begin", "-").want(t, 0)
}

// rules returns the paths of a profile's rules, as the parser reads them, that hold a text,
// each with its permissions.
func (c *confined) rules(ctx context.Context, t *testing.T, uuid, text string) string {
	t.Helper()
	c.do(ctx, t, "", "apparmor_parser", "-r", "/etc/apparmor.d/libvirt/libvirt-"+uuid).want(t, 0)
	var out []string
	for line := range strings.Lines(string(must.Get(os.ReadFile(filepath.Join(c.dir, "rules")))(t))) {
		if rule, ours := strings.CutPrefix(line, "rule: "); ours && strings.Contains(rule, text) {
			path, _, _ := strings.Cut(rule, " ")
			out = append(out, path)
		}
	}
	return strings.Join(out, "\n")
}

// TestAppArmorProfileOfOneDomain: what a domain's QEMU opens for luksplug is in that
// domain's own profile, before QEMU starts; it stays when libvirt writes its list of files
// anew, and goes with the domain. The profile of another domain has none of it.
func TestAppArmorProfileOfOneDomain(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	c := newConfined(t)
	const other = "4e3fce45-4f53-4fa7-bb32-11f34168b82b"
	volume := userVolume(ctx, t, peer.DetachedRaw)
	d := c.define(ctx, t, plugged{volume: volume, target: "vdb", cold: true})
	label := func(uuid string) string {
		return "<seclabel type='dynamic' model='apparmor' relabel='yes'><label>libvirt-" + uuid + "</label><imagelabel>libvirt-" + uuid + "</imagelabel></seclabel>"
	}
	plain := virsh(ctx, t, c.Libvirt, "dumpxml", d.Name)
	at := strings.Index(plain, "<seclabel")
	if at < 0 {
		t.Fatalf("no <seclabel> in %s", plain)
	}
	end := at + strings.Index(plain[at:], "/>") + len("/>")
	xml := plain[:at] + label(hookUUID) + plain[end:]
	wanted := []string{hook.MonitorDir + "/" + hookUUID + "/qmp", "/" + hookUUID + "/vdb/[^/\\x00][^/\\x00]*", "/" + hookUUID + "/vdb\\.sock", strings.ReplaceAll(volume.Payload, ".", "\\.")}
	has := func(when string, uuid string, all bool) {
		t.Helper()
		for _, path := range wanted {
			if rules := c.rules(ctx, t, uuid, path); (rules != "") != all {
				t.Errorf("%s: the rules of %s for %s are %q", when, uuid, path, rules)
			}
		}
	}
	for _, start := range []string{"-c", "-r"} { // libvirt keeps the profile for the next start
		c.helper(ctx, t, xml, hookUUID, start)
		c.helper(ctx, t, strings.ReplaceAll(xml, hookUUID, other), other, start)
		has("before the hook", hookUUID, false)
		c.hook(ctx, t, xml, "start")
		has("after the hook", hookUUID, true)
		c.helper(ctx, t, xml, hookUUID, "-r", "-F", "/srv/another.img")
		has("after libvirt has added a file", hookUUID, true)
		c.helper(ctx, t, xml, hookUUID, "-r")
		has("after libvirt has written its list anew", hookUUID, true)
		has("the other domain", other, false)
		// A domain's XML may name the profile of another one.
		c.hook(ctx, t, plain[:at]+label(other)+plain[end:], "start")
		has("named by another domain", other, false)
		c.hook(ctx, t, xml, "stopped")
		has("after the end", hookUUID, false)
		for _, uuid := range []string{hookUUID, other} {
			c.helper(ctx, t, "", uuid, "-D")
		}
		if left := must.Get(filepath.Glob(filepath.Join(c.dir, "profiles", "libvirt", "libvirt-*.*")))(t); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}
