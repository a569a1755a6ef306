package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// sources is where the C code is, below the root of the module.
const sources = "datapath/bpf"

// fault is one mistake in the C code. It changes no size of a map's key or value, and somebody can observe it by what ADR 10
// says: else it is no fault.
type fault struct {
	name string
	file string // in sources
	old  string // occurs exactly once in the file
	new  string
	// means says in one line what an operator would suffer from.
	means string
	// survives says why the test does not notice, where it is known not to.
	survives string
}

// faults are all of them, by the step of the judgement that they are in.
func faults() []fault {
	var all []fault
	for _, some := range [][]fault{packetFaults, ruleFaults, flowFaults, tcpFaults, judgeFaults, segmentFaults, wayFaults, plainFaults} {
		all = append(all, some...)
	}
	return all
}

// apply puts the fault into the sources in a directory.
func (f fault) apply(dir string) error {
	path := filepath.Join(dir, f.file)
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("fault %s: %w", f.name, err)
	}
	changed, err := f.in(string(text))
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(changed), 0o644)
}

// in is the text with the fault in it; an error if the text that it changes is not there, or there twice.
func (f fault) in(text string) (string, error) {
	if n := strings.Count(text, f.old); n != 1 {
		return "", fmt.Errorf("fault %s: the text that it changes occurs %d times in %s, not once: the code has changed, and the fault must follow", f.name, n, f.file)
	}
	return strings.Replace(text, f.old, f.new, 1), nil
}
