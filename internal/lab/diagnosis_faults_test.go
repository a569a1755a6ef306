package lab

import (
	"context"
	"syscall"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// deny is a rule that denies everything in a direction.
func deny(name string, d fabric.Direction) fabric.Rule {
	return fabric.Rule{Name: name, Weight: 1, Direction: d, Action: fabric.Deny}
}

// unpolicied takes b's policies off, and the policy away.
func unpolicied(k *clinic) {
	k.port("b", true, func(p *fabric.PortSpec) { p.Policies = nil })
	if _, err := k.api.Delete(context.Background(), fabric.KindPolicy, "ward"); err != nil {
		k.Fatal(err)
	}
}

// sicknesses are the faults, in the order of the list in docs/guide/diagnosis.md.
func sicknesses(a, b string) []sickness {
	return []sickness{
		{
			name: "1 a rule denies it", target: "tcp/22", undo: unpolicied, change: "policy/ward",
			inject: func(k *clinic) {
				k.policy("ward", true, deny("rest", fabric.In))
				k.port("b", true, func(p *fabric.PortSpec) { p.Policies = []string{"ward"} })
			},
			want: tracing.Cause{Fault: "policy_denied", Host: "h3", Stage: tracing.StagePolicyIn, Way: tracing.There, Rule: "rest"},
		},
		{
			name: "2 a host judges by older records", target: "tcp/22", change: "port/b",
			inject: func(k *clinic) {
				k.policy("ward", true, fabric.Rule{Name: "all", Weight: 1, Direction: fabric.In, Action: fabric.Allow})
				k.agent(k.lab.FreezeAgent, "h3")
				k.port("b", false, func(p *fabric.PortSpec) { p.Policies = []string{"ward"} })
			},
			undo: func(k *clinic) { k.agent(k.lab.ThawAgent, "h3"); unpolicied(k) },
			want: tracing.Cause{Fault: tracing.FaultBehind, Host: "h3"},
		},
		{
			name: "3 the guest uses another address", target: "tcp/22", tries: 3,
			inject: func(k *clinic) {
				run(k.T, k.lab, "a", "ip", "address", "add", "10.10.0.99/32", "dev", "eth0")
				k.guest("a", "ping", "-q", "-i", "0.01", "-I", "10.10.0.99", b)
				k.dropping("a", "guard_src_ip")
			},
			undo: func(k *clinic) { run(k.T, k.lab, "a", "ip", "address", "del", "10.10.0.99/32", "dev", "eth0") },
			want: tracing.Cause{Fault: "guard_src_ip", Host: "h2", Stage: tracing.StageGuard},
		},
		{
			name: "4 the two are on different networks", target: "tcp/22", change: "port/b",
			inject: func(k *clinic) {
				k.port("b", true, func(p *fabric.PortSpec) { p.VLAN, _ = fabric.ParseVLAN("20") })
			},
			undo: func(k *clinic) { k.port("b", true, func(p *fabric.PortSpec) { p.VLAN = nil }) },
			want: tracing.Cause{Fault: "dst_unknown", Host: "h2", Stage: tracing.StageFDB, Way: tracing.There},
		},
		{
			name: "5 the tunnel end point is out of reach", target: "tcp/22",
			inject: func(k *clinic) { k.barrier("udp dport 4789") },
			undo:   func(k *clinic) { k.underlay("nft", "delete table bridge ward") },
			want:   tracing.Cause{Fault: tracing.FaultLostOnWire, Host: "h2", Peer: "h3", Stage: tracing.StageUnderlayOut, Way: tracing.There},
		},
		{
			name: "6 one of a hundred frames is lost", target: "tcp/22", tries: 5,
			inject: func(k *clinic) { k.loss("h3", 0.01) },
			undo:   func(k *clinic) { k.loss("h3", 0) },
			want:   tracing.Cause{Fault: tracing.FaultPartialLoss, Host: "h2", Peer: "h3", Stage: tracing.StageUnderlayOut, Way: tracing.There},
		},
		{
			name: "7 long packets are lost on the way", target: "tcp/22",
			inject: func(k *clinic) { k.barrier("udp dport 4789 meta length > 1400") },
			undo:   func(k *clinic) { k.underlay("nft", "delete table bridge ward") },
			want:   tracing.Cause{Fault: tracing.FaultBlackHole, Host: "h2", Peer: "h3", Stage: tracing.StageUnderlayOut, Way: tracing.There},
		},
		{
			name: "8 more than the rate of the port", target: "tcp/22", tries: 3, change: "port/a",
			inject: func(k *clinic) {
				k.port("a", true, func(p *fabric.PortSpec) { p.Rate = &fabric.Rates{Out: &fabric.Rate{Max: 1_000_000}} })
				k.guest("a", "ping", "-q", "-f", "-l", "3000", "-s", "1400", b)
				k.dropping("a", "rate_limited")
			},
			undo: func(k *clinic) { k.port("a", true, func(p *fabric.PortSpec) { p.Rate = nil }) },
			want: tracing.Cause{Fault: "rate_limited", Host: "h2"},
		},
		{
			name: "9 the rules have no room for more connections", target: "tcp/9", destination: "c", tries: 3, change: "port/c",
			inject: crowded,
			undo: func(k *clinic) {
				if err := k.lab.RemoveGuest(context.Background(), "c"); err != nil {
					k.Fatal(err)
				}
				if _, err := k.api.Delete(context.Background(), fabric.KindPolicy, "crowd"); err != nil {
					k.Fatal(err)
				}
			},
			want: tracing.Cause{Fault: tracing.FaultConnections, Host: "h3", Port: "c", Stage: tracing.StagePolicyIn, Reason: tracing.ReasonCtNoFlow},
		},
		{
			name: "10 the port has lost its device", target: "tcp/22",
			inject: func(k *clinic) {
				g, err := k.lab.Guest("b")
				if err != nil {
					k.Fatal(err)
				}
				k.at(k.lab.HostNamespace("h3"), "ip", "link", "del", g.Instances[0].Device)
			},
			undo: func(k *clinic) { again(k, b) },
			want: tracing.Cause{Fault: tracing.FaultPort, Host: "h3", Stage: tracing.StagePortIn},
		},
		{
			name: "11 the guest does not take its packets", target: "tcp/22", tries: 3,
			inject: func(k *clinic) {
				k.at(k.lab.HostNamespace("h3"), "ip", "link", "set", "tap-b", "txqueuelen", "50") // sooner full than one of 8192
				k.signal("b", syscall.SIGSTOP)
				k.guest("a", "ping", "-q", "-i", "0.002", b)
				k.dropping("b", "kernel:FULL_RING")
			},
			undo: func(k *clinic) {
				k.signal("b", syscall.SIGCONT)
				k.at(k.lab.HostNamespace("h3"), "ip", "link", "set", "tap-b", "txqueuelen", "8192")
			},
			want: tracing.Cause{Fault: tracing.FaultQueueFull, Host: "h3", Stage: tracing.StagePortOut, Kernel: "FULL_RING"},
		},
		{
			name: "12 two hosts have the port", target: "tcp/22", tries: 3, change: "location/b",
			inject: func(k *clinic) { doubled(k, a) },
			undo:   func(k *clinic) { single(k, b) },
			want:   tracing.Cause{Fault: tracing.FaultOwners, Host: "h3", Peer: "h1", Port: "b", Stage: tracing.StageDecap, Reason: tracing.ReasonVTEPNotAllowed},
		},
		{
			name: "14 the answer does not come back", target: "tcp/22", undo: unpolicied, change: "policy/ward",
			inject: func(k *clinic) {
				k.policy("ward", true, deny("silence", fabric.Out))
				k.port("b", true, func(p *fabric.PortSpec) { p.Policies = []string{"ward"} })
			},
			want: tracing.Cause{Fault: "policy_denied", Host: "h3", Stage: tracing.StagePolicyOut, Way: tracing.Back, Rule: "silence"},
		},
		{
			name: "13 a host does not know that the port has moved", target: "tcp/22", change: "location/b",
			inject: func(k *clinic) {
				k.agent(k.lab.FreezeAgent, "h2")
				ctx, cancel := context.WithTimeout(k.Context(), 40*time.Second)
				defer cancel()
				if err := poll(ctx, time.Second, func() (bool, error) {
					_, err := k.api.Move(ctx, api.MoveRequest{VM: "b", To: "h1", RelaySeconds: 1})
					return err == nil, nil
				}); err != nil {
					k.Fatal(err)
				}
				if err := poll(ctx, 100*time.Millisecond, func() (bool, error) {
					o, err := k.api.Get(ctx, fabric.KindPort, "b")
					return err == nil && o.(*fabric.Port).Status.Host == "h1", nil
				}); err != nil {
					k.Fatal(err)
				}
			},
			undo: func(k *clinic) { k.agent(k.lab.ThawAgent, "h2") },
			want: tracing.Cause{Fault: tracing.FaultBehind, Host: "h2"},
		},
	}
}
