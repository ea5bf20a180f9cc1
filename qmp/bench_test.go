package qmp

import (
	"bufio"
	"context"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/qmptest"
)

// bareSocket connects to a monitor without the client. exchange writes a command and reads one line back.
func bareSocket(b *testing.B, address string) (exchange func(command string)) {
	b.Helper()
	conn, err := net.Dial("unix", address)
	must.OK(b, err)
	b.Cleanup(func() { qmptest.Close(b, conn) })
	in := bufio.NewReader(conn)
	exchange = func(command string) {
		if _, err := conn.Write([]byte(command)); err != nil {
			b.Fatal(err)
		}
		if _, err := in.ReadSlice('\n'); err != nil {
			b.Fatal(err)
		}
	}
	exchange(`{"execute":"qmp_capabilities","id":1}` + "\n") // reads the greeting
	exchange("\n")                                           // reads the reply
	return exchange
}

// BenchmarkExecute compares Execute with writing the same bytes to a bare socket and reading one line back:
// the difference is the cost of the client.
func BenchmarkExecute(b *testing.B) {
	peers := map[string]func(b *testing.B) string{
		"qemu": func(b *testing.B) string { return qmptest.StartQEMU(b, "-machine", "none").Unix },
		"fake": func(b *testing.B) string {
			return greetingPeer(b, func(p *fakeConn) {
				for c, ok := p.receive(); ok && p.send(reply(c.ID, "{}")); c, ok = p.receive() {
					continue
				}
			})
		},
	}
	for name, start := range peers {
		b.Run(name+"/bare", func(b *testing.B) {
			exchange := bareSocket(b, start(b))
			for b.Loop() {
				exchange(`{"execute":"query-version","id":22}` + "\n")
			}
		})
		b.Run(name+"/execute", func(b *testing.B) {
			c := dialTest(b, start(b))
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Execute(ctx, Command{Execute: "query-version"}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/pipelined7", func(b *testing.B) {
			c := dialTest(b, start(b))
			cmds := make([]Command, 7)
			for i := range cmds {
				cmds[i] = Command{Execute: "query-version"}
			}
			for b.Loop() {
				for _, r := range c.ExecuteAll(context.Background(), cmds...) {
					if r.Err != nil {
						b.Fatal(r.Err)
					}
				}
			}
		})
	}
}

// BenchmarkSchema measures parsing a real schema, without QEMU's own time.
func BenchmarkSchema(b *testing.B) {
	c, _ := startNone(b)
	data, err := c.Execute(context.Background(), Command{Execute: "query-qmp-schema"})
	must.OK(b, err)
	s, err := ParseSchema(data)
	must.OK(b, err)
	b.Run("parse", func(b *testing.B) {
		for b.Loop() {
			if _, err := ParseSchema(data); err != nil {
				b.Fatal(err)
			}
		}
	})
	compact, err := CompactSchema(data)
	must.OK(b, err)
	b.Run("parse compact", func(b *testing.B) {
		for b.Loop() {
			if _, err := ParseSchema(compact); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("validate", func(b *testing.B) {
		args := Object{{"driver", "luks"}, {"node-name", "l"}, {"file", "p"}, {"header", "h"}, {"key-secret", "s"}}
		for b.Loop() {
			must.OK(b, s.Validate("blockdev-add", args))
		}
	})
}

// BenchmarkOverhead alternates between a bare socket and Execute, on two monitors of one QEMU, so that the
// load of the machine affects both alike. It reports the ratio of the medians.
func BenchmarkOverhead(b *testing.B) {
	second := filepath.Join(qmptest.SocketDir(b), "second.sock")
	q := qmptest.StartQEMU(b, "-machine", "none", "-qmp", "unix:"+second+",server=on,wait=off")
	c := dialTest(b, q.Unix)
	exchange := bareSocket(b, second)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var bare, ours []time.Duration
	for b.Loop() {
		start := time.Now()
		exchange(`{"execute":"query-version","id":22}` + "\n")
		middle := time.Now()
		if _, err := c.Execute(ctx, Command{Execute: "query-version"}); err != nil {
			b.Fatal(err)
		}
		bare, ours = append(bare, middle.Sub(start)), append(ours, time.Since(middle))
	}
	slices.Sort(bare)
	slices.Sort(ours)
	b.ReportMetric(float64(ours[len(ours)/2])/float64(bare[len(bare)/2]), "execute/bare")
	b.ReportMetric(float64(bare[len(bare)/2].Nanoseconds()), "bare-ns")
}
