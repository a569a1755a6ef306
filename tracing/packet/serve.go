package packet

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/weftnet/weft/fabric"
)

// Datagram makes a UDP datagram, from the IP header on, with correct lengths and checksums; both ends are of one family. The
// error wraps fabric.ErrInvalid.
func Datagram(from, to netip.AddrPort, payload []byte) ([]byte, error) {
	if !from.Addr().IsValid() || from.Addr().Is4() != to.Addr().Is4() {
		return nil, fmt.Errorf("make a datagram from %s to %s: the two addresses are not of one family: %w", from, to, fabric.ErrInvalid)
	}
	udp := &layers.UDP{SrcPort: layers.UDPPort(from.Port()), DstPort: layers.UDPPort(to.Port())}
	source, destination := net.IP(from.Addr().AsSlice()), net.IP(to.Addr().AsSlice())
	if from.Addr().Is4() {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: source, DstIP: destination}
		return serialize(udp.SetNetworkLayerForChecksum(ip), ip, udp, gopacket.Payload(payload))
	}
	ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: source, DstIP: destination}
	return serialize(udp.SetNetworkLayerForChecksum(ip), ip, udp, gopacket.Payload(payload))
}

// Router is what a router advertisement says (RFC 4861 section 4.2).
type Router struct {
	// MAC and Source are the router's, Source is link-local.
	MAC    fabric.MAC
	Source netip.Addr
	// Lifetime is how long it is a default router; 0 means that it is none.
	Lifetime time.Duration
	// Prefix is on the link; guests take no addresses out of it themselves, since they are managed (DHCPv6).
	Prefix         netip.Prefix
	PrefixLifetime time.Duration
	// MTU in bytes, and DNS servers (RFC 8106), IPv6 ones; none when 0 and empty.
	MTU int
	DNS []netip.Addr
}

// Flags and options of a router advertisement (RFC 4861 sections 4.2 and 4.6.2, RFC 8106 section 5.1).
const (
	managed, otherConfig = 0x80, 0x40
	onLink               = 0x80
	optionDNS            = 25
)

// AllNodes is where router advertisements go.
var AllNodes = netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 15: 1})

// RouterAdvertisement makes an advertisement to an address, from the IPv6 header on. The error wraps fabric.ErrInvalid.
func RouterAdvertisement(r Router, to netip.Addr) ([]byte, error) {
	if !r.Source.IsLinkLocalUnicast() || !r.Source.Is6() || !to.Is6() || !r.Prefix.Addr().Is6() {
		return nil, fmt.Errorf("make a router advertisement from %s to %s for %s: all are of IPv6, and the source is link-local: %w", r.Source, to, r.Prefix, fabric.ErrInvalid)
	}
	ip := &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: layers.IPProtocolICMPv6, SrcIP: r.Source.AsSlice(), DstIP: to.AsSlice()}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeRouterAdvertisement, 0)}
	body := &layers.ICMPv6RouterAdvertisement{HopLimit: 64, Flags: managed | otherConfig, RouterLifetime: uint16(min(r.Lifetime/time.Second, 9000))}
	body.Options = layers.ICMPv6Options{
		{Type: layers.ICMPv6OptSourceAddress, Data: r.MAC[:]},
		{Type: layers.ICMPv6OptPrefixInfo, Data: prefixInformation(r.Prefix, r.PrefixLifetime)},
	}
	if r.MTU > 0 {
		body.Options = append(body.Options, layers.ICMPv6Option{Type: layers.ICMPv6OptMTU, Data: binary.BigEndian.AppendUint32([]byte{0, 0}, uint32(r.MTU))})
	}
	servers := binary.BigEndian.AppendUint32([]byte{0, 0}, seconds(r.PrefixLifetime))
	for _, a := range r.DNS {
		if a.Is6() {
			servers = append(servers, a.AsSlice()...)
		}
	}
	if len(servers) > 6 {
		body.Options = append(body.Options, layers.ICMPv6Option{Type: optionDNS, Data: servers})
	}
	return serialize(icmp.SetNetworkLayerForChecksum(ip), ip, icmp, body)
}

func prefixInformation(p netip.Prefix, lifetime time.Duration) []byte {
	b := []byte{byte(p.Bits()), onLink}
	b = binary.BigEndian.AppendUint32(b, seconds(lifetime))
	b = binary.BigEndian.AppendUint32(b, seconds(lifetime))
	return append(append(b, 0, 0, 0, 0), p.Masked().Addr().AsSlice()...)
}

func seconds(d time.Duration) uint32 { return uint32(min(d/time.Second, 1<<32-2)) }

// serialize writes the layers, unless there is an error already.
func serialize(err error, stack ...gopacket.SerializableLayer) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, stack...); err != nil {
		return nil, fmt.Errorf("make a packet: %w", err)
	}
	return buf.Bytes(), nil
}
