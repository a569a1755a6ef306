package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
)

func TestWatchTellsWhatBecomesOfAPort(t *testing.T) {
	m := newMemory()
	port := &fabric.Port{TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPort}, Metadata: fabric.Metadata{Name: "a", Revision: 2}}
	holds := func(host fabric.HostID, epoch fabric.Epoch, state fabric.PortState, rx uint64) {
		m.change(func(s *fabric.Snapshot) {
			s.Locations["a"] = fabric.Location{Port: "a", Host: host, Epoch: epoch}
			m.statuses[host] = fabric.HostStatus{Ports: []fabric.PortStatus{{Name: "a", State: state, RxPackets: rx}}}
		})
	}
	m.change(func(s *fabric.Snapshot) { s.Ports["a"] = port })
	holds("h1", 1, fabric.PortClosed, 0)
	c := dial(t, client.Options{Socket: serve(t, m, nil).Socket})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	steps := []func(){
		func() { holds("h1", 1, fabric.PortActive, 0) },
		func() { holds("h1", 1, fabric.PortActive, 7); holds("h2", 2, fabric.PortActive, 0) }, // counters are no news
		func() { m.change(func(s *fabric.Snapshot) { delete(s.Ports, "a") }) },
	}
	var told []string
	enough := errors.New("enough")
	err := c.Watch(ctx, []fabric.Kind{fabric.KindPort}, func(w api.WatchedChange) error {
		if w.Type == api.Delete {
			told = append(told, "deleted")
			return enough
		}
		if w.Type == api.Put {
			var p fabric.Port
			if err := json.Unmarshal(w.Object, &p); err != nil {
				return err
			}
			told = append(told, fmt.Sprint(p.Status.Host, " ", p.Status.Epoch, " ", p.Status.State))
			if len(told) == 1 {
				return nil // the first step comes once everything was told
			}
		}
		steps[0]()
		steps = steps[1:]
		return nil
	})
	want := []string{"h1 1 closed", "h1 1 active", "h2 2 active", "deleted"}
	if !errors.Is(err, enough) || !slices.Equal(told, want) {
		t.Errorf("told %q, want %q: %v", told, want, err)
	}
}
