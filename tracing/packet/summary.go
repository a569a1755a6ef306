package packet

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/weftnet/weft/fabric"
)

// MaxFrame is the longest frame that Decode takes, in bytes: an aggregate of 64 KiB with its Ethernet header and a VLAN tag.
const MaxFrame = 65535 + 18

// Summary is what a frame is about.
type Summary struct {
	SourceMAC, DestinationMAC fabric.MAC
	EtherType                 uint16
	// Source and Destination are the IP addresses (ARP: sender and target); zero when the frame has none.
	Source, Destination netip.Addr
	// Protocol is tcp, udp, icmp or arp; empty for anything else.
	Protocol                    Protocol
	SourcePort, DestinationPort uint16
	// Flags are TCP's, as in "SA" for SYN and ACK.
	Flags string
	// Length is the frame's length in bytes.
	Length int
	// Probe is true for the UDP and ICMP frames that Craft makes, and then Nonce is theirs.
	Probe bool
	Nonce Nonce
}

// Decode reads one frame, outermost headers only: its work is bounded by a fixed number of layers, whatever the bytes. It
// fails on frames longer than MaxFrame or without an Ethernet header; of a frame that ends early it tells what is there.
func Decode(frame []byte) (Summary, error) {
	if len(frame) > MaxFrame {
		return Summary{}, fmt.Errorf("decode a frame of %d bytes: longer than %d: %w", len(frame), MaxFrame, fabric.ErrInvalid)
	}
	if len(frame) < 14 {
		return Summary{}, fmt.Errorf("decode a frame of %d bytes: shorter than an Ethernet header: %w", len(frame), fabric.ErrInvalid)
	}
	var d decoder
	found := make([]gopacket.LayerType, 0, 8)
	// The parser stops at the first layer it does not know or cannot read; what it has found until then is the summary.
	_ = d.parser().DecodeLayers(frame, &found)
	s := Summary{
		SourceMAC: fabric.MAC(frame[6:12]), DestinationMAC: fabric.MAC(frame[0:6]),
		EtherType: binary.BigEndian.Uint16(frame[12:]), Length: len(frame),
	}
	for _, layer := range found {
		d.tell(&s, layer)
	}
	return s, nil
}

// decoder holds the layers that one decoding fills. IP in IP and other nesting is not followed.
type decoder struct {
	eth    layers.Ethernet
	arp    layers.ARP
	ip4    layers.IPv4
	ip6    layers.IPv6
	tcp    layers.TCP
	udp    layers.UDP
	icmp4  layers.ICMPv4
	icmp6  layers.ICMPv6
	echo6  layers.ICMPv6Echo
	ignore gopacket.Payload
}

func (d *decoder) parser() *gopacket.DecodingLayerParser {
	return gopacket.NewDecodingLayerParser(layers.LayerTypeEthernet,
		&d.eth, &d.arp, &d.ip4, &d.ip6, &d.tcp, &d.udp, &d.icmp4, &d.icmp6, &d.echo6, &d.ignore)
}

func (d *decoder) tell(s *Summary, layer gopacket.LayerType) {
	switch layer {
	case layers.LayerTypeARP:
		s.Protocol, s.Source, s.Destination = ARP, address(d.arp.SourceProtAddress), address(d.arp.DstProtAddress)
	case layers.LayerTypeIPv4:
		s.Source, s.Destination = address(d.ip4.SrcIP), address(d.ip4.DstIP)
	case layers.LayerTypeIPv6:
		s.Source, s.Destination = address(d.ip6.SrcIP), address(d.ip6.DstIP)
	case layers.LayerTypeTCP:
		s.Protocol, s.SourcePort, s.DestinationPort, s.Flags = TCP, uint16(d.tcp.SrcPort), uint16(d.tcp.DstPort), flags(&d.tcp)
	case layers.LayerTypeUDP:
		s.Protocol, s.SourcePort, s.DestinationPort = UDP, uint16(d.udp.SrcPort), uint16(d.udp.DstPort)
		s.recognise(d.udp.Payload)
	case layers.LayerTypeICMPv4:
		s.Protocol = ICMP
		s.recognise(d.icmp4.Payload)
	case layers.LayerTypeICMPv6:
		s.Protocol = ICMP
	case layers.LayerTypeICMPv6Echo:
		// The echo layer of this gopacket release keeps no payload: it is what follows identifier and sequence.
		s.recognise(d.icmp6.Payload[4:])
	}
}

// recognise sees whether a payload is a probe's.
func (s *Summary) recognise(payload []byte) {
	if len(payload) >= len(s.Nonce)+len(marker) && string(payload[len(s.Nonce):][:len(marker)]) == marker {
		s.Probe, s.Nonce = true, Nonce(payload[:len(s.Nonce)])
	}
}

func address(b net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

func flags(t *layers.TCP) string {
	var b strings.Builder
	for _, f := range []struct {
		set  bool
		name byte
	}{{t.SYN, 'S'}, {t.ACK, 'A'}, {t.FIN, 'F'}, {t.RST, 'R'}, {t.PSH, 'P'}, {t.URG, 'U'}} {
		if f.set {
			b.WriteByte(f.name)
		}
	}
	return b.String()
}

// String is one line: "tcp 10.10.0.11:49152 > 10.10.0.12:443 S, 74 bytes".
func (s Summary) String() string {
	var b strings.Builder
	switch {
	case s.Protocol == TCP || s.Protocol == UDP:
		from, to := netip.AddrPortFrom(s.Source, s.SourcePort), netip.AddrPortFrom(s.Destination, s.DestinationPort)
		fmt.Fprintf(&b, "%s %s > %s", s.Protocol, from, to)
	case s.Source.IsValid():
		fmt.Fprintf(&b, "%s %s > %s", s.Protocol, s.Source, s.Destination)
	default:
		fmt.Fprintf(&b, "ethertype 0x%04x %s > %s", s.EtherType, s.SourceMAC, s.DestinationMAC)
	}
	if s.Flags != "" {
		b.WriteString(" " + s.Flags)
	}
	fmt.Fprintf(&b, ", %d bytes", s.Length)
	return strings.TrimSpace(b.String())
}
