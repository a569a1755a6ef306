package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// differential is the test that compares the core with policy.Model.
const differential = "TestTheCoreDecidesAsTheModel"

// verdict is what became of a fault.
type verdict string

const (
	caught   verdict = "caught"
	survived verdict = "survived"
	unusable verdict = "not usable" // the compiler or the kernel's verifier refuses it, and nobody would ever run it
	untried  verdict = "not tried"
	failed   verdict = "failed" // for another reason than a difference: neither caught nor survived
)

// result is a fault and what became of it.
type result struct {
	fault
	Verdict verdict
	Packets int // that the test has played
	Took    time.Duration
	Said    string // by the test
}

// String is a line of the table that a run prints.
func (r result) String() string {
	line := fmt.Sprintf("%-10s %-36s %-12s %8d packets %6.1f s", r.Verdict, r.name, r.file, r.Packets, r.Took.Seconds())
	if r.Verdict == unusable || r.Verdict == failed {
		line += "\n" + r.Said
	}
	return line
}

// packets is how many packets the test has played, empty where it has not.
func (r result) packets() string {
	if r.Packets == 0 {
		return ""
	}
	return strconv.Itoa(r.Packets)
}

// What the test says.
var (
	passes   = regexp.MustCompile(`(?m)seed \d+: (\d+) packets in \d+ episodes`)
	differs  = regexp.MustCompile(`(?m)seed \d+, episode \d+(?:, packet (\d+))?`)
	refusals = "the kernel's verifier refuses the core"
)

// control has the test run on the core as it is, which must pass; else no fault could be told from none.
func (w *workshop) control(ctx context.Context, o options) (string, error) {
	binary, err := w.build(ctx, fault{name: "control"})
	if err != nil {
		return "", err
	}
	r := w.try(mutant{fault: fault{name: "control"}, binary: binary}, o)
	if r.Verdict != survived {
		return "", fmt.Errorf("the test fails on the core as it is:\n%s", r.Said)
	}
	return fmt.Sprintf("no difference in %d packets, %.0f s", r.Packets, r.Took.Seconds()), nil
}

// try runs the test on a mutant, and throws the mutant away.
func (w *workshop) try(m mutant, o options) result {
	r := result{fault: m.fault, Verdict: failed}
	if m.err != nil {
		r.Said = m.err.Error()
		if errors.Is(m.err, errUnusable) {
			r.Verdict = unusable
		}
		return r
	}
	defer os.RemoveAll(filepath.Dir(m.binary))
	// An interrupt waits for the test, which takes down what it has set up and ends soon by itself.
	cmd := exec.Command(m.binary, "-test.run", "^"+differential+"$", "-test.v", "-test.timeout", (o.limit + time.Minute).String())
	cmd.Dir = filepath.Join(w.root, "datapath")
	cmd.Env = append(os.Environ(), "WEFT_DIFFER="+o.limit.String(), "WEFT_SEED="+strconv.FormatUint(o.seed, 10))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	began := time.Now()
	out, err := cmd.CombinedOutput()
	r.Took, r.Said = time.Since(began), string(out)
	r.Verdict, r.Packets = judge(r.Said, err)
	return r
}

// judge reads what the test said, and how it ended, for what became of the fault and how many packets it took.
func judge(said string, err error) (verdict, int) {
	if found := passes.FindStringSubmatch(said); found != nil && err == nil {
		n, _ := strconv.Atoi(found[1])
		return survived, n
	}
	if strings.Contains(said, refusals) {
		return unusable, 0
	}
	if found := differs.FindStringSubmatch(said); found != nil && err != nil {
		n, _ := strconv.Atoi(found[1])
		return caught, n
	}
	return failed, 0
}
