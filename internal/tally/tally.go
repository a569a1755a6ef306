// Command tally runs `go test -json` with the arguments it is given, shows what failed in full and what passed in a line
// per package, names the slowest tests, and ends with "N passed, N failed" (", N skipped" when any). A skipped test fails
// the run: in `make test` nothing is skipped.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// event is one line of `go test -json` (cmd/test2json).
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

// shown is how many of the slowest tests are named.
const shown = 12

type tally struct {
	passed, failed, skipped int
	took                    []event             // what tests that are no part of another took
	output                  map[string][]string // package or package.test → lines not shown yet
}

func main() {
	cmd := exec.Command("go", append([]string{"test", "-json"}, os.Args[1:]...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tally: start go test:", err)
		os.Exit(1)
	}
	t := tally{output: map[string][]string{}}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		t.line(lines.Bytes())
	}
	err = cmd.Wait()
	t.slowest()
	fmt.Printf("%d passed, %d failed", t.passed, t.failed)
	if t.skipped > 0 {
		fmt.Printf(", %d skipped", t.skipped)
	}
	fmt.Println()
	if err != nil || t.failed > 0 || t.skipped > 0 || t.passed == 0 {
		os.Exit(1)
	}
}

func (t *tally) line(raw []byte) {
	var e event
	if json.Unmarshal(raw, &e) != nil { // a build error is plain text
		fmt.Println(string(raw))
		return
	}
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output", "build-output":
		t.output[key] = append(t.output[key], e.Output)
		if e.Action == "build-output" {
			fmt.Print(e.Output)
		}
	case "pass":
		t.ended(e, &t.passed)
		delete(t.output, key)
	case "skip":
		if e.Test != "" {
			t.skipped++
			fmt.Printf("SKIPPED %s %s\n%s", e.Package, e.Test, strings.Join(t.output[key], ""))
		}
	case "fail":
		fmt.Printf("FAILED %s %s (%.1fs)\n%s", e.Package, e.Test, e.Elapsed, strings.Join(t.output[key], ""))
		t.ended(e, &t.failed)
		delete(t.output, key)
	}
}

// ended counts a test, or says that a package is through.
func (t *tally) ended(e event, counter *int) {
	if e.Test != "" {
		*counter++
		if !strings.Contains(e.Test, "/") {
			t.took = append(t.took, e)
		}
		return
	}
	if e.Action == "fail" {
		return
	}
	fmt.Printf("ok   %s (%.1fs)\n", e.Package, e.Elapsed)
}

// slowest names the tests that made the run long.
func (t *tally) slowest() {
	slices.SortFunc(t.took, func(a, b event) int { return cmp.Compare(b.Elapsed, a.Elapsed) })
	for _, e := range t.took[:min(shown, len(t.took))] {
		fmt.Printf("slow %s %s (%.1fs)\n", e.Package, e.Test, e.Elapsed)
	}
}
