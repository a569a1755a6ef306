package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// machine is where the figures were taken.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Kernel string `json:"kernel"`
	// Load is the load average of the minute before the run: 0 on an idle machine.
	Load string `json:"load"`
}

// report is a whole run.
type report struct {
	Machine machine
	Command string
	Date    time.Time
	Options options
	Results []result
	// Programs are the times in weft's BPF programs.
	Programs []programTime
	// Control are the figures of the control plane.
	Control []figure
	// Groups are those of the groups that were taken.
	Groups []groupReport
}

// goal is a ratio that was asked for.
type goal struct {
	measure, over string
	least         float64
}

// goals are the figures the first release was to reach; docs/benchmarks.md says why one is missed.
var goals = []goal{
	{"udp64", bridge, 1.6},
	{"udp64", raw, 0.72},
	{"udp64-local", bridge, 1.2},
	{"tcp", bridge, 1.0},
	{"tcp-seg", bridge, 1.0},
	{"tcp-to-tap", bridge, 1.0},
	{"tcp-to-tap-seg", bridge, 1.0},
	{"tcp-from-tap", bridge, 1.0},
	{"tcp-from-tap-seg", bridge, 1.0},
	{"rr", bridge, 1.2},
}

// thisMachine reads what the figures depend on.
func thisMachine() (machine, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return machine{}, fmt.Errorf("ask the kernel's name: %w", err)
	}
	m := machine{CPU: runtime.GOARCH, Cores: runtime.NumCPU(), Kernel: unix.ByteSliceToString(name.Release[:])}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return machine{}, err
	}
	m.Load, _, _ = strings.Cut(string(load), " ")
	text, err := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	return m, err
}

// Table writes the results for a terminal.
func (r report) Table(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(r.Results) > 0 {
		fmt.Fprintf(t, "\t%s\t%s\t%s\t%s / %s\t%s / %s\n", raw, bridge, weft, weft, bridge, weft, raw)
	}
	for _, m := range r.Results {
		fmt.Fprintln(t, strings.Join(m.row(), "\t"))
	}
	if all, disturbed := r.slices(); disturbed > 0 {
		fmt.Fprintf(t, "\n%d of %d slices were disturbed by other processes\n", disturbed, all)
	}
	if len(r.Programs) > 0 {
		fmt.Fprintln(t, "\nBPF program\tper frame\ttook")
	}
	for _, p := range r.Programs {
		fmt.Fprintln(t, strings.Join(p.row(), "\t"))
	}
	for _, g := range r.Groups {
		g.table(t)
	}
	if len(r.Control) > 0 {
		fmt.Fprintln(t, "\n"+strings.Join(controlHead, "\t"))
	}
	for _, f := range r.Control {
		fmt.Fprintln(t, strings.Join(f.row(), "\t"))
	}
	return t.Flush()
}

// slices counts the slices of all measures, and those that were disturbed.
func (r report) slices() (all, disturbed int) {
	for _, m := range r.Results {
		for _, values := range m.Values {
			all += len(values)
		}
		disturbed += m.Disturbed
	}
	return all, disturbed
}

// row is a result as text: what is measured, each peer's figure, the ratios.
func (r result) row() []string {
	row := []string{r.Text}
	for _, peer := range []string{raw, bridge, weft} {
		row = append(row, format(spreadOf(r.Values[peer]), r.Unit))
	}
	for _, peer := range []string{bridge, raw} {
		text := "–"
		if s, ok := r.Over(peer); ok {
			text = fmt.Sprintf("%.2f (%.2f–%.2f)", s.Median, s.Min, s.Max)
		}
		row = append(row, text)
	}
	return row
}

// scales make figures of three or four digits.
var scales = map[string]struct {
	divisor float64
	name    string
}{
	"pps":   {1e3, "kpps"},
	"bit/s": {1e9, "Gb/s"},
	"1/s":   {1e3, "k/s"},
	"ns":    {1, "ns"},
}

// format writes a spread with its unit; one without figures is a dash.
func format(s spread, unit string) string {
	if s == (spread{}) {
		return "–"
	}
	scale := scales[unit]
	digits := 1
	if unit == "ns" {
		digits = 0
	}
	return fmt.Sprintf("%.*f %s (%.*f–%.*f)", digits, s.Median/scale.divisor, scale.name,
		digits, s.Min/scale.divisor, digits, s.Max/scale.divisor)
}

// jsonResult is a measure in the JSON output.
type jsonResult struct {
	Name   string               `json:"name"`
	Text   string               `json:"text"`
	Unit   string               `json:"unit"`
	Values map[string][]float64 `json:"values"` // by peer, one per round
	Ratios map[string]spread    `json:"ratios"` // weft over the peer
	// Disturbed is how many of the values were taken while other processes computed.
	Disturbed int `json:"disturbed"`
}

// JSON writes the results for a program.
func (r report) JSON(w io.Writer) error {
	items := make([]jsonResult, 0, len(r.Results))
	results, groups := slices.Clone(r.Results), map[string]any{}
	for _, g := range r.Groups {
		results = append(results, g.Results...)
		groups[g.group.name] = map[string]any{"figures": g.Figures, "ratios": g.ratios()}
	}
	for _, m := range results {
		j := jsonResult{Name: m.Name, Text: m.Text, Unit: m.Unit, Values: m.Values, Ratios: map[string]spread{}, Disturbed: m.Disturbed}
		for _, peer := range []string{raw, bridge} {
			if s, ok := m.Over(peer); ok {
				j.Ratios[peer] = s
			}
		}
		items = append(items, j)
	}
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(map[string]any{
		"machine": r.Machine, "command": r.Command, "date": r.Date.Format(time.RFC3339),
		"rounds": r.Options.Rounds, "sliceSeconds": r.Options.Slice.Seconds(), "items": items, "programs": r.Programs, "control": r.Control,
		"groups": groups,
	})
}
