// Package packet crafts the frames that probes send, and says in one line what is in a frame that weft made itself or
// recorded. Frames of guests are parsed by the forwarding core's own bounded parser, never here.
package packet

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/weftnet/weft/fabric"
)

// Protocol is what a probe speaks.
type Protocol string

// The protocols of probes. ICMP is ICMPv6 where the addresses are IPv6.
const (
	TCP  Protocol = "tcp"  // a SYN, or the SYN with ACK that answers it
	UDP  Protocol = "udp"  // a datagram of 24 bytes
	ICMP Protocol = "icmp" // an echo request, or a reply
	ARP  Protocol = "arp"  // a request for the destination's MAC, IPv4 only
)

// Nonce makes a probe's label its own. A label of ARP does not cover it: the probe of an ARP request has the label of the
// guest's own request for the same address.
type Nonce [16]byte

// NewNonce draws a nonce from the kernel.
func NewNonce() Nonce {
	var n Nonce
	_, _ = rand.Read(n[:]) // never fails since Go 1.24
	return n
}

// Probe describes a frame as its source port would send it.
type Probe struct {
	Protocol Protocol
	// SourceMAC is the port's; DestinationMAC that of the destination, broadcast when zero and the protocol is ARP.
	SourceMAC, DestinationMAC fabric.MAC
	// Source and Destination are of one family.
	Source, Destination netip.Addr
	// SourcePort is drawn from the nonce, 49152 to 65535, when 0; DestinationPort is 1 to 65535 with TCP and UDP, else ignored.
	SourcePort, DestinationPort uint16
	Nonce                       Nonce
	// Reply makes it the answer to the probe with the same nonce whose ports are these the other way round.
	Reply bool
	// Size is the length of the IP packet in bytes, of all but ARP; 0 is the shortest. Zeros pad the payload; a SYN has data then.
	Size int
}

// marker stands behind the nonce in the payload of our UDP and ICMP frames.
const marker = "weft/1\x00\x00"

// Craft makes the frame, from the Ethernet header on, with correct lengths and checksums and a label (tracing.Label). Unless it is
// given a size it is at most 100 bytes long. The error wraps fabric.ErrInvalid and says what is missing.
func Craft(p Probe) ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("craft the %s probe from %s to %s: %w", p.Protocol, p.Source, p.Destination, err)
	}
	stack, err := p.layers()
	if err != nil {
		return nil, fmt.Errorf("craft the %s probe from %s to %s: %w", p.Protocol, p.Source, p.Destination, err)
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, stack...); err != nil {
		return nil, fmt.Errorf("craft the %s probe from %s to %s: %w", p.Protocol, p.Source, p.Destination, err)
	}
	return buf.Bytes(), nil
}

func (p *Probe) check() error {
	p.Source, p.Destination = p.Source.Unmap(), p.Destination.Unmap()
	problem := ""
	switch {
	case !p.SourceMAC.IsUnicast():
		problem = fmt.Sprintf("source MAC %s is no station's", p.SourceMAC)
	case !p.Source.IsValid() || !p.Destination.IsValid():
		problem = "both ends need an address"
	case p.Source.Is4() != p.Destination.Is4():
		problem = "the two addresses are of different families"
	case p.Protocol == ARP && p.Source.Is6():
		problem = "ARP is of IPv4; probe with icmp"
	case p.Protocol != ARP && p.DestinationMAC.IsZero():
		problem = "the destination's MAC is missing"
	case (p.Protocol == TCP || p.Protocol == UDP) && p.DestinationPort == 0:
		problem = "the destination port is missing"
	case p.Size != 0 && p.Protocol == ARP:
		problem = "arp probes have no size"
	case p.Size != 0 && (p.Size < p.least() || p.Size > maxSize):
		problem = fmt.Sprintf("a size of %d bytes cannot be: it is %d to %d", p.Size, p.least(), maxSize)
	}
	if problem != "" {
		return fmt.Errorf("%s: %w", problem, fabric.ErrInvalid)
	}
	if p.Protocol == ARP && p.DestinationMAC.IsZero() {
		p.DestinationMAC = fabric.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	}
	if p.SourcePort == 0 {
		p.SourcePort = 49152 | binary.BigEndian.Uint16(p.Nonce[14:])
	}
	return nil
}

func (p *Probe) layers() ([]gopacket.SerializableLayer, error) {
	eth := &layers.Ethernet{SrcMAC: p.SourceMAC[:], DstMAC: p.DestinationMAC[:], EthernetType: layers.EthernetTypeIPv4}
	if p.Protocol == ARP {
		eth.EthernetType = layers.EthernetTypeARP
		return []gopacket.SerializableLayer{eth, p.arp()}, nil
	}
	if p.Source.Is6() {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip := p.ipv6()
		rest, err := p.transport(ip)
		return append([]gopacket.SerializableLayer{eth, ip}, rest...), err
	}
	ip := p.ipv4()
	rest, err := p.transport(ip)
	return append([]gopacket.SerializableLayer{eth, ip}, rest...), err
}

func (p *Probe) arp() *layers.ARP {
	return &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
		Operation: layers.ARPRequest, SourceHwAddress: p.SourceMAC[:], SourceProtAddress: p.Source.AsSlice(),
		DstHwAddress: make([]byte, 6), DstProtAddress: p.Destination.AsSlice(),
	}
}

func (p *Probe) ipv4() *layers.IPv4 {
	ip := &layers.IPv4{Version: 4, TTL: 64, Flags: layers.IPv4DontFragment, Id: binary.BigEndian.Uint16(p.Nonce[12:]),
		SrcIP: net.IP(p.Source.AsSlice()), DstIP: net.IP(p.Destination.AsSlice())}
	switch p.Protocol {
	case TCP:
		ip.Protocol = layers.IPProtocolTCP
	case UDP:
		ip.Protocol = layers.IPProtocolUDP
	case ICMP:
		ip.Protocol = layers.IPProtocolICMPv4
	}
	return ip
}

func (p *Probe) ipv6() *layers.IPv6 {
	ip := &layers.IPv6{Version: 6, HopLimit: 64, SrcIP: net.IP(p.Source.AsSlice()), DstIP: net.IP(p.Destination.AsSlice())}
	switch p.Protocol {
	case TCP:
		ip.NextHeader = layers.IPProtocolTCP
	case UDP:
		ip.NextHeader = layers.IPProtocolUDP
	case ICMP:
		ip.NextHeader = layers.IPProtocolICMPv6
	}
	return ip
}

// maxSize is the longest IPv4 packet, in bytes.
const maxSize = 65535

// synSize is the length of a SYN's header with its options, in bytes.
const synSize = 20 + 4 + 2 + 1 + 3 + 2

// least is the length of the shortest probe as an IP packet, in bytes; UDP's header is as long as an echo's.
func (p *Probe) least() int {
	header := 20
	if p.Source.Is6() {
		header = 40
	}
	if p.Protocol == TCP {
		return header + synSize
	}
	return header + 8 + len(p.Nonce) + len(marker)
}

// transport is what follows the IP header.
func (p *Probe) transport(ip gopacket.NetworkLayer) ([]gopacket.SerializableLayer, error) {
	padding := make([]byte, max(0, p.Size-p.least()))
	payload := gopacket.Payload(slices.Concat(p.Nonce[:], []byte(marker), padding))
	id, seq := binary.BigEndian.Uint16(p.Nonce[8:]), binary.BigEndian.Uint16(p.Nonce[10:])
	switch {
	case p.Protocol == TCP:
		return p.syn(ip, padding)
	case p.Protocol == UDP:
		udp := &layers.UDP{SrcPort: layers.UDPPort(p.SourcePort), DstPort: layers.UDPPort(p.DestinationPort)}
		return []gopacket.SerializableLayer{udp, payload}, udp.SetNetworkLayerForChecksum(ip)
	case p.Protocol == ICMP && p.Source.Is4():
		echo := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: id, Seq: seq}
		if p.Reply {
			echo.TypeCode = layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoReply, 0)
		}
		return []gopacket.SerializableLayer{echo, payload}, nil
	case p.Protocol == ICMP:
		icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoRequest, 0)}
		echo := &layers.ICMPv6Echo{Identifier: id, SeqNumber: seq}
		if p.Reply {
			icmp.TypeCode = layers.CreateICMPv6TypeCode(layers.ICMPv6TypeEchoReply, 0)
		}
		return []gopacket.SerializableLayer{icmp, echo, payload}, icmp.SetNetworkLayerForChecksum(ip)
	}
	return nil, fmt.Errorf("%q is not tcp, udp, icmp or arp: %w", p.Protocol, fabric.ErrInvalid)
}

// syn is a SYN as Linux sends it, or the answer to one. Its acknowledgement number is not 0, which RFC 9293 section 3.1 leaves undefined
// without the ACK flag and no stack does: so no guest's SYN has the label of a probe's.
func (p *Probe) syn(ip gopacket.NetworkLayer, data []byte) ([]gopacket.SerializableLayer, error) {
	tcp := &layers.TCP{
		SrcPort: layers.TCPPort(p.SourcePort), DstPort: layers.TCPPort(p.DestinationPort), SYN: true, ACK: p.Reply, Window: 64240,
		Seq: binary.BigEndian.Uint32(p.Nonce[0:]), Ack: binary.BigEndian.Uint32(p.Nonce[4:]) | 1,
		Options: []layers.TCPOption{
			{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{0x05, 0x50}},
			{OptionType: layers.TCPOptionKindSACKPermitted, OptionLength: 2},
			{OptionType: layers.TCPOptionKindNop},
			{OptionType: layers.TCPOptionKindWindowScale, OptionLength: 3, OptionData: []byte{7}},
			{OptionType: layers.TCPOptionKindNop}, {OptionType: layers.TCPOptionKindNop},
		},
	}
	if p.Reply { // it acknowledges the SYN that the same nonce makes, or a window check would not know it
		tcp.Seq, tcp.Ack = tcp.Ack, tcp.Seq+1
	}
	return []gopacket.SerializableLayer{tcp, gopacket.Payload(data)}, tcp.SetNetworkLayerForChecksum(ip)
}
