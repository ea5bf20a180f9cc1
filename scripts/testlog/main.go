// Command testlog reads the output of `go test -json` and prints what `go test` prints without -json, and before the
// last package's result the tests that were skipped, a line for each reason:
//
//	{ go test -json ./a; go test -json ./b; } | go run ./scripts/testlog
//
// The exit status is 0 for every input that it can read and print. That of go test reports whether tests failed, so the
// shell needs pipefail.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "testlog:", err)
		os.Exit(1)
	}
}

// event is a line of `go test -json`, see `go doc test2json` and `go help buildjson`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of a build
	Test       string // empty for the package
	Output     string
}

// key identifies a test, or with an empty test a package.
type key struct{ pkg, test string }

// log is what one run of this command has read.
type log struct {
	out     *bufio.Writer
	output  map[key][]string    // of tests without a result, and of packages
	skipped map[string][]string // tests by reason
	last    string              // what the package that ended last printed, which is not yet printed here
	failed  bool
}

func run(in io.Reader, out io.Writer) error {
	l := &log{out: bufio.NewWriter(out), output: map[key][]string{}, skipped: map[string][]string{}}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			l.line(line)
			if err := l.out.Flush(); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	l.summary()
	l.print(l.last)
	if l.failed {
		l.print("FAIL\n")
	}
	return l.out.Flush()
}

func (l *log) print(text string) { _, _ = l.out.WriteString(text) } // Flush returns the error

// line reads one line. One that is no event, such as a message of the shell or of go itself, is printed.
func (l *log) line(line string) {
	var e event
	if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &e) != nil {
		l.print(line)
		return
	}
	k := key{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		l.print(e.Output) // of a package that the tests of several others may need
	case "output":
		if !chatter.MatchString(e.Output) {
			l.output[k] = append(l.output[k], e.Output)
		}
	case "skip":
		if e.Test == "" {
			l.end(e.Package) // a package without tests
			return
		}
		reason := reasonOf(l.output[k])
		l.skipped[reason] = append(l.skipped[reason], e.Test)
		delete(l.output, k)
	case "pass":
		if e.Test == "" {
			l.end(e.Package)
		}
		delete(l.output, k)
	case "fail":
		if e.Test == "" {
			l.failed = true
			l.unfinished(e.Package)
			l.end(e.Package)
			return
		}
		l.fail(k)
	}
}

// fail prints a failed test with its output: the verdict first, what it has logged, and then its failed subtests. The
// text of a subtest waits in its parent's output, indented, for the parent's result.
func (l *log) fail(k key) {
	lines := l.output[k]
	delete(l.output, k)
	if i := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "--- FAIL: ") }); i > 0 {
		verdict := lines[i]
		copy(lines[1:i+1], lines[:i])
		lines[0] = verdict
	}
	end := strings.LastIndexByte(k.test, '/')
	if end < 0 {
		whole := key{k.pkg, ""}
		l.output[whole] = append(l.output[whole], lines...)
		return
	}
	parent := key{k.pkg, k.test[:end]}
	for _, line := range lines {
		l.output[parent] = append(l.output[parent], "    "+line)
	}
}

// chatter is output that go test prints with -v only.
var chatter = regexp.MustCompile(`^(=== (RUN|PAUSE|CONT|NAME) |\s*--- (PASS|SKIP): |PASS\n$)`)

// unfinished prints the output of tests that a package's failure has ended, as by a panic or the time limit.
func (l *log) unfinished(pkg string) {
	keys := slices.SortedFunc(maps.Keys(l.output), func(a, b key) int { return cmp.Compare(a.test, b.test) })
	whole := key{pkg, ""}
	var lines []string
	for _, k := range keys {
		if k.pkg == pkg && k != whole {
			lines = append(lines, l.output[k]...)
			delete(l.output, k)
		}
	}
	// Before the package's result.
	end := max(0, len(l.output[whole])-1)
	l.output[whole] = slices.Insert(l.output[whole], end, lines...)
}

// end holds what a package printed back until another one ends, and prints that of the one before: events of packages
// that run at the same time are mixed.
func (l *log) end(pkg string) {
	l.print(l.last)
	l.last = strings.Join(l.output[key{pkg, ""}], "")
	delete(l.output, key{pkg, ""})
}

// place begins a test's message: "    file_test.go:12: ".
var place = regexp.MustCompile(`^\s+\S+\.go:\d+: `)

// reasonOf returns the message with which a test was skipped, the last one that it has logged.
func reasonOf(output []string) string {
	for _, line := range slices.Backward(output) {
		if at := place.FindString(line); at != "" {
			return strings.TrimSpace(line[len(at):])
		}
	}
	return "no reason given"
}

// namesShown are how many tests of a reason are named.
const namesShown = 3

// summary prints the skipped tests, the most frequent reason first.
func (l *log) summary() {
	reasons := slices.SortedFunc(maps.Keys(l.skipped), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(l.skipped[b]), len(l.skipped[a])), cmp.Compare(a, b))
	})
	for _, reason := range reasons {
		tests := l.skipped[reason]
		slices.Sort(tests)
		tests = slices.Compact(tests) // some packages are tested twice
		names := strings.Join(tests[:min(namesShown, len(tests))], ", ")
		if more := len(tests) - namesShown; more > 0 {
			names += fmt.Sprintf(" and %d more", more)
		}
		l.print(fmt.Sprintf("skipped: %s: %s\n", reason, names))
	}
}
