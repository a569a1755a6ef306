package datapath_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/weftnet/weft/datapath/nic"
)

// behindVXLAN puts a station 10.77.0.150 behind two Linux hosts of the wire that are no part of the fabric: a bridge of the one has the
// wire and a kernel VXLAN device to the other, whose bridge has the station. What the two send one another crosses the same wire.
func (l *lan) behindVXLAN() nic.Namespace {
	l.w.tb.Helper()
	near, far, station := l.w.namespace("vx1"), l.w.namespace("vx2"), l.w.namespace("vs")
	for n, ns := range map[int]nic.Namespace{1: near, 2: far} {
		port := "v" + string(rune('0'+n))
		l.w.in(l.ns, func() error {
			err := nic.CreateVeth(nic.Veth{Name: port, Peer: "eth0", PeerNamespace: ns, PeerMAC: mac(150 + n)})
			return firstError(err, nic.SetMaster(port, "lan0"), nic.SetUp(port))
		})
	}
	l.linux(near, `link add br0 type bridge
		link set eth0 master br0
		addr add 10.77.0.151/24 dev br0
		link set eth0 up
		link set br0 up
		link add vx0 mtu 1450 type vxlan id 99 local 10.77.0.151 remote 10.77.0.152 dstport 4789
		link set vx0 master br0
		link set vx0 up`)
	l.w.in(far, func() error {
		return nic.CreateVeth(nic.Veth{Name: "s", Peer: "eth0", PeerNamespace: station, PeerMAC: mac(150)})
	})
	l.linux(far, `addr add 10.77.0.152/24 dev eth0
		link set eth0 up
		link add br1 type bridge
		link add vx0 mtu 1450 type vxlan id 99 local 10.77.0.152 remote 10.77.0.151 dstport 4789 dev eth0
		link set vx0 master br1
		link set s master br1
		link set vx0 up
		link set s up
		link set br1 up`)
	l.linux(station, `addr add 10.77.0.150/24 dev eth0
		link set eth0 mtu 1450
		link set eth0 up`)
	return station
}

// linux runs commands of ip, a line each, in a namespace.
func (l *lan) linux(ns nic.Namespace, commands string) {
	l.w.tb.Helper()
	l.w.in(ns, func() error {
		cmd := exec.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(commands)
		out, err := cmd.CombinedOutput()
		if err != nil {
			l.w.tb.Logf("ip in %s: %s", ns.Name, out)
		}
		return err
	})
}

// forget makes the next packet ask for MACs again, with a broadcast.
func (l *lan) forget(stations ...nic.Namespace) {
	l.w.tb.Helper()
	for _, ns := range stations {
		l.linux(ns, "neigh flush dev eth0")
	}
}

func TestStationsBehindALinuxBridgeAndAKernelsVXLANAreReached(t *testing.T) {
	w := newWorld(t, 2, false)
	w.load()
	l := w.newLAN()
	station := l.behindVXLAN()
	w.ping(l.machine, address4(150), true) // the peers by themselves
	near, far := w.carried()
	for n, guest := range map[int]nic.Namespace{1: near.ns, 3: far.ns} {
		l.forget(station, guest)
		w.ping(guest, address4(150), true)
		l.forget(station, guest)
		w.ping(station, address4(n), true)
		talk := startTalk(t, station, guest, address4(n))
		talk.say(10, 200_000)
		talk.conn.Close()
	}
}
