package integration

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/render"
	"github.com/luksplug/luksplug/internal/must"
)

// block is a fenced block of a document.
type block struct {
	language string // the first word after the fence
	name     string // the second
	line     int    // of its first line, counted from 1
	lines    []string
	commands []shellCommand // of a block marked sh or console
}

// shellCommand is a command of a document.
type shellCommand struct {
	line     int      // counted from 1
	text     string   // without the prompt
	output   []string // its output in the document
	from, to int      // the output's lines in the document, counted from 0, to excluded
}

// blocks finds the fenced blocks in a document's lines.
func blocks(lines []string) []block {
	var out []block
	var open *block
	for i, line := range lines {
		info, fence := strings.CutPrefix(line, "```")
		switch {
		case !fence && open != nil:
			open.lines = append(open.lines, line)
		case fence && open == nil:
			language, name, _ := strings.Cut(info, " ")
			open = &block{language: language, name: name, line: i + 2}
		case fence:
			switch open.language {
			case "console":
				open.transcript()
			case "sh":
				open.script()
			}
			out = append(out, *open)
			open = nil
		}
	}
	return out
}

// transcript separates commands, which follow a prompt, from their output.
func (b *block) transcript() {
	for i := 0; i < len(b.lines); i++ {
		text, prompt := strings.CutPrefix(b.lines[i], "# ")
		at := b.line + i // counted from 1
		if prompt {
			for strings.HasSuffix(text, "\\") && i+1 < len(b.lines) {
				i++
				text += "\n" + strings.TrimPrefix(b.lines[i], "> ")
			}
			b.commands = append(b.commands, shellCommand{line: at, text: text, from: b.line + i, to: b.line + i})
			continue
		}
		if n := len(b.commands); n > 0 {
			b.commands[n-1].output = append(b.commands[n-1].output, b.lines[i])
			b.commands[n-1].to = at
		}
	}
}

// script parses a block of commands without output, and skips comments.
func (b *block) script() {
	for i, text := range b.lines {
		text, _, _ = strings.Cut(text, "  #")
		if text = strings.TrimSpace(text); text != "" && !strings.HasPrefix(text, "#") {
			b.commands = append(b.commands, shellCommand{line: b.line + i, text: text})
		}
	}
}

func TestBlocks(t *testing.T) {
	t.Parallel()
	text := "x\n```console\n# one\n1\n2\n# two \\\n>  more\n3\n```\n```xml a.xml\n<a/>\n```\n```sh\n# a comment\nthree  # why\n```\n"
	got := blocks(strings.Split(text, "\n"))
	if len(got) != 3 || got[1].language != "xml" || got[1].name != "a.xml" || len(got[1].lines) != 1 {
		t.Fatalf("%+v", got)
	}
	c := got[0].commands
	if len(c) != 2 || c[0].text != "one" || c[0].line != 3 || strings.Join(c[0].output, ",") != "1,2" || c[0].from != 3 || c[0].to != 5 {
		t.Errorf("%+v", c)
	}
	if c[1].text != "two \\\n more" || strings.Join(c[1].output, ",") != "3" || c[1].from != 7 || c[1].to != 8 {
		t.Errorf("%+v", c[1])
	}
	if c := got[2].commands; len(c) != 1 || c[0].text != "three" || c[0].line != 15 {
		t.Errorf("%+v", c)
	}
}

func TestMatches(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		want, got string
		same      bool
	}{
		{"a", "a", true},
		{"a", "b", false},
		{"a", "a\nb", false},
		{"a\nb", "a", false},
		{"a   1.5ms", "a 20s", true},
		{"a\n...\nd", "a\nb\nc\nd", true},
		{"a\n...\nd", "a\nd", true},
		{"a\n...\nd", "a\nb", false},
		{"...", "a\nb", true},
	} {
		if got := matches(strings.Split(c.want, "\n"), strings.Split(c.got, "\n")); got != c.same {
			t.Errorf("%q and %q: %t", c.want, c.got, got)
		}
	}
}

// link is a relative link, or picture, of Markdown.
var link = regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)

// Every relative link of the documents leads to an existing file.
func TestDocsLinks(t *testing.T) {
	t.Parallel()
	for _, path := range append(documents(t), filepath.Join(repository, "CHANGELOG.md")) {
		text := must.Get(os.ReadFile(path))(t)
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s: a link leads nowhere: %v", path, err)
			}
		}
	}
}

// The picture in README.md is the program's picture of the disk there.
func TestDocsPicture(t *testing.T) {
	t.Parallel()
	text := must.Get(os.ReadFile(filepath.Join(repository, "README.md")))(t)
	var disk *blockgraph.Disk
	for _, b := range blocks(strings.Split(string(text), "\n")) {
		for _, c := range b.commands {
			if c.text == "cat vdb.xml" {
				disk = must.Get(diskxml.ParseDisk([]byte(strings.Join(c.output, "\n"))))(t)
			}
		}
	}
	if disk == nil {
		t.Fatal("README.md has no vdb.xml")
	}
	ephemeral := blockgraph.Unlock{Method: blockgraph.MethodEphemeralHeader}
	build := func(u blockgraph.Unlock) *blockgraph.Graph {
		return must.Get(blockgraph.Build(disk, blockgraph.Machine{}, u))(t)
	}
	renamed := *disk
	renamed.Image.Source.Path = renewed(disk.Image.Source.Path)
	header := *disk.Header()
	header.Source.Path = renewed(header.Source.Path)
	encryption := *disk.Image.Encryption
	encryption.Header, renamed.Image.Encryption = &header, &encryption
	to := must.Get(blockgraph.BuildCopy(&renamed, blockgraph.OtherInstance(disk.Target), ephemeral))(t)
	for name, want := range map[string]string{
		"vdb.svg": render.SVG(build(blockgraph.Unlock{})), "vdb-ephemeral.svg": render.SVG(build(ephemeral)),
		"vdb-copying.svg":  render.CopySVG(build(ephemeral), to, render.CopyRunning),
		"vdb-in-step.svg":  render.CopySVG(build(ephemeral), to, render.CopyInStep),
		"vdb-switched.svg": render.CopySVG(build(ephemeral), to, render.CopySwitched),
	} {
		path := filepath.Join(repository, "docs", "img", name)
		if *updateDocs {
			must.OK(t, os.WriteFile(path, []byte(want), 0o644))
		}
		if got := must.Get(os.ReadFile(path))(t); !bytes.Equal(got, []byte(want)) {
			t.Errorf("%s is not the picture of README.md's vdb.xml: run this test with -update-docs", path)
		}
	}
}

// renewed returns the name of the file of a new volume.
func renewed(path string) string {
	ext := filepath.Ext(path)
	return strings.TrimSuffix(path, ext) + "-r2" + ext
}

// requirement is a line of go.mod's require blocks.
var requirement = regexp.MustCompile(`(?m)^(?:require )?\s*([a-z][^\s]*\.[^\s]*/[^\s]*) (v[^\s]+)(.*)$`)

// docs/dependencies.md names the modules that the packages import, with the versions of go.mod.
func TestDocsDependencies(t *testing.T) {
	t.Parallel()
	mod := must.Get(os.ReadFile(filepath.Join(repository, "go.mod")))(t)
	doc := must.Get(os.ReadFile(filepath.Join(repository, "docs", "dependencies.md")))(t)
	versions := map[string]string{}
	for _, m := range requirement.FindAllStringSubmatch(string(mod), -1) {
		versions[m[1]] = m[2]
	}
	named := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\| (\S+\.\S+/\S+) \| (v\S+) \|`).FindAllStringSubmatch(string(doc), -1) {
		named[m[1]] = true
		if versions[m[1]] != m[2] {
			t.Errorf("%s: the document says %s and go.mod %q", m[1], m[2], versions[m[1]])
		}
	}
	list := exec.Command("go", "list", "-tags", "pkcs11", "-test", "-f", `{{join .Imports "\n"}}{{"\n"}}{{join .TestImports "\n"}}{{"\n"}}{{join .XTestImports "\n"}}`, "../...")
	list.Env = append(os.Environ(), "CGO_ENABLED=1") // otherwise the tag has no effect
	imports := must.Get(list.Output())(t)
	for module := range versions {
		direct := false
		for path := range strings.Lines(string(imports)) {
			path = strings.TrimSpace(path)
			direct = direct || path == module || strings.HasPrefix(path, module+"/")
		}
		if direct != named[module] {
			t.Errorf("%s: imported: %t, in the document: %t", module, direct, named[module])
		}
	}
}
