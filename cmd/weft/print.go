package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"sigs.k8s.io/yaml"
)

// outputs are the values of -o.
var outputs = []string{"table", "wide", "json", "yaml", "name"}

// checkOutput refuses an -o that does not exist, before anything is done.
func (a *app) checkOutput() error {
	if slices.Contains(outputs, a.output) {
		return nil
	}
	return &usageError{message: fmt.Sprintf("-o %s does not exist", a.output), next: "choose one of " + strings.Join(outputs, ", ")}
}

// structured reports whether the output is for programs.
func (a *app) structured() bool { return a.output == "json" || a.output == "yaml" }

// document prints a value as JSON or YAML; the fields are those of the API.
func (a *app) document(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("print the answer: %w", err)
	}
	if a.output == "yaml" {
		if b, err = yaml.JSONToYAML(b); err != nil {
			return fmt.Errorf("print the answer: %w", err)
		}
		_, err = a.out.Write(b)
		return err
	}
	_, err = fmt.Fprintf(a.out, "%s\n", b)
	return err
}

// line prints one of many values that come one after the other: JSON on a line of its own, or a YAML document.
func (a *app) line(v any) error {
	if a.output == "yaml" {
		if _, err := fmt.Fprintln(a.out, "---"); err != nil {
			return err
		}
		return a.document(v)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("print the answer: %w", err)
	}
	_, err = fmt.Fprintf(a.out, "%s\n", b)
	return err
}

// progress tells a person what goes on, on standard error.
func (a *app) progress(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.err, format+"\n", args...)
	}
}

// table prints rows in aligned columns, so that they can be read and cut; empty cells are dashes.
func (a *app) table(head []string, rows [][]string) {
	g := grid{app: a, head: head}
	g.print(rows)
}

// grid is a table that grows: rows that come later stand under the same head, in columns as wide as before.
type grid struct {
	app    *app
	head   []string
	headed bool
	width  []int
}

// print adds rows.
func (g *grid) print(rows [][]string) {
	all := rows
	if !g.headed && !g.app.noHeaders {
		all = append([][]string{g.head}, rows...)
	}
	g.headed = true
	if g.width == nil {
		g.width = make([]int, len(g.head))
	}
	for _, r := range all {
		for i, cell := range r {
			g.width[i] = max(g.width[i], utf8.RuneCountInString(dash(cell)))
		}
	}
	for _, r := range all {
		var line strings.Builder
		for i, cell := range r {
			cell = dash(cell)
			line.WriteString(cell)
			if i < len(r)-1 {
				line.WriteString(strings.Repeat(" ", g.width[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		fmt.Fprintln(g.app.out, line.String())
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// Colours, as SGR parameters (ECMA-48 section 8.3.117).
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
)

// paint colours text where w is a terminal and colours are wanted.
func (a *app) paint(w io.Writer, sgr, text string) string {
	if !a.coloured(w) {
		return text
	}
	return "\x1b[" + sgr + "m" + text + "\x1b[0m"
}

func (a *app) coloured(w io.Writer) bool {
	switch a.color {
	case "always":
		return true
	case "never":
		return false
	}
	if os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
