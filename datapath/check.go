package datapath

import (
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// The bounds of MTUs, in bytes of L3 packet: what every IPv4 host must be able to receive (RFC 791), the longest packet,
// and for a path the smallest switch MTU with the header of an IPv6 tunnel.
const (
	minMTU     = 576
	maxMTU     = 65535
	minPathMTU = minMTU + fabric.Overhead6
)

// maxEpoch is what fits beside the gate in one word.
const maxEpoch = 1<<(64-gateEpochShift) - 1

// Openness orders gates by what they let pass to or from a guest: 0 nothing, 1 to the guest, 2 both.
func (g Gate) Openness() int {
	switch g {
	case Open:
		return 2
	case Staged:
		return 1
	}
	return 0
}

// Check refuses what the core cannot hold of a port on the device.
func (p Port) Check(device string) error {
	switch {
	case device == "" || len(device) > nic.MaxName:
		return fmt.Errorf("put port %s: %q is no device name", p.Name, device)
	case p.Name == "" || len(p.Name) > 63:
		return fmt.Errorf("put port %q on %s: a name has 1 to 63 characters", p.Name, device)
	case p.Kind < Tap || p.Kind > HostEnd:
		return fmt.Errorf("put port %s on %s: kind %d is neither a tap nor a veth", p.Name, device, p.Kind)
	case p.Gate > Relay:
		return fmt.Errorf("put port %s on %s: gate %d does not exist", p.Name, device, p.Gate)
	case p.VNI > fabric.MaxVNI || p.VNI == 0 && p.Gate != Closed:
		return fmt.Errorf("put port %s on %s: %d is no VNI", p.Name, device, p.VNI)
	case p.Receives > fabric.MaxVNI:
		return fmt.Errorf("put port %s on %s: %d is no VNI", p.Name, device, p.Receives)
	case !p.MAC.IsUnicast() && p.Gate != Closed:
		return fmt.Errorf("put port %s on %s: %q is no station's MAC", p.Name, device, p.MAC)
	case p.Epoch > maxEpoch:
		return fmt.Errorf("put port %s on %s: epoch %d is beyond the 56 bits the core holds", p.Name, device, p.Epoch)
	}
	if n := p.Connections; n < 0 || n > mostCarried || n%flowsUnit != 0 {
		return fmt.Errorf("put port %s on %s: its rules remember %d connections, which is no multiple of %d up to %d", p.Name, device, n, flowsUnit, mostCarried)
	}
	if err := p.MACs.check(); err != nil {
		return fmt.Errorf("put port %s on %s: %w", p.Name, device, err)
	}
	if err := p.Limits.check(); err != nil {
		return fmt.Errorf("put port %s on %s: %w", p.Name, device, err)
	}
	return nil
}

// Check refuses what the core cannot hold of a switch.
func (s Switch) Check(vni fabric.VNI) error {
	if vni == 0 || vni > fabric.MaxVNI || s.MTU < minMTU || s.MTU > maxMTU {
		return fmt.Errorf("put switch with VNI %d and MTU %d: a VNI is 1 to %d, an MTU %d to %d", vni, s.MTU, fabric.MaxVNI, minMTU, maxMTU)
	}
	return nil
}

// Check refuses what the core cannot hold of a peer.
func (p Peer) Check(vtep netip.Addr) error {
	if !vtep.IsValid() || vtep.IsUnspecified() || vtep.IsMulticast() || p.MTU < minPathMTU || p.MTU > maxMTU {
		return fmt.Errorf("put peer %v with path MTU %d: it needs a unicast address and an MTU of %d to %d", vtep, p.MTU, minPathMTU, maxMTU)
	}
	return nil
}
