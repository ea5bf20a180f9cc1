package diskgen_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/digitalocean/go-libvirt"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/integration/internal/canon"
	"github.com/luksplug/luksplug/integration/internal/diskgen"
	"github.com/luksplug/luksplug/internal/must"
)

// programDomain is the domain of the disks that other programs write, with words in place of the machine, its ports and the disk.
const programDomain = `<domain type='qemu'>
  <name>program</name>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <iothreads>2</iothreads>
  <os><type arch='x86_64' machine='MACHINE'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='scsi' index='0' model='virtio-scsi'/>
    PORTS
    DISK
    <memballoon model='none'/>
  </devices>
</domain>`

// otherwise are the cases of [TestPrograms] that luksplug answers in another way than libvirt, and why.
var otherwise = map[string]string{
	"empty-encrypted":       "libvirt ignores the encryption",
	"empty-volume":          "the policy is for the start of a domain",
	"virt-v2v-transitional": "libvirt adds the bridge to a domain that is off",
}

// TestPrograms compares the plans of disks as other programs write them with libvirt's. render pins them.
func TestPrograms(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../../blockgraph/render/testdata/programs/*.txtar")
	if err != nil || len(files) < 47 {
		t.Fatalf("%d programs: %v", len(files), err)
	}
	j := newJudge(t)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		t.Run(name, func(t *testing.T) {
			a := must.Get(txtar.ParseFile(file))(t)
			machine, ports := "q35", "<controller type='pci' index='0' model='pcie-root'/>"+strings.Repeat("<controller type='pci' model='pcie-root-port'/>", 4)
			if strings.Contains(string(a.Comment), "i440fx") {
				machine, ports = "pc", ""
			}
			domain := strings.NewReplacer("MACHINE", machine, "PORTS", ports).Replace(programDomain)
			difference := j.program(strings.Replace(domain, "DISK", "", 1), domain, a.Files[0].Data)
			if reason, listed := otherwise[name]; listed != (difference != "") {
				t.Errorf("difference: %q, listed: %q", difference, reason)
			}
		})
	}
}

// program returns the difference of the plans for a disk, "" for none. Both may refuse it.
func (j *judge) program(context, domain string, disk []byte) string {
	text, err := j.libvirt.ConnectDomainXMLToNative("qemu-argv", strings.Replace(domain, "DISK", string(disk), 1), 0)
	var refusal libvirt.Error
	if err != nil && !errors.As(err, &refusal) {
		return err.Error()
	}
	ours, ourErr := planProgram(context, disk)
	if err != nil || ourErr != nil {
		if err != nil && ourErr != nil {
			return ""
		}
		return errors.Join(errors.New("one refuses"), err, ourErr).Error()
	}
	theirs, err := canon.Native(text, diskgen.OtherAlias)
	if err != nil {
		return err.Error()
	}
	free := []string{"bus", "addr", "port", "multifunction", "bootindex"} // libvirt chooses other places at a start
	return strings.Join(ours.Without(free...).Diff(theirs.Without(free...)), "; ")
}

func planProgram(context string, disk []byte) (canon.Form, error) {
	m, err := diskxml.ParseDomain([]byte(context))
	if err != nil {
		return canon.Form{}, err
	}
	d, err := diskxml.ParseDisk(disk)
	if err != nil {
		return canon.Form{}, err
	}
	g, err := blockgraph.Build(d, m, blockgraph.Unlock{})
	if err != nil {
		return canon.Form{}, err
	}
	return canon.Planned(g, length)
}
