package main

import (
	"fmt"
	"io"
	"strings"
)

// groupReport is what was measured of a group.
type groupReport struct {
	group group
	// Results have a figure of each contender.
	Results []result
	// Figures are times and counts.
	Figures []figure
}

// ratio is a ratio that was asked for, or is told, as it was measured.
type ratio struct {
	Measure string  `json:"measure"`
	Of      string  `json:"of"`
	Over    string  `json:"over"`
	Least   float64 `json:"least,omitempty"`
	spread
}

// ratios are those of the measures that were taken.
func (p groupReport) ratios() []ratio {
	var all []ratio
	for _, a := range p.group.asked {
		for _, m := range p.Results {
			if s, ok := m.Ratio(a.of, a.over); ok && m.Name == a.measure {
				all = append(all, ratio{m.Text, a.of, a.over, a.least, s})
			}
		}
	}
	return all
}

// row is the ratio as text.
func (r ratio) row() []string {
	row := []string{r.Measure, r.Of + " / " + r.Over, "–", fmt.Sprintf("%.2f (%.2f–%.2f)", r.Median, r.Min, r.Max), ""}
	if r.Least == 0 {
		return row
	}
	row[2], row[4] = fmt.Sprintf("≥ %.2f", r.Least), "reached"
	if r.Median < r.Least {
		row[4] = "**missed**"
	}
	return row
}

// grid is a table of figures: its head, then rows of as many columns.
type grid [][]string

// grids are the report's tables.
func (p groupReport) grids() []grid {
	var all []grid
	rates := grid{{p.group.name, "", "rate"}}
	for _, m := range p.Results {
		if m.Name == curve.Name {
			continue
		}
		for _, name := range m.order {
			rates = append(rates, []string{m.Text, name, format(spreadOf(m.Values[name]), m.Unit)})
		}
	}
	ratios := grid{{"ratio of", "", "asked for", "measured", ""}}
	for _, r := range p.ratios() {
		ratios = append(ratios, r.row())
	}
	figures := grid{append([]string{p.group.name}, controlHead[1:]...)}
	for _, f := range p.Figures {
		figures = append(figures, f.row())
	}
	for _, g := range []grid{rates, ratios, figures} {
		if len(g) > 1 {
			all = append(all, g)
		}
	}
	if c := p.curve(); c != nil {
		all = append(all, curveGrid(*c))
	}
	return all
}

// table writes the figures for a terminal.
func (p groupReport) table(w io.Writer) {
	for _, g := range p.grids() {
		fmt.Fprintln(w)
		for _, row := range g {
			fmt.Fprintln(w, strings.Join(row, "\t"))
		}
	}
}

// curveGrid are the medians of the measure that is plotted.
func curveGrid(m result) grid {
	g := grid{{"kpps by number of rules", "0"}}
	for _, n := range curveSize {
		g[0] = append(g[0], thousands(n))
	}
	for _, l := range plotLines {
		row := []string{l.name()}
		for i := range g[0][1:] {
			rules := noRules
			if i > 0 {
				rules = ruleset{curveSize[i-1], l.stateful}
			}
			row = append(row, fmt.Sprintf("%.1f", spreadOf(m.Values[entry{l.peer, rules}.name()]).Median/1e3))
		}
		g = append(g, row)
	}
	return g
}

// markdown writes the table into a document.
func (g grid) markdown(w io.Writer) {
	fmt.Fprintf(w, "| %s |\n|%s\n", strings.Join(g[0], " | "), strings.Repeat("---|", len(g[0])))
	for _, row := range g[1:] {
		fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
	}
	fmt.Fprintln(w)
}

// groupMarkdown is the figures of a group as a document.
func (r report) groupMarkdown(p groupReport) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s; %d slices of %v each, median (min–max).\n\n", r.taken(), r.Options.Rounds, r.Options.Slice)
	for _, g := range p.grids() {
		g.markdown(&b)
	}
	if p.curve() != nil {
		fmt.Fprintf(&b, "![%s](%s)\n\n", curve.Text, plotFile)
	}
	return b.String()
}

// curve is the measure that is plotted; nil where it was not taken.
func (p groupReport) curve() *result {
	for i := range p.Results {
		if p.Results[i].Name == curve.Name {
			return &p.Results[i]
		}
	}
	return nil
}
