// Package qemuimg has commands of qemu-img for messages.
package qemuimg

import (
	"strings"

	"github.com/luksplug/luksplug/internal/shell"
)

// ConvertOld returns the command that makes a qcow2 image with LUKS, NEW, from one with the
// old encryption of qcow2 (AES-CBC). OLD-KEY and NEW-KEY are files with the passphrases.
func ConvertOld(image string) string {
	from := "driver=qcow2,encrypt.key-secret=a,file.filename=" + strings.ReplaceAll(image, ",", ",,")
	return "qemu-img convert --object secret,id=a,file=OLD-KEY --object secret,id=b,file=NEW-KEY --image-opts " + shell.Quote(from) +
		" -O qcow2 -o encrypt.format=luks,encrypt.key-secret=b NEW"
}
