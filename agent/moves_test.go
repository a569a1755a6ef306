package agent

import (
	"errors"
	"strings"
	"testing"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

func TestAMoveThatCannotGoWellIsRefusedBeforeItBegins(t *testing.T) {
	h := newHouse(t, "tap-a")
	n := h.settled()
	n.put(t, prt("b"))
	n.until(t, "reported", func() bool {
		s, err := n.store.Statuses(t.Context())
		return err == nil && s["h1"].Ready
	})
	silent := &fabric.Host{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindHost}, Metadata: fabric.Metadata{Name: "h2"},
		Spec: fabric.HostSpec{VTEP: n.config.Underlay.Address.Next(), UnderlayMTU: 1500},
	}
	if err := n.reports.ReportHost(t.Context(), silent); err != nil {
		t.Fatal(err)
	}
	newer := &fabric.Host{TypeMeta: silent.TypeMeta, Metadata: fabric.Metadata{Name: "h3"}, Spec: silent.Spec}
	newer.Spec.VTEP = silent.Spec.VTEP.Next()
	if err := n.reports.ReportHost(t.Context(), newer); err != nil {
		t.Fatal(err)
	}
	other := fabric.HostStatus{Ready: true, Version: "v9", Moves: fabric.MoveForms{Least: 2, Most: 3}}
	if err := n.reports.ReportStatus(t.Context(), "h3", other); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		r    api.MoveRequest
		is   error
		want string
	}{
		{"an unknown VM", api.MoveRequest{VM: "x", To: "h2"}, fabric.ErrNotFound, "no port belongs to this VM"},
		{"an unknown port", api.MoveRequest{Port: "x", To: "h2"}, fabric.ErrNotFound, "no such port"},
		{"an unknown host", api.MoveRequest{VM: "a", To: "h9"}, fabric.ErrNotFound, "The hosts are: h1, h2, h3."},
		{"a host that does not report", api.MoveRequest{VM: "a", To: "h2"}, api.ErrUnavailable, "its agent does not report"},
		{"a host whose agent is of another release", api.MoveRequest{VM: "a", To: "h3"}, fabric.ErrConflict, "of v9 (moves in forms 2 to 3), which has no form of a move in common with that of host h1"},
		{"a VM that is off", api.MoveRequest{VM: "b", To: "h1"}, fabric.ErrConflict, "the VM does not run"},
		{"where it is already", api.MoveRequest{Port: "a", To: "h1"}, fabric.ErrInvalid, "runs on host h1 already"},
	} {
		for _, dry := range []bool{true, false} {
			c.r.DryRun = dry
			if _, err := n.moves.Start(t.Context(), c.r); !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s (dry run %v): got %v, want %q in it", c.name, dry, err, c.want)
			}
		}
	}
	if len(n.Latest().Moves) != 0 || n.Latest().Locations["a"].Grant != nil {
		t.Fatalf("something was begun: %+v", n.Latest().Moves)
	}
}
