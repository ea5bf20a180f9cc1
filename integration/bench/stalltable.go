package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// column is one measured quantity of an attach.
type column struct {
	name string
	of   func(stall) time.Duration
}

var columns = []column{
	{"whole command", func(s stall) time.Duration { return s.command }},
	{"monitor's answer", func(s stall) time.Duration { return s.answer }},
	{"between answers", func(s stall) time.Duration { return s.monitor }},
	{"guest's timer", func(s stall) time.Duration { return s.timer }},
	{"guest's disk", func(s stall) time.Duration { return s.disk }},
}

// spread returns the median of a column and its maximum.
func spread(stalls []stall, of func(stall) time.Duration) (middle, most time.Duration) {
	var all []time.Duration
	for _, s := range stalls {
		all = append(all, of(s))
	}
	return median(all), slices.Max(all)
}

// stallTable returns the table: a line of headings, then one for each way.
func stallTable(ways []way, stalls [][]stall) [][]string {
	heading := []string{"way", "runs"}
	for _, c := range columns {
		heading = append(heading, c.name, "ratio")
	}
	table := [][]string{heading}
	compared := stalls[slices.IndexFunc(ways, func(w way) bool { return w.kind == reference })]
	for i, w := range ways {
		line := []string{w.name, fmt.Sprint(len(stalls[i]))}
		for _, c := range columns {
			middle, most := spread(stalls[i], c.of)
			other, _ := spread(compared, c.of)
			line = append(line, fmt.Sprintf("%.1f (%.1f)", milliseconds(middle), milliseconds(most)), ratio(middle, other))
		}
		table = append(table, line)
	}
	return table
}

// ratio formats the ratio of two times: 0.61, or 1/350.
func ratio(of, to time.Duration) string {
	const small = 10
	if of <= 0 || to/of < small {
		return fmt.Sprintf("%.2f", float64(of)/float64(to))
	}
	return fmt.Sprintf("1/%.0f", float64(to)/float64(of))
}

// wantedStall is the required ratio between the longest answers with virsh and with luksplug. The time
// between two answers is not compared: on an idle monitor it is the pause between two pings.
const wantedStall = 200

// verdict returns, for each of luksplug's ways, which requirements are met.
func verdict(ways []way, stalls [][]stall) []string {
	var lines []string
	compared := stalls[slices.IndexFunc(ways, func(w way) bool { return w.kind == reference })]
	for i, w := range ways {
		if w.kind != ours {
			continue
		}
		command, _ := spread(stalls[i], columns[0].of)
		virshCommand, _ := spread(compared, columns[0].of)
		answer, _ := spread(stalls[i], columns[1].of)
		virshAnswer, _ := spread(compared, columns[1].of)
		lines = append(lines, fmt.Sprintf("%s: the monitor's longest answer takes %s of virsh's (wanted: at most 1/%d, %s), the whole command %s of virsh's (wanted: less than 1, %s).",
			w.name, ratio(answer, virshAnswer), wantedStall, met(answer*wantedStall <= virshAnswer), ratio(command, virshCommand), met(command < virshCommand)))
	}
	return lines
}

func met(ok bool) string {
	if ok {
		return "met"
	}
	return "not met"
}

// publish prints the table and writes it into a document if one is named.
func publish(out io.Writer, document, about string, table [][]string, verdict []string) error {
	text := fmt.Sprintf("%s\nmilliseconds: median (maximum); ratios are those of medians to virsh's\n\n%s\n%s\n", about, align(table), strings.Join(verdict, "\n"))
	if _, err := io.WriteString(out, strings.ReplaceAll(text, "`", "")); err != nil || document == "" {
		return err
	}
	return replaceTable(document, markdown(about, table, verdict))
}

// markdown returns the text between the marks of the document.
func markdown(about string, table [][]string, verdict []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured on %s: %s.\n\n", time.Now().Format("2 January 2006"), about)
	for i, line := range table {
		b.WriteString("| " + strings.Join(line, " | ") + " |\n")
		if i == 0 {
			b.WriteString(strings.Repeat("|---", len(line)) + "|\n")
		}
	}
	for i, line := range verdict {
		if i == 0 {
			b.WriteString("\n")
		}
		b.WriteString("- " + line + "\n")
	}
	return b.String()
}

// The marks between which the document holds the table.
const (
	tableBegin = "<!-- make bench-stall writes from here -->\n"
	tableEnd   = "<!-- to here -->\n"
)

// replaceTable replaces the text between the marks of a document.
func replaceTable(path, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok1 := strings.Cut(string(old), tableBegin)
	_, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s lacks the lines %q and %q, between which the table belongs", path, tableBegin, tableEnd)
	}
	return os.WriteFile(path, []byte(before+tableBegin+text+tableEnd+after), 0o644)
}
