package libvirtconn

import (
	"errors"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]URI{
		"qemu:///system":                                       {Transport: Unix},
		"qemu:///session":                                      {Transport: Unix, Session: true},
		"qemu:///system?socket=/run/x":                         {Transport: Unix, socket: "/run/x"},
		"qemu+unix:///system?socket=/x%20y":                    {Transport: Unix, socket: "/x y"},
		"qemu:///system?mode=direct":                           {Transport: Unix, mode: "direct"},
		"qemu://host/system":                                   {Transport: TLS, Host: "host"},
		"qemu+tls://host:1/system?pkipath=/p":                  {Transport: TLS, Host: "host", Port: "1", pki: "/p"},
		"qemu+tls://[::1]/system?no_verify=1&no_sanity=1":      {Transport: TLS, Host: "::1", noVerify: true},
		"qemu+tcp://localhost/system?name=qemu:///session":     {Transport: TCP, Host: "localhost", name: "qemu:///session"},
		"qemu+ssh://user@host:22/system/":                      {Transport: SSH, Host: "host", Port: "22", User: "user"},
		"qemu+ssh://host/session?keyfile=/k&no_tty=1&netcat=n": {Transport: SSH, Host: "host", Session: true, keyFile: "/k", noTTY: true, netcat: "n"},
		"qemu+ssh://host/system?proxy=native&command=/c":       {Transport: SSH, Host: "host", proxy: "native", command: "/c"},
	} {
		got, err := Parse(text)
		want.text = text
		if err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%s: %+v, error %v", text, got, err)
		}
		if err == nil && (got.String() != text || got.Local() != (want.Transport == Unix)) {
			t.Errorf("%s: %s, local %v", text, got, got.Local())
		}
	}
}

// TestParseRefused: every refusal names its cause, and none repeats a password.
func TestParseRefused(t *testing.T) {
	t.Parallel()
	for text, c := range map[string]struct {
		kind error
		says string
	}{
		"":                                      {ErrInvalidURI, "write it like"},
		"/run/libvirt":                          {ErrInvalidURI, "write it like"},
		"qemu:system":                           {ErrInvalidURI, "write it like"},
		"qemu:///system#x":                      {ErrInvalidURI, "write it like"},
		"qemu:///":                              {ErrInvalidURI, "use /system or /session"},
		"qemu:///vm1":                           {ErrInvalidURI, `"/vm1"`},
		"qemu+ssh:///system":                    {ErrInvalidURI, "+ssh needs a host"},
		"qemu+unix://host/system":               {ErrInvalidURI, "leave host out"},
		"qemu+pigeon://host/system":             {ErrInvalidURI, "+pigeon"},
		"qemu+://host/system":                   {ErrInvalidURI, "no transport"},
		"qemu+ssh://a:hunter2@host/system":      {ErrInvalidURI, "password"},
		"qemu+ssh://a:hunter2@%zz/system":       {ErrInvalidURI, "escape"},
		"qemu+tls://me@host/system":             {ErrInvalidURI, "only +ssh takes a user"},
		"qemu+ssh://-oProxyCommand=x/system":    {ErrInvalidURI, "name is invalid"},
		"qemu+ssh://-l@host/system":             {ErrInvalidURI, "name is invalid"},
		"qemu:///system?colour=red":             {ErrInvalidURI, "no parameter colour"},
		"qemu:///system?pkipath=/x":             {ErrInvalidURI, "pkipath means nothing with +unix"},
		"qemu:///system?socket=%00":             {ErrInvalidURI, "NUL"},
		"qemu:///system?socket=":                {ErrInvalidURI, "one value"},
		"qemu:///system?socket=/a&socket=/b":    {ErrInvalidURI, "one value"},
		"qemu:///system?mode=fast":              {ErrInvalidURI, "auto, legacy, direct"},
		"qemu+tls://host/system?no_verify=yes":  {ErrInvalidURI, "0 or 1"},
		"qemu:///system?a=%zz":                  {ErrInvalidURI, "parameters"},
		"qemu:///embed":                         {ErrUnsupported, "embedded"},
		"test:///default":                       {ErrUnsupported, `"test"`},
		"xen+ssh://host/system":                 {ErrUnsupported, `"xen"`},
		"qemu+libssh2://host/system":            {ErrUnsupported, "use +ssh"},
		"qemu+ext://host/system?command=/x":     {ErrUnsupported, "use +ssh with ?command="},
		"qemu+tls://host/system?tls_priority=x": {ErrUnsupported, "tls_priority"},
		"qemu:///system?name=test:///default":   {ErrUnsupported, "test:///default"},
	} {
		u, err := Parse(text)
		if u != nil || !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want %q", text, err, c.says)
		}
	}
}

func TestClear(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"qemu:///system": false, "qemu+tls://host/system": false, "qemu+ssh://host/system": false,
		"qemu+tcp://localhost/system": false, "qemu+tcp://127.0.0.2:1/system": false, "qemu+tcp://[::1]/system": false,
		"qemu+tcp://host/system": true, "qemu+tcp://192.0.2.1/system": true,
	} {
		u, err := Parse(text)
		if err != nil || u.Clear() != want {
			t.Errorf("%s: error %v, want %v", text, err, want)
		}
	}
}

func TestSocketDir(t *testing.T) {
	t.Parallel()
	env := func(vars ...string) func(string) string {
		return func(name string) string {
			for _, v := range vars {
				if value, ok := strings.CutPrefix(v, name+"="); ok {
					return value
				}
			}
			return ""
		}
	}
	for _, c := range []struct {
		session bool
		env     func(string) string
		want    string
	}{
		{false, env("XDG_RUNTIME_DIR=/r"), "/run/libvirt"},
		{true, env("XDG_RUNTIME_DIR=/r", "HOME=/h"), "/r/libvirt"},
		{true, env("XDG_RUNTIME_DIR=r", "XDG_CACHE_HOME=/c", "HOME=/h"), "/c/libvirt"},
		{true, env("HOME=/h"), "/h/.cache/libvirt"},
		{true, env(), ""},
	} {
		if got, err := socketDir(c.session, c.env); got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%q, error %v, want %q", got, err, c.want)
		}
	}
}

// TestSSHArguments checks ssh's arguments, and that a shell understands the remote
// script with any paths.
func TestSSHArguments(t *testing.T) {
	t.Parallel()
	for text, c := range map[string]struct {
		before []string
		script string
	}{
		"qemu+ssh://host/system":                                 {[]string{"ssh", "-T", "-e", "none", "--", "host"}, "virt-ssh-helper 'qemu:///system'"},
		"qemu+ssh://u@host:1/session?no_tty=1&no_verify=1":       {[]string{"ssh", "-T", "-e", "none", "-p", "1", "-l", "u", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "--", "host"}, "virt-ssh-helper 'qemu:///session'"},
		"qemu+ssh://host/system?keyfile=/k&command=/bin/my-ssh":  {[]string{"/bin/my-ssh", "-T", "-e", "none", "-i", "/k", "--", "host"}, "libvirt-sock"},
		"qemu+ssh://host/system?socket=/it's%20%24(a)&netcat=n'": {[]string{"ssh", "-T", "-e", "none", "--", "host"}, `s='/it'\''s $(a)'; q=; if 'n'\''' -q`},
		"qemu+ssh://host/session?proxy=netcat":                   {[]string{"ssh", "-T", "-e", "none", "--", "host"}, `${XDG_RUNTIME_DIR:-$HOME/.cache}/libvirt`},
	} {
		u, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		args := u.sshArguments()
		last := args[len(args)-1]
		if !slices.Equal(args[:len(args)-1], c.before) || !strings.HasPrefix(last, "sh -c '") {
			t.Errorf("%s: %q", text, args)
		}
		if shell := u.Shell(); !slices.Equal(shell, c.before) {
			t.Errorf("%s: the shell is %q", text, shell)
		}
		// The remote login shell removes the quotes, and sh reads the rest.
		script, err := exec.Command("sh", "-c", `sh() { printf %s "$2"; }; `+last).Output()
		if err != nil || !strings.Contains(string(script), c.script) {
			t.Errorf("%s: %s, error %v", text, script, err)
		}
		if out, err := exec.Command("sh", "-n", "-c", string(script)).CombinedOutput(); err != nil {
			t.Errorf("%s: %s: %v: %s", text, script, err, out)
		}
	}
}
