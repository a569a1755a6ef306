package impair

import (
	"testing"
	"time"
)

func TestWhatIsPinnedIsFoundAndMissedWhenItGoes(t *testing.T) {
	r := newRig(t)
	r.in(t, func() error { return Set("v0", r.pins, Rates{Loss: 0.5}) })
	all, err := Pinned(r.pins)
	if err != nil || len(all.Programs) != 1 || len(all.Maps) < 2 || len(all.Links) != 1 {
		t.Fatalf("found %+v, %v", all, err)
	}
	if left, err := all.Left(); err != nil || left.Count() != all.Count() {
		t.Fatalf("of %+v there is %+v, %v", all, left, err)
	}
	r.in(t, func() error { return Clear("v0", r.pins) })
	deadline := time.Now().Add(10 * time.Second)
	for { // the kernel takes a moment to free them
		left, err := all.Left()
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("after 10 s there is still %+v, %v", left, err)
		}
		if left.Count() == 0 {
			return
		}
	}
}
