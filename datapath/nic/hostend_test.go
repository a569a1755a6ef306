package nic

import (
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/weftnet/weft/fabric"
)

func blueEnd() HostEnd {
	return HostEnd{
		Device: "weft-blue", Port: "wp-blue", Switch: "blue", MAC: fabric.MAC{0x52, 0x54, 0, 0, 0, 9}, MTU: 1450,
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.20.0.254/24"), netip.MustParsePrefix("fd00:20::9/64")},
		Gateways:  []netip.Addr{netip.MustParseAddr("10.20.0.1"), netip.MustParseAddr("fd00:20::1"), fabric.GatewayLinkLocal(7)},
		Neighbors: map[netip.Addr]fabric.MAC{netip.MustParseAddr("10.20.0.11"): {0x52, 0x54, 0, 0, 0, 1}, netip.MustParseAddr("fd00:20::b"): {0x52, 0x54, 0, 0, 0, 1}},
	}
}

func TestAHostEndIsMadeOnceAndPutRight(t *testing.T) {
	n := space(t, "hostend")
	set := func(want bool, claim string, e HostEnd) {
		t.Helper()
		in(t, n, func() error {
			changed, err := SetHostEnd(e)
			if err == nil && changed != want {
				err = fmt.Errorf("%s: changed %t, want %t", claim, changed, want)
			}
			return err
		})
	}
	run := func(command string) string {
		t.Helper()
		var out []byte
		in(t, n, func() (err error) {
			words := strings.Fields(command)
			if out, err = exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
				err = fmt.Errorf("%s: %w: %s", command, err, out)
			}
			return err
		})
		return string(out)
	}
	set(true, "there is none", blueEnd())
	set(false, "it is there", blueEnd())
	in(t, n, func() error {
		ends, err := HostEnds()
		if err == nil && (len(ends) != 1 || ends["blue"] != "weft-blue") {
			err = fmt.Errorf("listed are %v", ends)
		}
		return err
	})
	for _, spoil := range []string{
		"ip link set weft-blue down", "ip link set weft-blue mtu 1400", "ip link set weft-blue address 02:00:00:00:00:01", "ip addr del 10.20.0.1/32 dev weft-blue",
		"ip addr del fd00:20::9/64 dev weft-blue", "ip addr add 10.9.9.9/24 dev weft-blue", "ip link del weft-blue",
	} {
		run(spoil)
		set(true, spoil, blueEnd())
		set(false, "after "+spoil, blueEnd())
	}
	if got := run("ip -o addr show dev weft-blue"); strings.Contains(got, "10.9.9.9") || !strings.Contains(got, "10.20.0.1/32") ||
		!strings.Contains(got, "fe80::857:45ff:fe00:7/128 scope link nodad deprecated") {
		t.Errorf("its addresses:\n%s", got)
	}
	run("ip link set wp-blue up")
	if got := run("ip route get 10.20.0.77"); !strings.Contains(got, "src 10.20.0.254") {
		t.Errorf("the host does not speak from its own address: %s", got)
	}
	if got := run("ip -6 route get fd00:20::77"); !strings.Contains(got, "src fd00:20::9") {
		t.Errorf("the host does not speak from its own IPv6 address: %s", got)
	}
	if got := run("ip neigh show dev weft-blue"); strings.Count(got, "PERMANENT") != 2 {
		t.Errorf("its neighbours:\n%s", got)
	}
	e := blueEnd()
	e.Neighbors = map[netip.Addr]fabric.MAC{netip.MustParseAddr("10.20.0.11"): {0x52, 0x54, 0, 0, 0, 2}}
	set(false, "stations come and go", e)
	if got := run("ip neigh show dev weft-blue"); strings.Count(got, "PERMANENT") != 1 || !strings.Contains(got, "52:54:00:00:00:02") {
		t.Errorf("its neighbours after a change:\n%s", got)
	}
	e.Addresses, e.Gateways = []netip.Prefix{netip.MustParsePrefix("10.21.0.254/24")}, []netip.Addr{netip.MustParseAddr("10.21.0.1")}
	set(true, "another subnet", e)
	if got := run("ip -4 -o addr show dev weft-blue"); strings.Contains(got, "10.20.") || strings.Count(got, "10.21.") < 2 {
		t.Errorf("its addresses in another subnet:\n%s", got)
	}
}

func TestAHostEndTakesNobodysDevice(t *testing.T) {
	n := space(t, "hostname")
	for claim, c := range map[string]struct{ make, want string }{
		"a bridge of the name":             {"ip link add weft-blue type bridge", "a bridge device is called weft-blue"},
		"a veth of the name":               {"ip link add weft-blue type veth peer name other", "whose other end is not wp-blue"},
		"a device of the other end's name": {"ip link add wp-blue type bridge", "another device is called wp-blue"},
	} {
		t.Run(claim, func(t *testing.T) {
			in(t, n, func() error {
				words := strings.Fields(c.make)
				if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
				before, err := Links()
				if err != nil {
					return err
				}
				if _, err := SetHostEnd(blueEnd()); err == nil || !strings.Contains(err.Error(), c.want) {
					return fmt.Errorf("got %v, want %q", err, c.want)
				}
				after, err := Links()
				if err == nil && !slices.Equal(before, after) {
					err = fmt.Errorf("it has left %v, there was %v", after, before)
				}
				if err != nil {
					return err
				}
				return Delete(words[3])
			})
		})
	}
}

func TestNetworksAreThoseOfTheHostAlone(t *testing.T) {
	n := space(t, "networks")
	in(t, n, func() error {
		for _, command := range []string{
			"ip link set lo up", "ip link add d0 up type bridge", "ip addr add 192.0.2.9/24 dev d0", "ip -6 addr add 2001:db8::9/64 dev d0 nodad",
			"ip route add 198.51.100.0/24 via 192.0.2.1", "ip route add default via 192.0.2.1", "ip route add 203.0.113.0/24 via 192.0.2.1 proto bird",
		} {
			words := strings.Fields(command)
			if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w: %s", command, err, out)
			}
		}
		if _, err := SetHostEnd(blueEnd()); err != nil {
			return err
		}
		got, err := Networks([]string{"weft-blue"})
		if err != nil {
			return err
		}
		want := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/64")}
		if !slices.Equal(got, want) {
			return fmt.Errorf("got %v, want %v", got, want)
		}
		return nil
	})
}
