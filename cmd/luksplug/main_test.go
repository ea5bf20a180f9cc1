package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"luksplug": main})
}

// The scripts run the program as a user does. They need no VM: the
// effects on VMs are tested in package integration.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			// The race detector's runtime sleeps for a second at each exit.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Condition: func(condition string) (bool, error) {
			switch condition {
			case "root":
				return os.Geteuid() == 0, nil
			case "keyring":
				_, err := unix.AddKey("user", "luksplug-test", []byte{0}, unix.KEY_SPEC_PROCESS_KEYRING)
				return err == nil, nil
			case "timens":
				return exec.Command("unshare", "--time", "--boottime", "1", "--fork", "true").Run() == nil, nil
			case "userns":
				return exec.Command("unshare", "--user", "--map-root-user", "true").Run() == nil, nil
			}
			return false, fmt.Errorf("unknown condition %s", condition)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits,
			"fails": fails,
			"json":  isJSON,
			"plain": plain,
		},
	})
}

// TestHelp: every command has a help with examples, on standard output.
func TestHelp(t *testing.T) {
	t.Parallel()
	commands := 0
	var walk func(path []string, cmd *cobra.Command)
	walk = func(path []string, cmd *cobra.Command) {
		if cmd.Name() == "help" {
			return // of cobra's
		}
		commands++
		var out, errs strings.Builder
		code := run(t.Context(), &app{streams: streams{out: &out, err: &errs}}, append(path, "--help"))
		if code != exitDone || errs.Len() > 0 || !strings.Contains(out.String(), "\nExamples:\n  luksplug ") {
			t.Errorf("%v --help: exit code %d\n%s%s", path, code, &out, &errs)
		}
		own, shared, grouped := strings.Cut(out.String(), "\nThe VM, of all commands:\n")
		if !grouped || !strings.Contains(own, "\nFlags:\n") || strings.Contains(own[strings.LastIndex(own, "\nFlags:"):], "--qmp") || strings.Contains(shared, "--help ") {
			t.Errorf("%v --help does not show the shared flags apart:\n%s", path, &out)
		}
		newRoot(&app{}).PersistentFlags().VisitAll(func(f *pflag.Flag) {
			if strings.Count(shared, " --"+f.Name+" ") != 1 {
				t.Errorf("%v --help does not show --%s once:\n%s", path, f.Name, shared)
			}
		})
		if cmd.Name() == "completion" {
			return // its subcommands are cobra's
		}
		for _, sub := range cmd.Commands() {
			walk(append(slices.Clone(path), sub.Name()), sub)
		}
	}
	walk(nil, newRoot(&app{}))
	if commands < 20 {
		t.Errorf("only %d commands", commands)
	}
}

// Not in parallel: it is about the whole process, which gets its old state back.
func TestNoCoreFiles(t *testing.T) {
	dumpable := func() int {
		n, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if dumpable() == 0 {
		t.Skip("this process cannot be dumped anyway")
	}
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) })
	noCoreFiles()
	if n := dumpable(); n != 0 {
		t.Errorf("PR_GET_DUMPABLE is %d", n)
	}
}

// exits CODE COMMAND [ARG...] runs a command and wants that exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v: %v", args[1:], err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%v: exit code %d, want %d", args[1:], got, want)
	}
}

// fails CODE PATTERN COMMAND [ARG...] is exits, and wants nothing on standard output and
// one line on standard error, which begins with the program's name, or is
// JSON, and matches.
func fails(ts *testscript.TestScript, neg bool, args []string) {
	exits(ts, neg, slices.Delete(slices.Clone(args), 1, 2))
	stdout, stderr := ts.ReadFile("stdout"), ts.ReadFile("stderr")
	if stdout != "" {
		ts.Fatalf("%v: standard output is not empty", args[2:])
	}
	line, found := strings.CutSuffix(stderr, "\n")
	if !found || strings.Contains(line, "\n") || !strings.HasPrefix(line, "luksplug: ") && !json.Valid([]byte(line)) {
		ts.Fatalf("%v: standard error is not one line that begins with the program's name", args[2:])
	}
	matches, err := regexp.MatchString("(?m)"+args[1], stderr)
	ts.Check(err)
	if !matches {
		ts.Fatalf("%v: standard error does not match %q", args[2:], args[1])
	}
}

// json FILE MEMBER... wants a JSON object with exactly these members, or,
// without members, any JSON value.
func isJSON(ts *testscript.TestScript, _ bool, args []string) {
	text := []byte(ts.ReadFile(args[0]))
	if len(args) == 1 {
		if !json.Valid(text) {
			ts.Fatalf("%s is not JSON", args[0])
		}
		return
	}
	var members map[string]json.RawMessage
	ts.Check(json.Unmarshal(text, &members))
	var got []string
	for name := range members {
		got = append(got, name)
	}
	slices.Sort(got)
	want := slices.Sorted(slices.Values(args[1:]))
	if !slices.Equal(got, want) {
		ts.Fatalf("%s has the members %v, want %v", args[0], got, want)
	}
}

// plain FILE... wants no escape sequences.
func plain(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		if strings.ContainsRune(ts.ReadFile(name), '\x1b') {
			ts.Fatalf("%s holds an escape sequence", name)
		}
	}
}
