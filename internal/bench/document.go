package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The generated parts of docs/benchmarks.md stand between these lines; the rest is written by hand.
const (
	documentBegin = "<!-- figures: begin; written by `make bench` -->\n"
	documentEnd   = "<!-- figures: end -->\n"
	controlBegin  = "<!-- control plane: begin; written by `make bench` -->\n"
	controlEnd    = "<!-- control plane: end -->\n"
)

// Document replaces the figures in the file that were taken; others and the text around them stay. A file that is not there
// is left out, since the benchmark may run outside the source tree; it reports whether it wrote.
func (r report) Document(path string) (wrote bool, err error) {
	old, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	text := string(old)
	if len(r.Results) > 0 || len(r.Programs) > 0 {
		if text, err = replace(text, documentBegin, documentEnd, r.markdown()); err != nil {
			return false, fmt.Errorf("write figures into %s: %w", path, err)
		}
	}
	if len(r.Control) > 0 {
		if text, err = replace(text, controlBegin, controlEnd, r.controlMarkdown()); err != nil {
			return false, fmt.Errorf("write figures into %s: %w", path, err)
		}
	}
	for _, g := range r.Groups {
		begin, end := groupMarks(g.group.name)
		if text, err = replace(text, begin, end, r.groupMarkdown(g)); err != nil {
			return false, fmt.Errorf("write figures into %s: %w", path, err)
		}
		if c := g.curve(); c != nil {
			if err := write(filepath.Join(filepath.Dir(path), plotFile), plot(*c)); err != nil {
				return false, err
			}
		}
	}
	return true, write(path, text)
}

// groupMarks are the lines that the figures of a group stand between.
func groupMarks(name string) (begin, end string) {
	return "<!-- " + name + ": begin; written by `make bench` -->\n", "<!-- " + name + ": end -->\n"
}

// write replaces a file as a whole.
func write(path, text string) error {
	temporary := path + ".new"
	if err := os.WriteFile(temporary, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// replace puts text between two lines.
func replace(document, begin, end, text string) (string, error) {
	before, rest, begins := strings.Cut(document, begin)
	_, after, ends := strings.Cut(rest, end)
	if !begins || !ends {
		return "", fmt.Errorf("the lines %q and %q are not there; put them where the figures belong", strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return before + begin + text + end + after, nil
}

// taken says where, how and when the figures were taken.
func (r report) taken() string {
	return fmt.Sprintf("%s, %d cores, Linux %s, load %s before the run; `%s`, %s",
		r.Machine.CPU, r.Machine.Cores, r.Machine.Kernel, r.Machine.Load, r.Command, r.Date.Format("2006-01-02"))
}

// controlMarkdown is the figures of the control plane as a document.
func (r report) controlMarkdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s.\n\n", r.taken())
	fmt.Fprintf(&b, "| %s |\n|%s\n", strings.Join(controlHead, " | "), strings.Repeat("---|", len(controlHead)))
	for _, f := range r.Control {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(f.row(), " | "))
	}
	b.WriteString("\n")
	return b.String()
}

// markdown is the figures as a document.
func (r report) markdown() string {
	var b strings.Builder
	all, disturbed := r.slices()
	fmt.Fprintf(&b, "\n%s; %d slices of %v each, median (min–max); %d of all %d slices were disturbed by other processes.\n\n",
		r.taken(), r.Options.Rounds, r.Options.Slice, disturbed, all)
	fmt.Fprintf(&b, "| | %s | %s | %s | %s / %s | %s / %s |\n|---|---|---|---|---|---|---|\n", raw, bridge, weft, weft, bridge, weft, raw)
	for _, m := range r.Results {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(m.row(), " | "))
	}
	b.WriteString("\n| BPF program | per frame | took |\n|---|---|---|\n")
	for _, p := range r.Programs {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(p.row(), " | "))
	}
	b.WriteString("\n| asked for | over | at least | measured | |\n|---|---|---|---|---|\n")
	for _, g := range goals {
		b.WriteString(r.goalRow(g))
	}
	b.WriteString("\n")
	return b.String()
}

// goalRow says whether the median reached what was asked for.
func (r report) goalRow(g goal) string {
	for _, m := range r.Results {
		s, ok := m.Over(g.over)
		if m.Name != g.measure || !ok {
			continue
		}
		verdict := "reached"
		if s.Median < g.least {
			verdict = "**missed**"
		}
		return fmt.Sprintf("| %s | %s | %.2f | %.2f (%.2f–%.2f) | %s |\n", m.Text, g.over, g.least, s.Median, s.Min, s.Max, verdict)
	}
	return ""
}
