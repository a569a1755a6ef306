package main

import (
	"fmt"
	"hash/fnv"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// Spec is the description of all stages, results, classes and reasons. After parse, stages and reasons are in the order
// of their numbers and every reason carries its class and its dense index.
type Spec struct {
	Stages  []Stage  `json:"stages"`
	Results []string `json:"results"`
	Classes []Class  `json:"classes"`
	Reasons []Reason `json:"reasons"`
	// HyperV names Hyper-V's drop reasons by their number.
	HyperV map[int]string `json:"hyperv"`
}

// Stage is one step of a packet's way; ID is 1 to 255.
type Stage struct {
	ID   int    `json:"id"`
	Name string `json:"name"`
	Doc  string `json:"doc"`
}

// Class is a range of 100 reason numbers that begins at From.
type Class struct {
	Name string `json:"name"`
	From int    `json:"from"`
	Doc  string `json:"doc"`
}

// Reason is why a frame was dropped; ID is 100 to 999, its hundred names the class.
type Reason struct {
	ID   int    `json:"id"`
	Name string `json:"name"`
	Doc  string `json:"doc"`
	Fix  string `json:"fix"`
	// HyperV is the number of Hyper-V's reason for such a drop; 0 where it has none.
	HyperV int `json:"hyperv"`

	Class Class `json:"-"`
	Index int   `json:"-"`
}

var (
	stageName  = regexp.MustCompile(`^[a-z][a-z0-9]*(\.[a-z][a-z0-9]*)*$`)
	symbolName = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
)

// parse reads and checks the description. Errors name the entry and say what is wrong with it.
func parse(raw []byte) (*Spec, error) {
	var s Spec
	if err := yaml.UnmarshalStrict(raw, &s); err != nil {
		return nil, fmt.Errorf("not a description of stages: %w", err)
	}
	if err := s.checkTexts(); err != nil {
		return nil, err
	}
	for _, check := range []func() error{s.checkStages, s.checkResults, s.checkClasses, s.checkReasons} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	return &s, nil
}

// checkTexts keeps every text to one line that cannot end a C comment.
func (s *Spec) checkTexts() error {
	var texts []string
	for _, st := range s.Stages {
		texts = append(texts, st.Doc)
	}
	for _, c := range s.Classes {
		texts = append(texts, c.Doc)
	}
	for _, r := range s.Reasons {
		texts = append(texts, r.Doc, r.Fix)
	}
	for _, text := range texts {
		if strings.ContainsAny(text, "\r\n") || strings.Contains(text, "*/") {
			return fmt.Errorf("text %q must be one line without */", text)
		}
	}
	return nil
}

func (s *Spec) checkStages() error {
	ids, names := map[int]string{}, map[string]bool{}
	for _, st := range s.Stages {
		switch {
		case !stageName.MatchString(st.Name):
			return fmt.Errorf("stage %d: name %q must be words of [a-z0-9] joined by dots", st.ID, st.Name)
		case st.ID < 1 || st.ID > 255:
			return fmt.Errorf("stage %s: id %d is not in 1 to 255", st.Name, st.ID)
		case ids[st.ID] != "":
			return fmt.Errorf("stage %s: id %d belongs to %s", st.Name, st.ID, ids[st.ID])
		case names[st.Name]:
			return fmt.Errorf("stage %s appears twice", st.Name)
		case st.Doc == "":
			return fmt.Errorf("stage %s: doc is missing", st.Name)
		}
		ids[st.ID], names[st.Name] = st.Name, true
	}
	if len(s.Stages) == 0 {
		return fmt.Errorf("stages is empty")
	}
	slices.SortFunc(s.Stages, func(a, b Stage) int { return a.ID - b.ID })
	return nil
}

func (s *Spec) checkResults() error {
	seen := map[string]bool{}
	for _, r := range s.Results {
		if !symbolName.MatchString(r) {
			return fmt.Errorf("result %q must be words of [a-z0-9] joined by underscores", r)
		}
		if seen[r] {
			return fmt.Errorf("result %s appears twice", r)
		}
		seen[r] = true
	}
	if len(s.Results) == 0 || len(s.Results) > 255 {
		return fmt.Errorf("results has %d entries, it takes 1 to 255", len(s.Results))
	}
	return nil
}

func (s *Spec) checkClasses() error {
	from, names := map[int]string{}, map[string]bool{}
	for _, c := range s.Classes {
		switch {
		case !symbolName.MatchString(c.Name):
			return fmt.Errorf("class %q must be words of [a-z0-9] joined by underscores", c.Name)
		case c.From < 100 || c.From > 900 || c.From%100 != 0:
			return fmt.Errorf("class %s: from %d is not a hundred in 100 to 900", c.Name, c.From)
		case from[c.From] != "":
			return fmt.Errorf("class %s: from %d belongs to %s", c.Name, c.From, from[c.From])
		case names[c.Name]:
			return fmt.Errorf("class %s appears twice", c.Name)
		case c.Doc == "":
			return fmt.Errorf("class %s: doc is missing", c.Name)
		}
		from[c.From], names[c.Name] = c.Name, true
	}
	slices.SortFunc(s.Classes, func(a, b Class) int { return a.From - b.From })
	return nil
}

func (s *Spec) checkReasons() error {
	classes := map[int]Class{}
	for _, c := range s.Classes {
		classes[c.From] = c
	}
	slices.SortStableFunc(s.Reasons, func(a, b Reason) int { return a.ID - b.ID })
	names := map[string]bool{}
	for i := range s.Reasons {
		r := &s.Reasons[i]
		class, ok := classes[r.ID/100*100]
		switch {
		case !symbolName.MatchString(r.Name):
			return fmt.Errorf("reason %d: name %q must be words of [a-z0-9] joined by underscores", r.ID, r.Name)
		case !ok:
			return fmt.Errorf("reason %s: id %d is in the range of no class", r.Name, r.ID)
		case i > 0 && s.Reasons[i-1].ID == r.ID:
			return fmt.Errorf("reason %s: id %d belongs to %s", r.Name, r.ID, s.Reasons[i-1].Name)
		case names[r.Name]:
			return fmt.Errorf("reason %s appears twice", r.Name)
		case r.Doc == "":
			return fmt.Errorf("reason %s: doc is missing", r.Name)
		case r.HyperV != 0 && s.HyperV[r.HyperV] == "":
			return fmt.Errorf("reason %s: hyperv %d has no name", r.Name, r.HyperV)
		}
		names[r.Name] = true
		r.Class, r.Index = class, i+1
	}
	return nil
}

// abi changes whenever a number or a dense index changes its meaning: counters kept under another value are not ours.
func (s *Spec) abi() uint32 {
	h := fnv.New32a()
	for _, st := range s.Stages {
		fmt.Fprintf(h, "s %d %s\n", st.ID, st.Name)
	}
	for i, r := range s.Results {
		fmt.Fprintf(h, "r %d %s\n", i+1, r)
	}
	for _, r := range s.Reasons {
		fmt.Fprintf(h, "d %d %d %s\n", r.Index, r.ID, r.Name)
	}
	return h.Sum32()
}
