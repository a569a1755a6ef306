package api

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/weftnet/weft/fabric"
)

// TraceRequest asks for the way of one packet. Source is a port; Destination is a port or an address.
type TraceRequest struct {
	Source      fabric.PortID `json:"source"`
	Destination string        `json:"destination" doc:"A port's name, or an IPv4 or IPv6 address"`
	// Protocol is tcp, udp, icmp or arp; icmp becomes ICMPv6 where the addresses are IPv6.
	Protocol string `json:"protocol" enum:"tcp,udp,icmp,arp"`
	// Port is the destination port of tcp and udp, 1 to 65535; 0 otherwise.
	Port uint16 `json:"port,omitempty"`
	// Size is the length in bytes of the IP packet, with udp and icmp; 0 is the shortest that serves.
	Size int `json:"size,omitempty" minimum:"0" maximum:"65535"`
	// Explain sends nothing: the answer is what the records and the rules say of the first packet of such a connection.
	Explain bool `json:"explain,omitempty"`
	// Revision, with Explain, is the past state to judge by; 0 is the newest. etcd has it until it is compacted.
	Revision fabric.Revision `json:"revision,omitempty" minimum:"0" doc:"With explain: judge by the records as they were at this revision"`
	// With, with Explain and not with Revision, are complete objects to judge by as if they had been applied.
	With []json.RawMessage `json:"with,omitempty" maxItems:"10000" doc:"With explain: judge as if these objects were applied; nothing is written"`
	// BothWays follows the answer, too, once the probe was delivered; not with Explain.
	BothWays bool `json:"bothWays,omitempty" doc:"Follow the answer, too, once the probe was delivered"`
	// TimeoutSeconds is how long to wait for the hosts' records; 0 means 3 s.
	TimeoutSeconds float64 `json:"timeoutSeconds,omitempty" minimum:"0" maximum:"60"`
}

// ParseTarget reads what the command line calls PROTO[/PORT]: "tcp/443", "udp/53", "icmp", "arp". The error wraps
// fabric.ErrInvalid.
func (r *TraceRequest) ParseTarget(s string) error {
	proto, port, has := strings.Cut(strings.ToLower(s), "/")
	switch proto {
	case "tcp", "udp":
		n, err := strconv.ParseUint(port, 10, 16)
		if !has || err != nil || n == 0 {
			return fmt.Errorf("%q needs a port from 1 to 65535; write it as %s/443: %w", s, proto, fabric.ErrInvalid)
		}
		r.Protocol, r.Port = proto, uint16(n)
	case "icmp", "icmp6", "arp":
		if has {
			return fmt.Errorf("%q: %s has no ports; write only %s: %w", s, proto, proto, fabric.ErrInvalid)
		}
		r.Protocol = strings.TrimSuffix(proto, "6")
	default:
		return fmt.Errorf("%q is not a protocol that can be traced; write tcp/443, udp/53, icmp or arp: %w", s, fabric.ErrInvalid)
	}
	return nil
}

// Address is the destination as an address; ok is false when it names a port.
func (r TraceRequest) Address() (a netip.Addr, ok bool) {
	a, err := netip.ParseAddr(r.Destination)
	return a, err == nil
}

// MaxTimes is how often one injection sends its frame at most.
const MaxTimes = 100

// Injection is a frame to send into a port as if its guest had sent it.
type Injection struct {
	Port fabric.PortID `json:"port"`
	// Frame is the frame from its Ethernet header on, at most 64 KiB.
	Frame []byte `json:"frame" maxLength:"87384"`
	// Times is how often, at most MaxTimes; once when 0.
	Times int `json:"times,omitempty" minimum:"0" maximum:"100"`
}
