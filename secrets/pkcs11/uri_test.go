package pkcs11_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/secrets/pkcs11"
)

func Example() {
	u, err := pkcs11.ParseURI("pkcs11:object=disk-{uuid};token=The%20disks?pin-source=file:/run/pin&module-path=/usr/lib/softhsm/libsofthsm2.so")
	fmt.Println(u, err)
	fmt.Println(u.PINSource())
	_, err = pkcs11.ParseURI("pkcs11:token=disks?pin-value=1234")
	fmt.Println(err)
	// Output:
	// pkcs11:token=The%20disks;object=disk-{uuid}?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin <nil>
	// /run/pin
	// invalid PKCS#11 URI: every user of the host can see a PIN in a URI: put it into a file and use pin-source
}

func TestParseURI(t *testing.T) {
	t.Parallel()
	for uri, want := range map[string]string{
		"pkcs11:":                            "pkcs11:",
		"pkcs11:?":                           "pkcs11:",
		"pkcs11:slot-id=007":                 "pkcs11:slot-id=7",
		"pkcs11:id=%00%ff;token=a%3bb":       "pkcs11:token=a%3Bb;id=%00%FF",
		"pkcs11:token=a+b&c=d":               "pkcs11:token=a+b&c=d",
		"pkcs11:library-version=2.40":        "pkcs11:library-version=2.40",
		"pkcs11:token=k%C3%A4se":             "pkcs11:token=k%C3%A4se",
		"pkcs11:token=?module-name=softhsm2": "pkcs11:token=?module-name=softhsm2",
	} {
		u, err := pkcs11.ParseURI(uri)
		if err != nil || u.String() != want {
			t.Errorf("%s: %s, %v", uri, u, err)
		}
	}
	for _, uri := range []string{
		"", "pkcs11", "PKCS11:", "file:/x", "pkcs11:token", "pkcs11:token=a;", "pkcs11:token=a;token=b", "pkcs11:tokn=a", "pkcs11:x-mine=a", "pkcs11:token=a b",
		"pkcs11:token=a/b", "pkcs11:token=ä", "pkcs11:token=%", "pkcs11:token=%0x", "pkcs11:token=\xff", "pkcs11:slot-id=-1", "pkcs11:slot-id=x",
		"pkcs11:library-version=a", "pkcs11:library-version=1.", "pkcs11:library-version=1.2.3", "pkcs11:library-version=256", "pkcs11:type=cert", "pkcs11:object={user}",
		"pkcs11:?module-path=relative.so", "pkcs11:?module-path=", "pkcs11:?module-name=../x", "pkcs11:?module-name=a.so", "pkcs11:?module-path=/a%00",
		"pkcs11:?pin-source=|/bin/cat", "pkcs11:?pin-source=", "pkcs11:?pin-source=a&pin-source=b", "pkcs11:?pin-source=a;b", "pkcs11:?x=y", "pkcs11:?a", "pkcs11:?pin-value=",
		"pkcs11:pin-value=hunter2", "pkcs11:?pin-value=hunter2",
	} {
		_, err := pkcs11.ParseURI(uri)
		if !errors.Is(err, pkcs11.ErrInvalidURI) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", uri, err)
		}
	}
	for source, want := range map[string]string{
		"/run/pin": "/run/pin", "file:/run/pin": "/run/pin", "file:///run/pin": "/run/pin", "fd:3": "fd:3", "file://host/pin": "//host/pin",
	} {
		u, err := pkcs11.ParseURI("pkcs11:?pin-source=" + source)
		if err != nil || u.PINSource() != want {
			t.Errorf("%s: %q, %v", source, u.PINSource(), err)
		}
	}
}

// FuzzParseURI checks that String writes a URI that parses to the same.
func FuzzParseURI(f *testing.F) {
	for _, uri := range []string{
		"pkcs11:", "pkcs11:token=a;object=b?pin-source=file:/x", "pkcs11:id=%00%FF;slot-id=12;library-version=2.1", "pkcs11:?module-path=/a%3Fb&module-name=c",
	} {
		f.Add(uri)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := pkcs11.ParseURI(s)
		if err != nil {
			if !errors.Is(err, pkcs11.ErrInvalidURI) {
				t.Fatal(err)
			}
			return
		}
		again, err := pkcs11.ParseURI(u.String())
		if err != nil || again.String() != u.String() || again.PINSource() != u.PINSource() {
			t.Fatalf("%q is written %q, which reads as %q, %v", s, u, again, err)
		}
	})
}
