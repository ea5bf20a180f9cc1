package hook

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug/internal/record"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/xmltext"
	"github.com/luksplug/luksplug/secrets/vmkeys"
)

// VMs are the places where this host shows its VMs.
type VMs struct {
	// Definitions has the XML of libvirt's domains, in files NAME.xml.
	Definitions string
	// OtherDefinitions are those of domains of libvirt's other drivers, and of root's own
	// libvirt. Those that do not exist have none.
	OtherDefinitions []string
	// Running has the state of those that run, in files NAME.xml.
	Running string
	// State is a directory that belongs to the user of libvirt's QEMU processes.
	State string
}

// HostVMs returns the places of the host's own libvirt, qemu:///system.
func HostVMs() VMs {
	v := VMs{Definitions: "/etc/libvirt/qemu", Running: "/run/libvirt/qemu", State: "/var/lib/libvirt/qemu"}
	for _, driver := range []string{"ch", "libxl", "lxc", "openvz", "vz"} {
		v.OtherDefinitions = append(v.OtherDefinitions, filepath.Join("/etc/libvirt", driver))
	}
	if own, err := os.UserConfigDir(); err == nil { // qemu:///session
		v.OtherDefinitions = append(v.OtherDefinitions, filepath.Join(own, "libvirt", "qemu"))
	}
	return v
}

// Enabled returns the names of the domains, defined or running, that have anything of
// luksplug's: its monitor, or records of disks.
func (v VMs) Enabled() ([]string, error) {
	var out []string
	for _, dir := range []string{v.Definitions, v.Running} {
		all, err := v.domains(dir)
		if err != nil {
			return nil, err
		}
		for _, d := range all {
			if d.enabled && !slices.Contains(out, d.Name) {
				out = append(out, d.Name)
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

// CheckUUID returns an error that wraps [vmkeys.ErrOtherVM] if another VM of this host has the
// UUID of the event's domain: a domain of another name that is defined or running, or a QEMU
// process that is not the domain's.
//
// A process counts if root or the user of libvirt's QEMU processes runs it. Others do not: any user of
// the host can start a QEMU with any UUID, and could otherwise withhold the keys of a VM.
func (v VMs) CheckUUID(e Event) error {
	id := e.UUID()
	if id == "" {
		return nil // which has no keys
	}
	running, err := v.domains(v.Running)
	if err != nil {
		return err
	}
	defined, err := v.domains(v.Definitions)
	if err != nil {
		return err
	}
	for _, other := range append(slices.Clone(running), defined...) {
		if strings.EqualFold(other.UUID, id) && other.Name != e.Domain {
			return fmt.Errorf("%w, %s: domain %s, in %s: undefine the one that the keys are not for", vmkeys.ErrOtherVM, id, other.Name, other.file)
		}
	}
	return v.checkProcesses(e, id, running)
}

// checkProcesses looks for a QEMU with the UUID that libvirt does not know as this domain's.
func (v VMs) checkProcesses(e Event, id string, running []listedDomain) error {
	users := []uint32{0}
	var st unix.Stat_t
	if err := unix.Stat(v.State, &st); err == nil {
		users = append(users, st.Uid)
	}
	for _, pid := range hostproc.FindQEMUs(id, users...) {
		i := slices.IndexFunc(running, func(r listedDomain) bool { return r.pid == pid })
		switch {
		case i >= 0: // libvirt has started it with another UUID, or as this domain
		case e.Operation == Started && hostproc.GuestName(pid) == e.Domain: // libvirt has not written its state yet
		default:
			return fmt.Errorf("%w, %s: process %d: end the VM that the keys are not for", vmkeys.ErrOtherVM, id, pid)
		}
	}
	return nil
}

// listedDomain is a domain in one of libvirt's directories.
type listedDomain struct {
	Name string `xml:"name"`
	UUID string `xml:"uuid"`
	pid  int
	file string
	// enabled is true if it has anything of luksplug's.
	enabled bool
}

// maxDomain bounds the size of a file with a domain.
const maxDomain = 16 << 20

// domains returns the domains in a directory. Those that are removed meanwhile are left out.
func (v VMs) domains(dir string) ([]listedDomain, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the domains of this host: %w", err)
	}
	var out []listedDomain
	for _, entry := range entries {
		if !entry.Type().IsRegular() || filepath.Ext(entry.Name()) != ".xml" {
			continue
		}
		d, err := readDomain(filepath.Join(dir, entry.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("the domains of this host: %w", err)
		}
		out = append(out, d)
	}
	return out, nil
}

// readDomain reads a definition, or libvirt's state of a running domain, which contains one.
func readDomain(path string) (d listedDomain, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return d, err
	}
	defer fsutil.CloseRead(f)
	text, err := io.ReadAll(io.LimitReader(f, maxDomain))
	if err != nil {
		return d, err
	}
	return parseDomain(text, path)
}

func parseDomain(text []byte, path string) (listedDomain, error) {
	var content struct {
		XMLName xml.Name
		listedDomain
		PID    int          `xml:"pid,attr"`
		Domain listedDomain `xml:"domain"`
	}
	if err := xml.Unmarshal(text, &content); err != nil {
		line, reason := xmltext.SyntaxReason(err)
		return listedDomain{}, fmt.Errorf("%s: line %d: %s", path, line, reason)
	}
	d := content.listedDomain
	if content.XMLName.Local == "domstatus" {
		d = content.Domain
		d.pid = content.PID
	}
	d.file = path
	d.enabled = bytes.Contains(text, []byte(record.Namespace)) || bytes.Contains(text, []byte("chardev=luksplug-monitor,"))
	return d, nil
}
