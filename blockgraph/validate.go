package blockgraph

import (
	"strconv"
	"strings"
	"unicode"
)

// maxName is the longest node-name that QEMU accepts (31 characters and a NUL).
const maxName = 31

// Validate checks the disk by libvirt's rules. The error is an [*InvalidError] or an [*UnsupportedError] that
// names the element, also for a disk that was not read from XML.
func (d *Disk) Validate() error {
	for _, check := range []func() error{d.validateTarget, d.validateImages, d.validateTransient, d.validateFrontend,
		d.validatePassThrough, d.validateDriver, d.validateQueues, d.validateIdentity, d.validateTuning, d.validateThrottling, d.validateAddress} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (d *Disk) validateTarget() error {
	prefix, _, err := ParseTarget(d.Target)
	if err != nil {
		return invalid("disk/target@dev", err.Error())
	}
	return check([]rule{
		{len(namePrefix(d.Target))+len(longestRole) > maxName, invalid, "disk/target@dev",
			"the name " + d.Target + " is too long: QEMU's node names have at most 31 characters"},
		{d.Device == DeviceFloppy && prefix != "fd", invalid, "disk/target@dev", "Invalid floppy device name: " + d.Target + ": use fda or fdb"},
		{(d.Device == DeviceDisk || d.Device == DeviceLUN) && prefix == "fd", invalid, "disk/target@dev",
			"Invalid harddisk device name: " + d.Target + ": use a name such as vda, sda or hda"},
	})
}

func printableText(s string) bool {
	return strings.IndexFunc(s, func(c rune) bool { return c >= unicode.MaxASCII || !unicode.IsPrint(c) }) < 0
}

// strange returns the first character of s, quoted, that is neither alphanumeric nor in allowed; "" for none.
func strange(s, allowed string) string {
	for _, c := range s {
		if !alphanumeric(c) && !strings.ContainsRune(allowed, c) {
			return strconv.Quote(string(c))
		}
	}
	return ""
}

// alphanumeric reports whether c is an ASCII letter or digit.
func alphanumeric(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
