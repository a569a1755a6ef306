package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../../.."

func TestCommittedFilesAreWhatTheDescriptionSays(t *testing.T) {
	dir := t.TempDir()
	out := map[string]string{
		"tracing/stages_gen.go":     filepath.Join(dir, "go"),
		"datapath/bpf/stages.h":     filepath.Join(dir, "c"),
		"docs/reference/reasons.md": filepath.Join(dir, "doc"),
	}
	err := run(filepath.Join(root, "tracing/stages.yaml"),
		out["tracing/stages_gen.go"], out["datapath/bpf/stages.h"], out["docs/reference/reasons.md"])
	if err != nil {
		t.Fatal(err)
	}
	for committed, fresh := range out {
		want, err := os.ReadFile(fresh)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(root, committed))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s is not what the generator writes: run go generate ./tracing and commit", committed)
		}
	}
}

func TestBadDescriptions(t *testing.T) {
	const head = "results: [pass]\nclasses: [{name: policy, from: 100, doc: d}]\n"
	const stage = "stages: [{id: 1, name: port.in, doc: d}]\n"
	for claim, test := range map[string]struct{ text, want string }{
		"an unknown field is refused":          {stage + head + "extra: 1\n", "extra"},
		"no stages":                            {head, "stages is empty"},
		"no results":                           {stage, "results has 0"},
		"two stages with one number":           {"stages: [{id: 1, name: a, doc: d}, {id: 1, name: b, doc: d}]\n" + head, "id 1 belongs to a"},
		"two stages with one name":             {"stages: [{id: 1, name: a, doc: d}, {id: 2, name: a, doc: d}]\n" + head, "a appears twice"},
		"a stage number beyond a byte":         {"stages: [{id: 256, name: a, doc: d}]\n" + head, "id 256 is not in 1 to 255"},
		"a stage without words":                {"stages: [{id: 1, name: a}]\n" + head, "doc is missing"},
		"a stage name in capitals":             {"stages: [{id: 1, name: Port, doc: d}]\n" + head, "dots"},
		"a result twice":                       {stage + "results: [pass, pass]\n", "pass appears twice"},
		"a class that is no hundred":           {stage + "results: [pass]\nclasses: [{name: a, from: 150, doc: d}]\n", "150"},
		"two classes with one range":           {stage + "results: [pass]\nclasses: [{name: a, from: 100, doc: d}, {name: b, from: 100, doc: d}]\n", "belongs to a"},
		"a reason outside every class":         {stage + head + "reasons: [{id: 300, name: a, doc: d}]\n", "range of no class"},
		"two reasons with one number":          {stage + head + "reasons: [{id: 101, name: a, doc: d}, {id: 101, name: b, doc: d}]\n", "id 101 belongs to a"},
		"two reasons with one name":            {stage + head + "reasons: [{id: 101, name: a, doc: d}, {id: 102, name: a, doc: d}]\n", "a appears twice"},
		"a reason with a dash in its name":     {stage + head + "reasons: [{id: 101, name: a-b, doc: d}]\n", "underscores"},
		"a text that ends the C comment":       {stage + head + "reasons: [{id: 101, name: a, doc: 'd */'}]\n", "one line"},
		"a text of two lines":                  {stage + head + "reasons: [{id: 101, name: a, doc: \"d\\ne\"}]\n", "one line"},
		"a number of Hyper-V's without a name": {stage + head + "hyperv: {1: A}\nreasons: [{id: 101, name: a, doc: d, hyperv: 2}]\n", "hyperv 2 has no name"},
		"something that is not YAML at all":    {"\t", "not a description"},
	} {
		t.Run(claim, func(t *testing.T) {
			_, err := parse([]byte(test.text))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v does not say %q", err, test.want)
			}
		})
	}
}

func TestABIFollowsNumbersAndNamesButNotWords(t *testing.T) {
	text := "stages: [{id: 1, name: a, doc: d}]\nresults: [pass]\nclasses: [{name: policy, from: 100, doc: d}]\nreasons: [{id: 101, name: x, doc: d}]\n"
	abi := func(text string) uint32 {
		t.Helper()
		s, err := parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return s.abi()
	}
	if abi(text) != abi(strings.Replace(text, "doc: d", "doc: other", 1)) {
		t.Error("rewording a doc changed the ABI")
	}
	if abi(text) == abi(strings.Replace(text, "101", "102", 1)) {
		t.Error("renumbering a reason kept the ABI")
	}
}
