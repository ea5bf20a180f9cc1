package main

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// errorTexts returns the texts of which the errors, hints and findings of the libraries and programs are made, each with
// its package: "qmp: cannot connect ...". %s stands for what is put in. They are
//
//   - what is given to a function that returns an error, or to a function that such texts are made by, such as refuse;
//   - the strings of a value that is an error, of a rule, and of a table of hints or advice;
//   - the strings of a method Error.
//
// A text without a space is a name or a part, and is left out.
func (h *house) errorTexts() []string {
	out := map[string]bool{}
	for _, p := range h.pkgs {
		if !p.library() && p.path != "cmd/luksplug" || forTests.MatchString(p.path) {
			continue
		}
		for _, file := range p.files {
			add := func(text string) {
				if strings.Contains(strings.TrimSpace(text), " ") && !onlyPutIn.MatchString(text) {
					out[p.path+": "+strings.ReplaceAll(text, "\n", `\n`)] = true
				}
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr:
					if p.makesError(n) {
						for _, arg := range n.Args {
							p.texts(arg, add)
						}
					}
				case *ast.CompositeLit:
					if p.isAbout(n) {
						p.texts(n, add)
					}
				case *ast.FuncDecl:
					isError := n.Name.Name == "Error" && n.Recv != nil
					if n.Body != nil && (isError || textFunctions.MatchString(n.Name.Name)) {
						p.texts(n.Body, add)
					}
				}
				return true
			})
		}
	}
	return slices.Sorted(maps.Keys(out))
}

// forTests are the packages that help tests.
var forTests = regexp.MustCompile(`^internal/(testserver|\w*test)(/|$)`)

// onlyPutIn is a text without words of its own.
var onlyPutIn = regexp.MustCompile(`^(%[a-z]|[\s:,;()'"])*$`)

// textFunctions are the names of functions that return a part of an error or a hint against it.
var textFunctions = regexp.MustCompile(`(?i)(hint|why|because|advice|explain|reason|refus|unixError|tcpError)|^(near|mute|foreign|existing|OtherTarget|Unix|TCP|dialError)$`)

// textMakers are the names of functions that take the text of an error, a warning or a finding, and do not return an error.
var textMakers = regexp.MustCompile(`^(Badf|Warnf?|rule|refuse|invalid|unsupported)$`)

// printers are the names of functions that print what a command has to say, and return the error of writing.
var printers = regexp.MustCompile(`^(show\w*|print|note)$`)

var errorType = types.Universe.Lookup("error").Type().Underlying().(*types.Interface)

// makesError reports whether a call returns an error as its only or last result, or takes the text of one.
func (p *pkg) makesError(call *ast.CallExpr) bool {
	name := called(call)
	switch {
	case textMakers.MatchString(name):
		return true
	case printers.MatchString(name):
		return false
	}
	of := p.info.Types[call].Type
	if of == nil {
		return false
	}
	if _, several := of.(*types.Tuple); several {
		return false // a call that does something, whose arguments are not texts
	}
	return types.Implements(of, errorType) || types.Implements(types.NewPointer(of), errorType)
}

// called returns the name of the function that is called, without its package or receiver.
func called(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

// isAbout reports whether a value is an error, or a rule, hint or advice.
func (p *pkg) isAbout(value *ast.CompositeLit) bool {
	of := p.info.Types[value].Type
	if of == nil {
		return false
	}
	if types.Implements(of, errorType) || types.Implements(types.NewPointer(of), errorType) {
		return true
	}
	s, ok := of.Underlying().(*types.Struct)
	if !ok {
		if m, isMap := of.Underlying().(*types.Map); isMap {
			return strings.Contains(of.String(), "dialing.Kind") && types.Identical(m.Elem(), types.Typ[types.String])
		}
		if l, isSlice := of.Underlying().(*types.Slice); isSlice {
			s, ok = l.Elem().Underlying().(*types.Struct)
		}
	}
	for i := 0; ok && i < s.NumFields(); i++ {
		switch strings.ToLower(s.Field(i).Name()) {
		case "reason", "hint", "instead", "refuse":
			return true
		}
	}
	return false
}

// texts calls add for each string in an expression. Parts that are put together are one text.
func (p *pkg) texts(in ast.Node, add func(string)) {
	ast.Inspect(in, func(n ast.Node) bool {
		e, ok := n.(ast.Expr)
		if !ok {
			return true
		}
		switch n := n.(type) {
		case *ast.BasicLit, *ast.BinaryExpr:
			if n, ok := n.(*ast.BinaryExpr); ok && n.Op != token.ADD {
				return true
			}
			if text, found := p.text(e); found {
				add(text)
				return false
			}
		case *ast.FuncLit:
			return false // has calls of its own
		case *ast.CallExpr:
			return !printers.MatchString(called(n))
		}
		return true
	})
}

// text returns the text of an expression, in which %s stands for what is not constant, and reports whether it has a
// constant part.
func (p *pkg) text(e ast.Expr) (string, bool) {
	if v := p.info.Types[e].Value; v != nil && v.Kind() == constant.String {
		return constant.StringVal(v), true
	}
	switch e := e.(type) {
	case *ast.ParenExpr:
		return p.text(e.X)
	case *ast.BinaryExpr:
		left, constantLeft := p.text(e.X)
		right, constantRight := p.text(e.Y)
		return left + right, constantLeft || constantRight
	case *ast.CallExpr:
		if len(e.Args) > 0 && fmt.Sprint(e.Fun) == "&{fmt Sprintf}" {
			if text, ok := p.text(e.Args[0]); ok {
				return text, true
			}
		}
	}
	return "%s", false
}

// fault is what no text of an error has.
type fault struct {
	what   string
	like   *regexp.Regexp
	unless *regexp.Regexp // is right nevertheless; nil for nothing
}

var faults = []fault{
	{"a word of Go or its libraries", regexp.MustCompile(`\bnil\b|[Uu]nmarshal|strconv|\bEOF\b|context (deadline|canceled)|goroutine|\bpanic\b|%!|%#v|%T\b|\b(struct|interface)\b`),
		regexp.MustCompile(`^has type %T; use a basic type, Object`)}, // for programmers, see package qapi
	{"words that say nothing", regexp.MustCompile(`(?i)unknown error|internal error|something went wrong|\boops\b|unexpected error|error (has )?occurred|^error\b|failed to |unable to |could not be performed|please`),
		regexp.MustCompile(`(?i)^failed to parse `)}, // libvirt's
	{"punctuation or space at the end", regexp.MustCompile(`[.,;!\s]$`), regexp.MustCompile(`^(, and |&lt;|&amp;|xml: encoding |.*&(lt|amp);|.* which is off,|.* - _ and \.)$`)},
	{"a line break", regexp.MustCompile(`\\n`), nil},
	{"a capital letter at the beginning", regexp.MustCompile(`^[A-Z][a-z]+ `), regexp.MustCompile(`^(Linux|Debian|Ceph|Barbican|Keystone|(Storage pool|Failed to parse|Missing|Invalid|Setting) )`)}, // names, and libvirt's own texts
	{"a person", regexp.MustCompile(`(?i)\b(whoever|somebody|nobody|anybody|we|us|our)\b`), nil},
	{"another project's word", regexp.MustCompile(`(?i)\b(folder|tells whether)\b`), nil},
}

// faultsOf returns what is wrong about a text of errorTexts.
func faultsOf(text string) []string {
	_, text, _ = strings.Cut(text, ": ")
	var out []string
	for _, f := range faults {
		if f.like.MatchString(text) && (f.unless == nil || !f.unless.MatchString(text)) {
			out = append(out, f.what)
		}
	}
	return out
}
