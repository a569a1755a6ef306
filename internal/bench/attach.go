package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/internal/lab"
)

const (
	// knock is the UDP port that a guest sends to from before it is attached; knockEvery is how often.
	knock      = 9009
	knockEvery = 100 * time.Microsecond
	// arriveWithin is how long a first packet may take.
	arriveWithin = 10 * time.Second
)

// attach plugs in one port after the other on h1 and times each from the request to the first frame that reaches the guest
// on h2. The port is in the records before, and its guest sends all the time; that h2 accepts frames from there is part of it.
func (b *bed) attach(ctx context.Context, to *lab.Guest, n int) (took []float64, err error) {
	space, err := nic.CreateNamespace(fmt.Sprintf("%s%s-knock", prefix, b.lab.Name[len(labPrefix):]))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, space.Delete()) }()
	var door *net.UDPConn
	err = b.lab.GuestNamespace(to.Name).Do(func() error {
		door, err = net.ListenUDP("udp4", &net.UDPAddr{Port: knock})
		return err
	})
	if err != nil {
		return nil, err
	}
	defer door.Close()
	for i := range n {
		ms, err := b.attachOne(ctx, space, door, to, uint32(i))
		if err != nil {
			return nil, fmt.Errorf("attach %d: %w", i, err)
		}
		took = append(took, ms)
	}
	return took, nil
}

// attachOne makes a port and a device, plugs the one into the other, and takes both away again.
func (b *bed) attachOne(ctx context.Context, space nic.Namespace, door *net.UDPConn, to *lab.Guest, number uint32) (ms float64, err error) {
	name := fmt.Sprintf("k%d", number)
	port := &fabric.Port{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPort}, Metadata: fabric.Metadata{Name: name},
		Spec: fabric.PortSpec{Switch: "blue"},
	}
	if err := b.put(ctx, port); err != nil {
		return 0, err
	}
	id := fabric.PortID(name)
	if port, err = b.api.Port(ctx, id); err != nil {
		return 0, err
	}
	host, device := b.lab.HostNamespace("h1"), nic.VethName(id)
	err = host.Do(func() error {
		return nic.CreateVeth(nic.Veth{Name: device, Peer: "eth0", PeerNamespace: space, MTU: to.NIC.MTU, PeerMAC: port.Spec.MAC})
	})
	if err != nil {
		return 0, err
	}
	defer func() {
		_, gone := b.api.Delete(ctx, fabric.KindPort, name)
		err = errors.Join(err, host.Do(func() error { return nic.Delete(device) }), gone)
	}()
	end, err := knocking(space, knockFrame(port, to, number))
	if err != nil {
		return 0, err
	}
	defer end()
	begun := time.Now()
	opened := make(chan error, 1)
	go func() {
		_, err := b.api.Attach(ctx, id, api.Attachment{Device: device, Kind: api.Veth})
		opened <- err
	}()
	at, heardErr := heard(door, number)
	if err := errors.Join(<-opened, heardErr); err != nil {
		return 0, err
	}
	return float64(at.Sub(begun)) / float64(time.Millisecond), b.api.Detach(ctx, id)
}

// heard waits for the first packet of this number.
func heard(door *net.UDPConn, number uint32) (time.Time, error) {
	if err := door.SetReadDeadline(time.Now().Add(arriveWithin)); err != nil {
		return time.Time{}, err
	}
	var b [64]byte
	for {
		n, err := door.Read(b[:])
		at := time.Now()
		if err != nil {
			return at, fmt.Errorf("wait for the first packet: %w", err)
		}
		if n >= 4 && binary.BigEndian.Uint32(b[:]) == number {
			return at, nil
		}
	}
}

// knocking sends the frame out of eth0 in the namespace again and again, also while the device does not take it, until the
// function that it returns is called.
func knocking(space nic.Namespace, frame []byte) (end func(), err error) {
	var fd, index int
	err = space.Do(func() error {
		if err := nic.SetUp("eth0"); err != nil {
			return err
		}
		device, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		index = device.Index
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	var sender sync.WaitGroup
	sender.Go(func() {
		defer unix.Close(fd)
		tick := time.NewTicker(knockEvery)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				_ = unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: index}) // ENETDOWN until the core raises the device
			}
		}
	})
	return func() { close(done); sender.Wait() }, nil
}

// knockFrame is a UDP packet from a port's guest to another guest, with a number in it.
func knockFrame(from *fabric.Port, to *lab.Guest, number uint32) []byte {
	source := netip.IPv4Unspecified()
	for _, a := range from.Spec.Addresses {
		if a.Is4() {
			source = a
		}
	}
	f := make([]byte, 0, 60)
	f = append(f, to.NIC.MAC[:]...)
	f = append(f, from.Spec.MAC[:]...)
	f = append(f, 0x08, 0x00)
	ip := make([]byte, 20)
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], 20+8+18)
	copy(ip[12:], source.AsSlice())
	copy(ip[16:], to.NIC.Addresses[0].Addr().AsSlice())
	var sum uint32
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum>>16+sum&0xffff))
	f = append(f, ip...)
	f = binary.BigEndian.AppendUint16(f, knock)
	f = binary.BigEndian.AppendUint16(f, knock)
	f = binary.BigEndian.AppendUint16(f, 8+18)
	f = append(f, 0, 0) // no checksum (RFC 768)
	f = binary.BigEndian.AppendUint32(f, number)
	return f[:60]
}
