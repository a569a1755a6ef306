package main

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestAFaultThatDoesNotFitIsRefused(t *testing.T) {
	f := fault{name: "f", file: "a.h", old: "a < b", new: "a <= b"}
	for text, fits := range map[string]bool{"if (a < b)": true, "if (a<b)": false, "a < b && a < b": false} {
		changed, err := f.in(text)
		if (err == nil) != fits {
			t.Errorf("%q: %q, %v", text, changed, err)
		}
		if fits && changed != "if (a <= b)" {
			t.Errorf("%q became %q", text, changed)
		}
	}
}

func TestTheCompilerIsTheOneThatGenerates(t *testing.T) {
	source, err := os.ReadFile(filepath.Join(root, "datapath/core.go"))
	if err != nil {
		t.Fatal(err)
	}
	words, err := generator(string(source))
	if err != nil {
		t.Fatal(err)
	}
	flags := slices.Index(words, "-cflags")
	if flags < 0 || !strings.Contains(words[flags+1], "-O2 ") || !strings.HasSuffix(words[0], "bpf2go") || words[len(words)-1] != "bpf/weft.c" {
		t.Errorf("the command is %q", words)
	}
	if _, err := generator("package datapath\n"); err == nil {
		t.Error("a file that generates nothing has a command")
	}
}

func TestWhatTheTestSaysIsTheVerdict(t *testing.T) {
	for claim, test := range map[string]struct {
		said    string
		err     error
		verdict verdict
		packets int
	}{
		"a difference":          {"--- FAIL\n  seed 1, episode 3, packet 4711\nFAIL\n", errors.New("exit status 1"), caught, 4711},
		"no difference":         {"  seed 1: 900 packets in 2 episodes and 1s, 9 a second\nPASS\n", nil, survived, 900},
		"passed, but failed":    {"  seed 1: 900 packets in 2 episodes and 1s, 9 a second\nFAIL\n", errors.New("exit status 1"), failed, 0},
		"refused by the kernel": {"load the core: the kernel's verifier refuses the core: R1 invalid\n", errors.New("exit status 1"), unusable, 0},
		"a panic":               {"panic: test timed out\n", errors.New("exit status 2"), failed, 0},
	} {
		if v, n := judge(test.said, test.err); v != test.verdict || n != test.packets {
			t.Errorf("%s: %s after %d packets, want %s after %d", claim, v, n, test.verdict, test.packets)
		}
	}
}

func TestAReportComplains(t *testing.T) {
	many := func(n int, v verdict, why string) (rs []result) {
		for range n {
			rs = append(rs, result{fault: fault{name: "f", file: "a.h", means: "m", survives: why}, Verdict: v})
		}
		return rs
	}
	for claim, test := range map[string]struct {
		results []result
		fine    bool
	}{
		"all are caught":              {many(60, caught, ""), true},
		"one of 60 survives, and why": {append(many(59, caught, ""), many(1, survived, "because")...), true},
		"nobody knows why":            {append(many(59, caught, ""), many(1, survived, "")...), false},
		"four of 60 survive":          {append(many(56, caught, ""), many(4, survived, "because")...), false},
		"one does not compile":        {append(many(59, caught, ""), many(1, unusable, "")...), false},
		"one fails otherwise":         {append(many(59, caught, ""), many(1, failed, "")...), false},
		"one was not tried":           {append(many(59, caught, ""), many(1, untried, "")...), false},
		"none was tried":              {nil, false},
	} {
		r := report{Results: test.results}
		if err := r.complaint(); (err == nil) != test.fine {
			t.Errorf("%s: %v", claim, err)
		}
		if text := r.markdown(); strings.Count(text, "| f |") != len(test.results) {
			t.Errorf("%s: the document does not list all faults:\n%s", claim, text)
		}
	}
}
