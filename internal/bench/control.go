package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/internal/lab"
)

// controlName is the group of measures that a real lab is made for: agents, etcd and all.
const controlName = "control"

// effort is how much of the control plane's work is timed.
type effort struct {
	Labs, Attaches, Changes, Commands, Memberships, Ports int
	// Settle is how long an agent may give memory back to the kernel before its memory is read.
	Settle time.Duration
	// Patience is how long, in all, to wait for a machine that nobody else uses before a lab is made. What runs beside a lab
	// once it is up cannot be told from it.
	Patience time.Duration
}

// effort is less for a quick run.
func (o options) effort() effort {
	if o.Quick {
		return effort{Labs: 1, Attaches: 10, Changes: 50, Commands: 50, Memberships: 5, Ports: 10_000, Settle: 10 * time.Second, Patience: o.Patience}
	}
	return effort{Labs: 3, Attaches: 100, Changes: 500, Commands: 300, Memberships: 30, Ports: 10_000, Settle: 30 * time.Second, Patience: o.Patience}
}

// figure is one figure of the control plane.
type figure struct {
	Name string `json:"name"`
	Text string `json:"text"`
	Unit string `json:"unit"` // s, ms, MB; empty for a count
	// Values are all that was measured, in order of time.
	Values []float64 `json:"values"`
	// Most is what was asked for, 0 where nothing was; P99 says whether it is about the slowest hundredth or the median.
	Most float64 `json:"most,omitempty"`
	P99  bool    `json:"p99,omitempty"`
	// None: what was asked for is that nothing is counted, ever.
	None bool `json:"none,omitempty"`
}

// quantile is the smallest value that this part of all values does not exceed.
func (f figure) quantile(part float64) float64 {
	if len(f.Values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(f.Values))
	return sorted[max(int(math.Ceil(part*float64(len(sorted))))-1, 0)]
}

// row is a figure as text: what it is, median, p99, largest, how many, what was asked for, and whether it was reached.
func (f figure) row() []string {
	number := func(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) + " " + f.Unit }
	if f.Unit == "" {
		number = func(v float64) string { return thousands(int(v)) }
	}
	row := []string{f.Text, number(f.quantile(0.5)), "–", number(f.quantile(1)), strconv.Itoa(len(f.Values)), "–", ""}
	if len(f.Values) >= 100 { // fewer have no hundredth
		row[2] = number(f.quantile(0.99))
	}
	if f.None {
		row[5], row[6] = "0", "reached"
		if f.quantile(1) > 0 {
			row[6] = "**missed**"
		}
	}
	if f.Most == 0 {
		return row
	}
	decides, which := f.quantile(0.5), ""
	if f.P99 {
		decides, which = f.quantile(0.99), "p99 "
	}
	row[5], row[6] = fmt.Sprintf("%s≤ %g %s", which, f.Most, f.Unit), "reached"
	if decides > f.Most {
		row[6] = "**missed**"
	}
	return row
}

// controlHead names the columns of row.
var controlHead = []string{"control plane", "median", "p99", "largest", "of", "asked for", ""}

// takeControl makes labs with real agents and times what they do.
func takeControl(ctx context.Context, e effort, progress func(string)) (figures []figure, err error) {
	if err := sweepLabs(ctx); err != nil {
		return nil, fmt.Errorf("take down the labs of an earlier benchmark: %w", err)
	}
	err = withWeft(ctx, func(weft string) error {
		figures, err = controlFigures(ctx, weft, e, progress)
		return err
	})
	return figures, err
}

// withWeft builds the program that labs run, and removes it after do.
func withWeft(ctx context.Context, do func(weft string) error) error {
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	weft := filepath.Join(dir, "weft")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", weft, "github.com/weftnet/weft/cmd/weft")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as make build does
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build weft, which the labs run: %w", err)
	}
	return do(weft)
}

// controlFigures takes them with this program.
func controlFigures(ctx context.Context, weft string, e effort, progress func(string)) (figures []figure, err error) {
	q := quiet{budget: e.Patience}
	up := figure{Name: "lab-up", Text: "lab up, 3 hosts with etcd on each", Unit: "s", Most: 15}
	for n := range e.Labs {
		progress(up.Text)
		err := withLab(ctx, &q, weft, 3, func(b *bed) error {
			up.Values = append(up.Values, b.took.Seconds())
			if n < e.Labs-1 {
				return nil
			}
			figures, err = b.small(ctx, e, progress)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	figures = append([]figure{up}, figures...)
	progress("an agent's memory with many ports elsewhere")
	err = withLab(ctx, &q, weft, 4, func(b *bed) error {
		more, err := b.memory(ctx, e)
		figures = append(figures, more...)
		return err
	})
	return figures, err
}

// bed is a lab to measure in.
type bed struct {
	lab  *lab.Lab
	weft string
	// took is how long it took to be ready.
	took time.Duration
	api  *client.Client
}

// withLab runs do in a lab with a switch "blue" on it, and takes the lab down whatever happens.
func withLab(ctx context.Context, q *quiet, weft string, hosts int, do func(*bed) error) (err error) {
	if err := q.Await(ctx); err != nil {
		return err
	}
	begun := time.Now()
	l, err := lab.Up(ctx, lab.Options{Name: labName(), Hosts: hosts, Binary: weft}, nil)
	if l != nil {
		defer func() {
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			err = errors.Join(err, l.Down(last))
		}()
	}
	if err != nil {
		return err
	}
	b := &bed{lab: l, weft: weft, took: time.Since(begun)}
	if b.api, err = l.Client("h1"); err != nil {
		return err
	}
	defer b.api.Close()
	if err := b.put(ctx, blueSwitch()); err != nil {
		return err
	}
	return do(b)
}

// labPrefix begins the name of every lab the benchmark makes.
const labPrefix = "bench"

// labName is this process's own.
func labName() string { return labPrefix + strconv.Itoa(os.Getpid()) }

// sweepLabs takes down what benchmarks that were killed have left.
func sweepLabs(ctx context.Context) error {
	names, err := lab.List()
	errs := []error{err}
	for _, name := range names {
		text, ours := strings.CutPrefix(name, labPrefix)
		if !ours || !orphaned(prefix+text) {
			continue
		}
		l, err := lab.Open(name)
		if err == nil {
			err = l.Down(ctx)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// put applies an object and waits until it is in force on every host.
func (b *bed) put(ctx context.Context, o fabric.Object) error {
	res, err := b.api.Apply(ctx, []fabric.Object{o}, false)
	if err != nil {
		return err
	}
	f, err := b.api.WaitInForce(ctx, res.Revision)
	if err == nil && !f.Done {
		err = fmt.Errorf("%s is not in force everywhere: %+v", fabric.Ref(o), f.Hosts)
	}
	return err
}

// small measures what takes a lab of three hosts with few ports.
func (b *bed) small(ctx context.Context, e effort, progress func(string)) ([]figure, error) {
	guest, err := b.lab.AddGuest(ctx, lab.GuestOptions{Name: "b", Host: "h2", Switch: "blue", Kind: lab.Veth}, nil)
	if err != nil {
		return nil, err
	}
	var out []figure
	for _, m := range []struct {
		figure
		take func() ([]float64, error)
	}{
		{figure{Name: "attach", Text: "POST attach to the first packet delivered on another host", Unit: "ms", Most: 50},
			func() ([]float64, error) { return b.attach(ctx, guest, e.Attaches) }},
		{figure{Name: "change", Text: "change to in force on 3 hosts, through the API", Unit: "ms", Most: 100, P99: true},
			func() ([]float64, error) { return b.changes(ctx, "b", e.Changes) }},
		{figure{Name: "change-cli", Text: "the same, as one weft set each", Unit: "ms", Most: 100, P99: true},
			func() ([]float64, error) { return b.commands(ctx, e.Commands) }},
		{figure{Name: "membership", Text: "a group of " + thousands(members) + " members grows by one, in force on 3 hosts", Unit: "ms"},
			func() ([]float64, error) { return b.membership(ctx, "b", e.Memberships) }},
	} {
		progress(m.Text)
		if m.Values, err = m.take(); err != nil {
			return nil, fmt.Errorf("measure %s: %w", m.Name, err)
		}
		out = append(out, m.figure)
	}
	return out, nil
}

// changes turns a guard of a port off and on through the API, and times each until it is in force on every host.
func (b *bed) changes(ctx context.Context, name fabric.PortID, n int) (took []float64, err error) {
	port, err := b.api.Port(ctx, name)
	if err != nil {
		return nil, err
	}
	for i := range n {
		on := i%2 == 1
		port.Metadata.Revision, port.Spec.Guards.RA = 0, &on
		begun := time.Now()
		if err := b.put(ctx, port); err != nil {
			return nil, err
		}
		took = append(took, milliseconds(begun))
	}
	return took, nil
}

// commands does the same with the command line, the start of the process included.
func (b *bed) commands(ctx context.Context, n int) (took []float64, err error) {
	for i := range n {
		cmd := exec.CommandContext(ctx, b.weft, "--lab", b.lab.Name, "--quiet", "set", "port", "b", fmt.Sprintf("guards.ra=%t", i%2 == 1))
		begun := time.Now()
		if text, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, text)
		}
		took = append(took, milliseconds(begun))
	}
	return took, nil
}

func milliseconds(since time.Time) float64 {
	return float64(time.Since(since)) / float64(time.Millisecond)
}
