package tracing

import (
	"net/netip"
	"testing"

	"github.com/weftnet/weft/fabric"
)

// arrived is a probe that came through, dropped one that a host ended, vanished one that was seen last where hop says.
func arrived() *Path { return &Path{Mode: ModeProbe, Verdict: Delivered} }

func dropped(host fabric.HostID, stage Stage, r Reason, policy, rule string) *Path {
	h := Hop{Host: host, Port: "b", Stage: stage, Result: ResultDrop, Reason: r}
	return &Path{Mode: ModeProbe, Verdict: Dropped, Reason: r, Policy: policy, Rule: rule, Hops: []Step{{Hop: h}}}
}

func vanished(host fabric.HostID, stage Stage) *Path {
	h := Hop{Host: host, Stage: stage, Result: ResultPass, Peer: netip.MustParseAddr("10.99.0.2")}
	return &Path{Mode: ModeProbe, Verdict: Unknown, Hops: []Step{{Hop: h, PeerHost: "h2"}}}
}

func TestDiagnoseNamesWhatIsWrong(t *testing.T) {
	volley := []Volley{{Way: There, From: "h1", To: "h2", Sent: 500, Arrived: 495, Lost: 5}}
	for _, c := range []struct {
		claim string
		x     Examination
		want  []Cause // fault, host, peer, stage, way, rule, and the object of the change
	}{
		{"nothing", Examination{Explain: arrived(), Probe: arrived(), Reply: arrived(), Full: arrived()}, nil},
		{"a rule denies it", Examination{Explain: dropped("h2", StagePolicyIn, ReasonPolicyDenied, "p", "rest"), Probe: dropped("h2", StagePolicyIn, ReasonPolicyDenied, "p", "rest")},
			[]Cause{{Fault: "policy_denied", Host: "h2", Stage: StagePolicyIn, Way: There, Rule: "rest", Change: &Change{Object: "policy/p"}}}},
		{"a host is behind, and so denies it", Examination{Explain: arrived(), Probe: dropped("h2", StagePolicyIn, ReasonPolicyDenied, "p", "rest"), Reach: []Reach{{Host: "h2", Generation: 7, Wanted: 9, Reports: true, Change: &Change{Object: "policy/p", Revision: 9}}}},
			[]Cause{{Fault: FaultBehind, Host: "h2", Change: &Change{Object: "policy/p"}}, {Fault: "policy_denied", Host: "h2", Stage: StagePolicyIn, Way: There, Rule: "rest", Change: &Change{Object: "policy/p"}}, {Fault: FaultDiverges, Host: "h1", Peer: "h2"}}},
		{"a host does not answer", Examination{Explain: arrived(), Unsent: "arm: timeout", Silent: "h2", Reach: []Reach{{Host: "h2", Wanted: 9}}},
			[]Cause{{Fault: FaultSilent, Host: "h2"}, {Fault: FaultBehind, Host: "h2"}}},
		{"it is lost between the hosts", Examination{Explain: arrived(), Probe: vanished("h1", StageUnderlayOut)},
			[]Cause{{Fault: FaultLostOnWire, Host: "h1", Peer: "h2", Stage: StageUnderlayOut, Way: There}}},
		{"it ends inside a host without a drop", Examination{Probe: vanished("h1", StageGuard)},
			[]Cause{{Fault: FaultVanished, Host: "h1", Peer: "h2", Stage: StageGuard, Way: There}}},
		{"no record came at all", Examination{Probe: &Path{Verdict: Unknown}},
			[]Cause{{Fault: FaultVanished, Host: "h1", Way: There}}},
		{"only long ones are lost", Examination{Probe: arrived(), Full: vanished("h1", StageUnderlayOut)},
			[]Cause{{Fault: FaultBlackHole, Host: "h1", Peer: "h2", Stage: StageUnderlayOut, Way: There}}},
		{"only the answer is lost", Examination{Probe: arrived(), Reply: dropped("h2", StagePolicyOut, ReasonPolicyDenied, "p", "quiet")},
			[]Cause{{Fault: "policy_denied", Host: "h2", Stage: StagePolicyOut, Way: Back, Rule: "quiet", Change: &Change{Object: "policy/p"}}}},
		{"some are lost", Examination{Probe: arrived(), Reply: arrived(), Full: arrived(), Volleys: volley},
			[]Cause{{Fault: FaultPartialLoss, Host: "h1", Peer: "h2", Stage: StageUnderlayOut, Way: There}}},
		{"the guest's own packets are dropped now, others were before", Examination{Probe: arrived(), Drops: []Drop{
			{Host: "h1", Port: "a", Reason: ReasonGuardSrcIP, Packets: 9, Now: 4}, {Host: "h2", Port: "b", Reason: ReasonRateLimited, Packets: 7}, {Host: "h2", Port: "b", Reason: ReasonPolicyDenied, Packets: 7, Now: 5}, {Host: "h2", Port: "b", Reason: ReasonProbeCaught, Packets: 500, Now: 500}}},
			[]Cause{{Fault: "guard_src_ip", Host: "h1", Stage: StageGuard, Change: &Change{Object: "port/a"}}}},
	} {
		t.Run(c.claim, func(t *testing.T) {
			x := c.x
			x.From, x.To = "h1", "h2"
			x.Diagnose(func(object string) *Change { return &Change{Object: object} })
			if len(x.Causes) != len(c.want) {
				t.Fatalf("%d causes, want %d: %+v", len(x.Causes), len(c.want), x.Causes)
			}
			for i, got := range x.Causes {
				want := c.want[i]
				if got.Fault != want.Fault || got.Host != want.Host || got.Peer != want.Peer || got.Stage != want.Stage || got.Way != want.Way || got.Rule != want.Rule {
					t.Errorf("cause %d: %+v, want %+v", i, got, want)
				}
				if (got.Change == nil) != (want.Change == nil) || got.Change != nil && got.Change.Object != want.Change.Object {
					t.Errorf("cause %d: change %+v, want %+v", i, got.Change, want.Change)
				}
				if got.Message == "" {
					t.Errorf("cause %d says nothing", i)
				}
			}
		})
	}
}
