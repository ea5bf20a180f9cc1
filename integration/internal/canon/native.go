package canon

import (
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// frontends match the drivers of disks.
var frontends = regexp.MustCompile(`^(virtio-blk-|vhost-user-blk-|scsi-(hd|cd|block|generic)$|ide-(hd|cd)$|usb-storage$|floppy$)`)

// Native returns the form of the only disk in arguments that libvirt made, as virsh domxml-to-native does. It
// ignores disks with a device whose name begins with others.
func Native(arguments, others string) (Form, error) {
	options, err := parseArguments(arguments)
	if err != nil {
		return Form{}, err
	}
	p := parts{controllers: map[string]string{}}
	for _, o := range options {
		if err := p.take(o, others); err != nil {
			return Form{}, err
		}
	}
	if p.device == nil {
		return Form{}, errors.New("the arguments have no disk")
	}
	return p.form()
}

// take adds an option to the parts.
func (p *parts) take(o option, others string) error {
	switch o.name {
	case "-global":
		p.globals = append(p.globals, o.value)
		return nil
	case "-object", "-blockdev", "-device", "-chardev":
	default:
		return nil
	}
	v, err := decode(o.value)
	if err != nil {
		return err
	}
	switch o.name {
	case "-object":
		if err := hideSecret(v); err != nil {
			return err
		}
		p.objects = append(p.objects, v)
	case "-blockdev":
		p.nodes = append(p.nodes, v)
	case "-chardev":
		if v["reconnect-ms"] == "0" {
			delete(v, "reconnect-ms") // the default
		}
		p.chardevs = append(p.chardevs, v)
	case "-device":
		driver, id := fmt.Sprint(v["driver"]), fmt.Sprint(v["id"])
		switch {
		case driver == "isa-fdc":
			for _, drive := range []string{"bootindexA", "bootindexB"} {
				if n, ok := v[drive]; ok {
					p.globals = append(p.globals, fmt.Sprintf("isa-fdc.%s=%v", drive, n))
				}
			}
		case !frontends.MatchString(driver):
			p.controllers[id] = driver
		case strings.HasPrefix(id, others):
		case p.device != nil:
			return fmt.Errorf("there are two disks, %v and %s", p.device["id"], id)
		default:
			p.device = v
		}
	}
	return nil
}

// hideSecret replaces the value of a secret that libvirt encrypted by the number of its blocks.
func hideSecret(o map[string]any) error {
	if o["qom-type"] != "secret" || o["keyid"] == nil {
		return nil
	}
	data, err := base64.StdEncoding.DecodeString(fmt.Sprint(o["data"]))
	if err != nil {
		return fmt.Errorf("the secret %v: %w", o["id"], err)
	}
	for _, member := range []string{"data", "iv", "keyid", "format"} {
		delete(o, member)
	}
	o["blocks"] = len(data) / blockSize
	return nil
}

const blockSize = 16 // AES
