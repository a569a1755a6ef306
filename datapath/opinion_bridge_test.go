package datapath_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// sample is a frame that both sides are asked about. Its last eight bytes, behind the packet, are its number.
type sample struct {
	number uint32
	from   int // 0 is the guest, 1 the other station
	frame  []byte
}

var sampleMark = []byte("weft")

// lastNumber is the number of the frames that end a batch.
const lastNumber = ^uint32(0)

// numbered puts the sample's number behind the frame.
func numbered(number uint32, from int, frame []byte) sample {
	return sample{number, from, binary.BigEndian.AppendUint32(append(bytes.Clone(frame), sampleMark...), number)}
}

// passed are the frames that came out at the other side, by their numbers, those that nobody sent, and which were answered.
type passed struct {
	frames    map[uint32][]byte
	answered  map[uint32]bool
	strangers [][]byte
}

func (p *passed) take(frame []byte) {
	if n := len(frame) - 8; n > 0 && bytes.Equal(frame[n:n+4], sampleMark) {
		p.frames[binary.BigEndian.Uint32(frame[n+4:])] = bytes.Clone(frame)
		return
	}
	p.strangers = append(p.strangers, bytes.Clone(frame))
}

// filteredBridge is a Linux bridge between two stations, in a namespace of its own, whose frames nftables is asked about.
type filteredBridge struct {
	tb      testing.TB
	ns      nic.Namespace
	sockets [2]int    // packet sockets of the stations
	last    [2][]byte // what each sends last
}

// filteredBridge makes the bridge: it floods every frame, learns nothing and leaves it to nftables alone what passes.
func (w *world) filteredBridge(name string) *filteredBridge {
	w.tb.Helper()
	b := &filteredBridge{tb: w.tb, ns: w.namespace(name)}
	for i := range b.last {
		b.last[i] = numbered(lastNumber, i, ether(stations[1-i], stations[i], endOfBatch, make([]byte, 46))).frame
	}
	w.in(b.ns, func() error {
		for _, setting := range [][2]string{
			{"net/ipv6/conf/default/disable_ipv6", "1"}, {"net/ipv6/conf/all/disable_ipv6", "1"},
			{"net/bridge/bridge-nf-call-iptables", "0"}, {"net/bridge/bridge-nf-call-ip6tables", "0"}, {"net/bridge/bridge-nf-call-arptables", "0"},
		} {
			if err := nic.SetSysctl(setting[0], setting[1]); err != nil {
				return err
			}
		}
		err := exec.Command("ip", "link", "add", "br0", "up", "type", "bridge", "mcast_snooping", "0").Run()
		for i, device := range []string{"p0", "p1"} {
			if err == nil {
				err = firstError(b.plug(i), nic.SetMaster(device, "br0"), exec.Command("ip", "link", "set", device, "type", "bridge_slave", "learning", "off").Run())
			}
		}
		return err
	})
	return b
}

// plug makes one station: a veth, and a packet socket at its other end.
func (b *filteredBridge) plug(i int) error {
	inner, outer := []string{"p0", "p1"}[i], []string{"e0", "e1"}[i]
	err := firstError(nic.CreateVeth(nic.Veth{Name: inner, Peer: outer, MTU: 1500}), nic.SetUp(inner), nic.SetUp(outer))
	if err != nil {
		return err
	}
	device, err := nic.Find(outer)
	if err != nil {
		return err
	}
	everything := uint16(unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	b.sockets[i] = fd
	b.tb.Cleanup(func() { unix.Close(fd) })
	return firstError(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: everything, Ifindex: device.Index}))
}

// load puts a table in force in place of the one before.
func (b *filteredBridge) load(rules string) {
	b.tb.Helper()
	err := b.ns.Do(func() error {
		nft := exec.Command("nft", "-f", "-")
		nft.Stdin = strings.NewReader(rules)
		if out, err := nft.CombinedOutput(); err != nil {
			return errors.New(string(out))
		}
		return nil
	})
	if err != nil {
		b.tb.Fatalf("nft refuses: %v\n%s", err, rules)
	}
}

// pass sends a batch and takes what comes out. A last frame of each station, which no rule stops, tells that all before it have
// come: one CPU sends, and what one CPU sends keeps its order.
func (b *filteredBridge) pass(batch []sample) passed {
	b.tb.Helper()
	for _, s := range batch {
		b.send(s.from, s.frame)
	}
	p := passed{frames: map[uint32][]byte{}}
	buffer := make([]byte, 4096)
	for from, frame := range b.last {
		b.send(from, frame)
		for p.frames[lastNumber] == nil {
			n, _, err := unix.Recvfrom(b.sockets[1-from], buffer, 0)
			if err != nil {
				b.tb.Fatalf("wait for the last frame of %d: %v", len(batch), err)
			}
			p.take(buffer[:n])
		}
		delete(p.frames, lastNumber)
	}
	return p
}

func (b *filteredBridge) send(from int, frame []byte) {
	b.tb.Helper()
	if _, err := unix.Write(b.sockets[from], frame); err != nil {
		b.tb.Fatalf("send %d bytes: %v", len(frame), err)
	}
}

// stations are the MACs of the guest and of the other station.
var stations = [2]fabric.MAC{mac(1), mac(50)}
