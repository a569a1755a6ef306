package plan

import (
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// gateways puts the gateway of every internal switch in force here (ADR 14): its addresses have one MAC on all hosts, and on each
// host that MAC is the host's own port, never a peer's, so that a guest that moves finds its gateway where it is.
func (w *wanted) gateways() {
	for name := range w.switches {
		sw := w.snap.Switches[name]
		vni := sw.Spec.VNI
		if sw.Spec.Type != fabric.Internal || !w.present[vni] {
			continue
		}
		mac := fabric.GatewayMAC(vni)
		for _, a := range append(sw.Gateways(), fabric.GatewayLinkLocal(vni)) {
			w.state.Neighbors[datapath.NeighborKey{VNI: vni, Addr: a}] = mac
		}
		port := fabric.HostPort(w.host, name)
		attached, here := w.local.Attachments[port]
		loc := w.snap.Locations[port]
		if here && loc.Host == w.host && w.state.Ports[attached.Device].Name == port && w.state.Ports[attached.Device].VNI == vni {
			w.state.FDB[datapath.FDBKey{VNI: vni, MAC: mac}] = datapath.FDB{Device: attached.Device, Epoch: loc.Epoch}
		}
	}
}
