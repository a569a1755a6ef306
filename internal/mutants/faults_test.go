package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

func TestEveryFaultFitsTheSources(t *testing.T) {
	names := map[string]bool{}
	for _, f := range faults() {
		if names[f.name] {
			t.Errorf("two faults are named %q", f.name)
		}
		names[f.name] = true
		if f.name == "" || f.means == "" || f.old == f.new || strings.ContainsAny(f.name+f.means+f.survives, "|\n") {
			t.Errorf("fault %q is not described", f.name)
		}
		text, err := os.ReadFile(filepath.Join(root, sources, f.file))
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := f.in(string(text)); err != nil {
			t.Error(err)
		}
	}
	if len(names) < fewest {
		t.Errorf("%d faults, want %d", len(names), fewest)
	}
}
