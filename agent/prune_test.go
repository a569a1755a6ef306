package agent

import (
	"fmt"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
)

func TestAServerHostForgetsOldMoves(t *testing.T) {
	h := newHouse(t)
	s := h.etcd.Open(t)
	for i := range 120 {
		err := s.UpdateLocations(t.Context(), &fabric.Move{
			TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindMove}, Metadata: fabric.Metadata{Name: fmt.Sprintf("m-%d", i)},
			Spec:   fabric.MoveSpec{VM: "a", Ports: []fabric.PortID{"a"}, From: "h2", To: "h3"},
			Status: fabric.MoveStatus{Phase: fabric.MoveSettled, At: map[fabric.Phase]time.Time{fabric.MoveSettled: time.Now().Add(-48 * time.Hour)}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	n := h.start()
	n.until(t, "20 of 120 old moves forgotten", func() bool {
		snap := n.Latest()
		return snap != nil && len(snap.Moves) == 100
	})
}
