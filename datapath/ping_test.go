package datapath_test

import (
	"context"
	"testing"
)

func TestGuestsPingEachOther(t *testing.T) {
	for name, ipv6 := range map[string]bool{"over an IPv4 underlay": false, "over an IPv6 underlay": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2, ipv6)
			w.load()
			a, b, c := w.veth(w.hosts[0], 1), w.veth(w.hosts[0], 2), w.veth(w.hosts[1], 3)
			for _, to := range []*station{b, c} {
				for _, address := range to.port.Addresses[:2] {
					t.Log(a.run(t, "ping", "-c", "3", "-i", "0.01", "-W", "1", address.String()))
				}
			}
			for _, h := range w.hosts {
				counters, err := h.Counters(context.Background())
				host, err2 := h.Host(context.Background())
				t.Logf("%+v %v", counters, err)
				t.Logf("%+v %v", host, err2)
			}
		})
	}
}
