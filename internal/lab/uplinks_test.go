package lab

import (
	"context"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// secondNIC gives a host eth2 on the wire.
func secondNIC(t *testing.T, l *Lab, host fabric.HostID) {
	t.Helper()
	within(t, l.WireNamespace(), func() error {
		port := string(host) + "b"
		if err := nic.CreateVeth(nic.Veth{Name: port, Peer: "eth2", PeerNamespace: l.HostNamespace(host), MTU: l.Underlay.MTU}); err != nil {
			return err
		}
		if err := nic.SetMaster(port, wireBridge); err != nil {
			return err
		}
		return nic.SetUp(port)
	})
	within(t, l.HostNamespace(host), func() error { return nic.SetUp("eth2") })
}

// leads waits until the NIC leads those of switch wan on the host, as the host reports.
func leads(t *testing.T, l *Lab, host fabric.HostID, device, other string) {
	t.Helper()
	c, err := l.Client(host)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var last []fabric.NICStatus
	err = poll(ctx, 50*time.Millisecond, func() (bool, error) {
		o, err := c.Get(ctx, fabric.KindHost, string(host))
		if err != nil {
			return false, err
		}
		status := &o.(*fabric.Host).Status
		last = status.NICs
		first, second := status.FindNIC(device), status.FindNIC(other)
		return first != nil && second != nil && first.Switch == "wan" && first.Leader == "" && second.Switch == "wan" && second.Leader == device, nil
	})
	if err != nil {
		t.Fatalf("%s does not lead on %s: %v; the host reports %+v", device, host, err, last)
	}
}

// mostLost are the probes, one each millisecond, that a change of NICs may cost: 200 are promised of one that misses three answers, more
// may be lost where the agent does not get its turn at once.
const mostLost = 500

// TestAStandbyUplinkTakesOver takes the link of a host's active NIC, and gives it back, under a guest that asks the wire each millisecond.
func TestAStandbyUplinkTakesOver(t *testing.T) {
	l := live(t, Options{Name: "uplinks", Hosts: 1})
	secondNIC(t, l, "h1")
	c, err := l.Client("h1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	wan := &fabric.Switch{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindSwitch}, Metadata: fabric.Metadata{Name: "wan"},
		Spec: fabric.SwitchSpec{Type: fabric.External, Subnets: []netip.Prefix{wire4}, Uplinks: []fabric.Uplink{{Host: "h1", NICs: []string{"eth1", "eth2"}, Reach: []netip.Addr{WireAddresses(0)[0].Addr()}}}},
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var refused error
	if err := poll(ctx, 100*time.Millisecond, func() (bool, error) { // until the host has reported eth2
		_, refused = c.Apply(ctx, []fabric.Object{wan}, false)
		return refused == nil, nil
	}); err != nil {
		t.Fatalf("%v: %v", err, refused)
	}
	if _, err := l.AddGuest(t.Context(), GuestOptions{Name: "a", Host: "h1", Switch: "wan"}, t.Logf); err != nil {
		t.Fatal(err)
	}
	leads(t, l, "h1", "eth1", "eth2")
	// A bridge that is down: the link of what is on it stays, and nothing gets through.
	within(t, l.WireNamespace(), func() error { return exec.Command("ip", "link", "add", "nowhere", "type", "bridge").Run() })
	machine := WireAddresses(0)[0].Addr()
	inGuest(t, l, "a", "ping", "-n", "-c", "1", "-W", "5", machine.String())
	for _, step := range []struct {
		name, leader, other string
		link                func(string) error
	}{
		{"the active NIC has lost its link", "eth2", "eth1", nic.SetDown},
		{"it has had it again for a while", "eth1", "eth2", nic.SetUp},
		{"its link leads nowhere", "eth2", "eth1", func(port string) error { return nic.SetMaster(port, "nowhere") }},
		{"it leads to the wire again", "eth1", "eth2", func(port string) error { return nic.SetMaster(port, wireBridge) }},
	} {
		p := probe(t, l, "a", machine, time.Millisecond)
		within(t, l.WireNamespace(), func() error { return step.link("h1") })
		leads(t, l, "h1", step.leader, step.other)
		if said := inGuest(t, l, "a", "ping", "-n", "-c", "3", "-i", "0.05", "-W", "5", machine.String()); !strings.Contains(said, " 0% packet loss") {
			t.Errorf("%s: %s", step.name, said)
		}
		seen := p.end(t)
		t.Logf("%s: of %d probes, one each millisecond, %d are lost, the longest silence is %v", step.name, seen.Sent, seen.Lost, seen.Gap)
		if len(seen.Answers) == 0 || seen.Duplicated != 0 || seen.Lost > mostLost {
			t.Errorf("%s: %d probes were answered, %d of them twice, %d are lost, at most %d may be", step.name, len(seen.Answers), seen.Duplicated, seen.Lost, mostLost)
		}
	}
}
