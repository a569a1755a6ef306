package tracing

import (
	"encoding/json"
	"testing"
)

func TestNamesSurviveJSON(t *testing.T) {
	type all struct {
		Stage  Stage
		Result Result
		Reason Reason
		Class  Class
	}
	want := all{StagePortOut, ResultCaught, ReasonProbeCaught, ClassProbe}
	raw, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	const text = `{"Stage":"port.out","Result":"caught","Reason":"probe_caught","Class":"probe"}`
	if string(raw) != text {
		t.Fatalf("got %s, want %s", raw, text)
	}
	var got all
	if err := json.Unmarshal(raw, &got); err != nil || got != want {
		t.Fatalf("got %+v (%v), want %+v", got, err, want)
	}
	// A newer release's number survives too.
	got.Stage = 77
	raw, _ = json.Marshal(got.Stage)
	var stage Stage
	if err := json.Unmarshal(raw, &stage); err != nil || stage != 77 {
		t.Fatalf("%s became %d (%v)", raw, stage, err)
	}
	if err := json.Unmarshal([]byte(`"nowhere"`), &stage); err == nil {
		t.Fatal("an unknown stage name was taken")
	}
}

func TestReasonIndicesAreDense(t *testing.T) {
	for i, r := range Reasons() {
		if r.Index() != i+1 || ReasonAt(i+1) != r {
			t.Errorf("%s has index %d, and index %d is %s", r, r.Index(), i+1, ReasonAt(i+1))
		}
		if r.Doc() == "" || r.Class().Doc() == "" {
			t.Errorf("%s or its class says nothing", r)
		}
	}
	if n := len(Reasons()) + 1; n != ReasonCount {
		t.Errorf("ReasonCount is %d, there are %d with index 0", ReasonCount, n)
	}
	if Reason(150).Index() != 0 || ReasonAt(0) != 0 || ReasonAt(ReasonCount) != 0 {
		t.Error("an unknown reason or index is not 0")
	}
}

func TestOnlyPolicyAndProbesDropOnPurpose(t *testing.T) {
	for r, want := range map[Reason]bool{ReasonGuardSrcMAC: true, ReasonProbeCaught: true, ReasonMTUExceeded: false, ReasonUnexplained: false} {
		if got := r.Class().Intended(); got != want {
			t.Errorf("%s intended: %v, want %v", r, got, want)
		}
	}
}
