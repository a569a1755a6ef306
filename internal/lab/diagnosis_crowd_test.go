package lab

import (
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// crowded gives h3 a guest c whose rules remember as few connections as may be, and has a open more: those of before, on which a goes on
// sending, are forgotten.
func crowded(k *clinic) {
	k.policy("crowd", true, fabric.Rule{Name: "all", Weight: 1, Direction: fabric.In, Action: fabric.Allow, Protocol: "tcp", Stateful: true})
	port := &fabric.Port{TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPort}, Metadata: fabric.Metadata{Name: "c"}}
	port.Spec.Switch, port.Spec.Policies, port.Spec.Connections = "blue", []string{"crowd"}, fabric.MinConnections
	k.write(true, port) // with its rules before it is plugged in: what ran before a port's first rules is taken on for a while
	c := plug(k.T, k.lab, GuestOptions{Name: "c", Host: "h3"})
	address := netip.AddrPortFrom(netip.MustParseAddr(first(c)), 9)
	k.swallow(k.lab.GuestNamespace("c"), address)
	a := k.lab.GuestNamespace("a")
	// The kernel's CPUs keep up to half of the room for themselves and forget nothing of that for each other's sake (bpf_lru_list.c).
	idle := make([]net.Conn, fabric.MinConnections/2+100)
	for i := range idle {
		idle[i] = k.dial(a, address)
	}
	for range 2 * fabric.MinConnections {
		k.dial(a, address).Close()
	}
	for _, conn := range idle {
		k.stop = append(k.stop, func() { conn.Close() })
		if _, err := conn.Write([]byte("x")); err != nil { // TCP repeats it
			k.Fatal(err)
		}
	}
	k.dropping("c", "ct_no_flow")
}

// swallow takes connections in a namespace, and reads what comes, until the fault is healed.
func (k *clinic) swallow(ns nic.Namespace, at netip.AddrPort) {
	k.Helper()
	var l net.Listener
	if err := ns.Do(func() (err error) {
		l, err = net.Listen("tcp", at.String())
		return err
	}); err != nil {
		k.Fatal(err)
	}
	k.stop = append(k.stop, func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(io.Discard, conn)
			}()
		}
	}()
}

// dial connects from a namespace.
func (k *clinic) dial(ns nic.Namespace, to netip.AddrPort) net.Conn {
	k.Helper()
	var conn net.Conn
	if err := ns.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", to.String(), 5*time.Second)
		return err
	}); err != nil {
		k.Fatal(err)
	}
	return conn
}
