package datapath_test

import (
	"context"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/datapathtest"
	"github.com/weftnet/weft/datapath/nic"
)

// inside is a plane whose calls happen in its host's namespace.
type inside struct{ *host }

func (i inside) Read(ctx context.Context) (s datapath.State, err error) {
	err = i.ns.Do(func() error { s, err = i.Datapath.Read(ctx); return err })
	return s, err
}

func (i inside) Apply(ctx context.Context, c datapath.Change) error {
	return i.ns.Do(func() error { return i.Datapath.Apply(ctx, c) })
}

func TestDatapath(t *testing.T) {
	datapathtest.Test(t, func(t *testing.T) datapathtest.Rig {
		w := newWorld(t, 1, false)
		h := w.hosts[0]
		h.pinDir = bpffs(t, "h")
		h.load()
		t.Cleanup(func() {
			h.Close()
			w.in(h.ns, func() error { return datapath.Uninstall(h.pinDir) })
		})
		devices := []string{"d0", "d1", "d2", "d3"}
		for _, device := range devices {
			w.in(h.ns, func() error { return nic.CreateVeth(nic.Veth{Name: device, Peer: device + "p"}) })
		}
		return datapathtest.Rig{Plane: inside{h}, Devices: devices}
	})
}
