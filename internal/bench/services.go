package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/internal/lab"
)

const (
	// servicesName is the group of measures of what a host does for the guests of its internal switches.
	servicesName = "services"
	offerName    = "services-offer"
	// offerGap is the time between two calls for an offer: a server answers a client ten times a second.
	offerGap = 125 * time.Millisecond
)

// natMeasure is taken of a guest behind weft's NAT, and of a namespace behind one rule of nftables, on one host.
var natMeasure = measure{Name: "services-nat", Text: "TCP bulk to a machine on the wire, masqueraded", Unit: "bit/s", lane: cross, run: bulk}

// Names of the contenders.
const (
	throughWeft = "weft: a guest of an internal switch"
	throughNFT  = "a veth and one masquerade of nftables"
)

// servicesGroup is what a host does for its guests.
var servicesGroup = group{
	name: servicesName, members: []string{natMeasure.Name, offerName},
	asked: []asked{{natMeasure.Name, throughWeft, throughNFT, 0.95}},
	take:  takeServices,
}

// takeServices measures them on one host of a lab, with its agent.
func takeServices(ctx context.Context, o options, progress func(string)) (g groupReport, err error) {
	err = withWeft(ctx, func(weft string) error {
		return withLab(ctx, &quiet{budget: o.Patience}, weft, 1, func(b *bed) error {
			if err := b.put(ctx, greenSwitch()); err != nil {
				return err
			}
			guest, err := b.lab.AddGuest(ctx, lab.GuestOptions{Name: "a", Host: "h1", Switch: "green", Kind: lab.Veth}, nil)
			if err != nil {
				return err
			}
			if o.takes(offerName) {
				progress("DHCP offers")
				if g.Figures, err = b.offers(ctx, guest, 20*o.Rounds); err != nil {
					return err
				}
			}
			if !o.takes(natMeasure.Name) {
				return nil
			}
			progress(natMeasure.Text)
			r, err := b.masquerade(ctx, guest, o)
			g.Results = append(g.Results, r)
			return err
		})
	})
	return g, err
}

// greenSwitch serves its guests.
func greenSwitch() *fabric.Switch {
	return &fabric.Switch{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindSwitch}, Metadata: fabric.Metadata{Name: "green"},
		Spec: fabric.SwitchSpec{Type: fabric.Internal, Subnets: []netip.Prefix{netip.MustParsePrefix("10.10.0.0/24")},
			Services: fabric.Services{NAT: fabric.NATService{Enabled: true}}},
	}
}

// masquerade compares a guest's way to the wire with that of a namespace beside it.
func (b *bed) masquerade(ctx context.Context, guest *lab.Guest, o options) (r result, err error) {
	plain, err := nic.CreateNamespace(fmt.Sprintf("%s%s-plain", prefix, b.lab.Name[len(labPrefix):]))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, plain.Delete()) }()
	if err := plugPlain(b.lab.HostNamespace("h1"), plain); err != nil {
		return r, err
	}
	space := b.lab.GuestNamespace(guest.Name)
	err = space.Do(func() error {
		return nic.AddRoute("eth0", netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.10.0.1"))
	})
	if err != nil {
		return r, err
	}
	wire := ends{to: b.lab.WireNamespace(), addr: lab.WireAddresses(0)[0].Addr()}
	behind := func(from nic.Namespace) *site {
		e := wire
		e.from = from
		return &site{lanes: map[lane]ends{cross: e}}
	}
	all := []contender{{name: throughWeft, site: behind(space)}, {name: throughNFT, site: behind(plain)}}
	for _, c := range all {
		if err := c.connected(); err != nil {
			return r, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return natMeasure.take(ctx, all, o, &quiet{budget: o.Patience})
}

// plugPlain puts a namespace behind the host as people do without a switch: a veth, an address, a rule.
func plugPlain(host, plain nic.Namespace) error {
	const rules = "table ip plain { chain post { type nat hook postrouting priority srcnat; ip saddr 10.99.0.0/24 oifname != plain masquerade; }; }"
	err := host.Do(func() error {
		if err := nic.CreateVeth(nic.Veth{Name: "plain", Peer: "eth0", PeerNamespace: plain, MTU: guestMTU}); err != nil {
			return err
		}
		err := errors.Join(nic.AddAddress("plain", netip.MustParsePrefix("10.99.0.1/24")), nic.SetUp("plain"), nic.SetSysctl("net/ipv4/ip_forward", "1"))
		if err != nil {
			return err
		}
		if out, err := exec.Command("nft", rules).CombinedOutput(); err != nil {
			return fmt.Errorf("masquerade a namespace: %w: %s", err, out)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := guestNIC(plain, "eth0", netip.MustParsePrefix("10.99.0.2/24")); err != nil {
		return err
	}
	return plain.Do(func() error {
		return nic.AddRoute("eth0", netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.99.0.1"))
	})
}

// offers times n calls of a guest for a DHCP offer, from the call to the answer.
func (b *bed) offers(ctx context.Context, guest *lab.Guest, n int) ([]figure, error) {
	f := figure{Name: offerName, Text: "a guest's DHCPDISCOVER to the OFFER", Unit: "ms", Most: 5}
	err := b.lab.GuestNamespace(guest.Name).Do(func() error {
		fd, err := openDHCP()
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for i := range n {
			if err := wait(ctx, offerGap); err != nil {
				return err
			}
			begun := time.Now()
			if err := offer(fd, guest.NIC.MAC, uint32(i+1)); err != nil {
				return fmt.Errorf("call %d for an offer: %w", i, err)
			}
			f.Values = append(f.Values, milliseconds(begun))
		}
		return nil
	})
	return []figure{f}, err
}

// Ports of DHCP, and places in its messages (RFC 2131, RFC 2132).
const (
	dhcpServer, dhcpClient = 67, 68
	atTransaction          = 4
	atBroadcast            = 10
	atHardware             = 28
	atCookie               = 236
	dhcpLength             = 300
)

// openDHCP opens a client's socket on eth0.
func openDHCP() (int, error) {
	fd, err := open(unix.SOCK_DGRAM)
	if err != nil {
		return -1, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1), unix.BindToDevice(fd, "eth0"),
		unix.Bind(fd, sockaddr(netip.IPv4Unspecified(), dhcpClient)))
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("open a DHCP client's socket: %w", err)
	}
	return fd, nil
}

// offer sends a DISCOVER and waits for its answer.
func offer(fd int, mac fabric.MAC, transaction uint32) error {
	m := make([]byte, dhcpLength)
	m[0], m[1], m[2] = 1, 1, 6 // a request, of Ethernet, whose addresses have six bytes
	binary.BigEndian.PutUint32(m[atTransaction:], transaction)
	m[atBroadcast] = 0x80
	copy(m[atHardware:], mac[:])
	copy(m[atCookie:], []byte{99, 130, 83, 99, 53, 1, 1, 255}) // the cookie, DISCOVER, the end
	everybody := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	if err := unix.Sendto(fd, m, 0, sockaddr(everybody, dhcpServer)); err != nil {
		return err
	}
	answer := make([]byte, 1500)
	for {
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if err != nil {
			return err
		}
		if n > atCookie && answer[0] == 2 && binary.BigEndian.Uint32(answer[atTransaction:]) == transaction {
			return nil
		}
	}
}
