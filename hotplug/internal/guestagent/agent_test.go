package guestagent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/internal/must"
)

// fsinfo is an answer of qemu-ga 7.2 in a Linux guest, with a SCSI disk of udev's serial, a device-mapper device on two
// disks, a file system without a disk, and members of a later agent.
const fsinfo = `{"return":[
{"name":"dm-0","total-bytes":1,"mountpoint":"/srv","type":"xfs","disk":[
 {"bus-type":"virtio","bus":0,"unit":0,"target":0,"pci-controller":{"bus":2,"slot":0,"domain":0,"function":0},"dev":"/dev/vdb1","serial":"one"},
 {"bus-type":"scsi","bus":0,"unit":63,"target":0,"pci-controller":{"bus":0,"slot":3,"domain":0,"function":0},"dev":"/dev/sda","serial":"0QEMU_QEMU_HARDDISK_two"}]},
{"name":"sdb1","mountpoint":"/mnt","type":"ext4","disk":[
 {"bus-type":"unknown","bus":-1,"unit":-1,"target":-1,"pci-controller":{"bus":-1,"slot":-1,"domain":-1,"function":-1},"dev":"/dev/sdb1","serial":"QEMU_QEMU_HARDDISK_three_3"}]},
{"name":"sysfs","mountpoint":"/sys","type":"sysfs","disk":[]}]}`

// serve runs an agent at a socket: answer gets each line of the client.
func serve(t *testing.T, answer func(line string, conn net.Conn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent")
	l := must.Get(net.Listen("unix", path))(t)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		lines := bufio.NewScanner(conn)
		for lines.Scan() {
			answer(lines.Text(), conn)
		}
	}()
	return path
}

// synced answers guest-sync-delimited as qemu-ga does, after what is left of an earlier client, and everything else by
// then.
func synced(then func(line string, conn net.Conn)) func(string, net.Conn) {
	return func(line string, conn net.Conn) {
		var sync struct {
			Execute   string
			Arguments struct{ ID json.Number }
		}
		if json.Unmarshal([]byte(strings.TrimPrefix(line, "\xff")), &sync) == nil && sync.Execute == "guest-sync-delimited" {
			_, _ = fmt.Fprintf(conn, "{\"return\": 1}\n{\"half\xff{\"return\": 77}\n\xff{\"return\": %s}\n", sync.Arguments.ID)
			return
		}
		then(line, conn)
	}
}

func reply(text string) func(string, net.Conn) {
	return synced(func(_ string, conn net.Conn) { _, _ = conn.Write([]byte(strings.ReplaceAll(text, "\n", " ") + "\n")) })
}

// TestAnswers: what an agent answers, or not, ends in time and within bounds.
func TestAnswers(t *testing.T) {
	t.Parallel()
	silent := func(string, net.Conn) {}
	drip := func(conn net.Conn) {
		for {
			if _, err := conn.Write([]byte("x")); err != nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	flood := func(conn net.Conn) {
		for {
			if _, err := conn.Write([]byte(strings.Repeat("[", 1<<16))); err != nil {
				return
			}
		}
	}
	for name, c := range map[string]struct {
		answer func(string, net.Conn)
		want   string // part of the error, "" for none
	}{
		"file systems":                  {reply(fsinfo), ""},
		"none":                          {reply(`{"return":[]}`), ""},
		"silence":                       {silent, "does not answer"},
		"silence after the beginning":   {synced(silent), "does not answer"},
		"one byte at a time":            {func(_ string, conn net.Conn) { drip(conn) }, "does not answer"},
		"one byte at a time, later":     {synced(func(_ string, conn net.Conn) { drip(conn) }), "does not answer"},
		"a flood":                       {func(_ string, conn net.Conn) { flood(conn) }, "longer than"},
		"a flood, later":                {synced(func(_ string, conn net.Conn) { flood(conn) }), "longer than"},
		"a refusal":                     {reply(`{"error":{"class":"CommandNotFound","desc":"guest-get-fsinfo has been disabled"}}`), "has been disabled"},
		"no JSON":                       {reply(`nothing`), "not the documented"},
		"another value":                 {reply(`{"return":{"name":1}}`), "not the documented"},
		"numbers out of range":          {reply(`{"return":[{"disk":[{"bus":1e99}]}]}`), "not the documented"},
		"neither a result nor an error": {reply(`{}`), "neither"},
		"the end of the channel":        {func(_ string, conn net.Conn) { _ = conn.Close() }, "has ended"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			begin := time.Now()
			_, err := FileSystems(ctx, Socket(serve(t, c.answer), os.Getpid()))
			if took := time.Since(begin); took > 30*time.Second {
				t.Errorf("it took %s", took)
			}
			if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestOtherProcess: nothing is sent to a socket of another process than QEMU's, whatever path QEMU names.
func TestOtherProcess(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	path := serve(t, func(line string, _ net.Conn) { got <- line })
	_, err := Socket(path, os.Getppid())(t.Context(), []byte("{}"))
	if !errors.Is(err, ErrNone) {
		t.Errorf("got %v", err)
	}
	select {
	case line := <-got:
		t.Errorf("%q was sent", line)
	case <-time.After(50 * time.Millisecond):
	}
}

// TestChardev: only a socket at which QEMU listens, without another client, for a port that a guest has opened.
func TestChardev(t *testing.T) {
	t.Parallel()
	for filename, want := range map[string]bool{
		"disconnected:unix:/run/vm1.qga,server=on": true,
		"unix:/run/vm1.qga,server=on":              false,
		"disconnected:unix:/run/vm1.qga":           false,
		"disconnected:unix:qga,server=on":          false,
		"disconnected:tcp:127.0.0.1:1,server=on":   false,
		"pty:/dev/pts/1":                           false,
		"":                                         false,
	} {
		for _, open := range []bool{true, false} {
			agent, err := chardev{Filename: filename, Open: open}.agent(1)
			if (agent != nil) != (want && open) || (err == nil) != (agent != nil) || err != nil && !errors.Is(err, ErrNone) {
				t.Errorf("%q, open %t: %v", filename, open, err)
			}
		}
	}
}

// TestOn: the file systems of a disk are found by its address, and by its serial where one side has no address.
func TestOn(t *testing.T) {
	t.Parallel()
	all := must.Get(FileSystems(t.Context(), func(context.Context, []byte) ([]byte, error) { return []byte(fsinfo), nil }))(t)
	at := func(bus, slot int) *inventory.PCIFunction { return &inventory.PCIFunction{Bus: bus, Slot: slot} }
	for name, c := range map[string]struct {
		place Place
		want  string
	}{
		"virtio":                          {Place{PCI: at(2, 0)}, "/srv"},
		"virtio, another bus":             {Place{PCI: at(3, 0), Serial: "one"}, ""}, // the serial of another disk
		"SCSI":                            {Place{PCI: at(0, 3), SCSI: true, LUN: 63}, "/srv"},
		"SCSI, another unit":              {Place{PCI: at(0, 3), SCSI: true, LUN: 62}, ""},
		"SCSI, another target":            {Place{PCI: at(0, 3), SCSI: true, Target: 1, LUN: 63}, ""},
		"serial":                          {Place{Serial: "one"}, "/srv"},
		"serial behind the model":         {Place{Serial: "two"}, "/srv"},
		"serial with a space":             {Place{Serial: "three 3"}, "/mnt"},
		"serial with a space, escaped":    {Place{Serial: `three\ 3`}, "/mnt"},
		"the end of a serial":             {Place{Serial: "wo"}, ""},
		"no address in the guest":         {Place{PCI: at(4, 0), Serial: "three_3"}, "/mnt"},
		"neither an address nor a serial": {Place{}, ""},
	} {
		var points []string
		for _, f := range On(c.place, all) {
			points = append(points, f.MountPoint)
		}
		if got := strings.Join(points, " "); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if long := strings.Repeat("s", 30); !sameSerial(long, long[:20]) || sameSerial(long, long[:19]) {
		t.Error("a virtio device has 20 bytes of a serial")
	}
}

func FuzzFileSystems(f *testing.F) {
	f.Add(fsinfo)
	f.Add(`{"return":null}`)
	f.Add(`{"return":[{"disk":[{"pci-controller":null}]}]}`)
	f.Fuzz(func(t *testing.T, answer string) {
		all, err := FileSystems(t.Context(), func(context.Context, []byte) ([]byte, error) { return []byte(answer), nil })
		if err != nil && all != nil {
			t.Errorf("%d file systems, and %v", len(all), err)
		}
		On(Place{Serial: "a", PCI: &inventory.PCIFunction{}}, all)
	})
}
