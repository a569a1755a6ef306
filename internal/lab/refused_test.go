package lab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/internal/lab/impair"
	"github.com/weftnet/weft/tracing"
)

// TestAHostThatCannotPutAPolicyInForceSaysSo gives one host each reason for which a change of rules cannot come into force there. It
// must name the generation and the reason wherever an operator would look, and go on with the rules it had.
func TestAHostThatCannotPutAPolicyInForceSaysSo(t *testing.T) {
	l := live(t, Options{Name: "refuse", Hosts: 2})
	blue(t, l)
	c, err := l.Client("h1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	k := &clinic{T: t, lab: l, api: c}
	plug(t, l, GuestOptions{Name: "a", Host: "h1"})
	b := plug(t, l, GuestOptions{Name: "b", Host: "h2"})
	run(t, l, "a", "ping", "-c", "1", "-W", "5", first(b))
	k.policy("ward", true, fabric.Rule{Name: "web", Weight: 2, Direction: fabric.In, Action: fabric.Allow, Protocol: "tcp", Local: portsOf(80)}, deny("rest", fabric.In))
	k.port("b", true, func(p *fabric.PortSpec) { p.Policies = []string{"ward"} })
	pin := func(name string) string { return filepath.Join(l.file("h2", "bpf"), "maps", name) }
	ssh := fabric.Rule{Name: "ssh", Weight: 2, Direction: fabric.In, Action: fabric.Allow, Protocol: "tcp", Local: portsOf(22)}

	filled := uint32(0)
	for _, r := range []refusal{
		{
			claim: "a map is full", because: "the map is full", rules: []fabric.Rule{ssh, deny("rest", fabric.In)},
			inject: func(t *testing.T) {
				var err error
				if filled, err = impair.Fill(pin("tables_v2")); err != nil || filled == 0 {
					t.Fatalf("filled with %d: %v", filled, err)
				}
			},
			heal: func(t *testing.T) {
				if err := impair.Drain(pin("tables_v2"), filled); err != nil {
					t.Fatal(err)
				}
			},
		},
		{
			claim: "the compiler refuses", because: "classes of packets in one dimension", rules: tooManyClasses(),
			inject: func(*testing.T) {},
			heal: func(t *testing.T) {
				(&clinic{T: t, lab: l, api: c}).policy("ward", false, ssh, deny("rest", fabric.In))
			},
		},
		{ // last: what is frozen stays so
			claim: "the kernel refuses", because: "not permitted", rules: []fabric.Rule{ssh, deny("others", fabric.In)},
			inject: func(t *testing.T) {
				if err := impair.Freeze(pin("rules_v1")); err != nil {
					t.Fatal(err)
				}
			},
		},
	} {
		t.Run(r.claim, func(t *testing.T) {
			k := &clinic{T: t, lab: l, api: c}
			k.decides(80, tracing.Delivered, "web")
			r.inject(t)
			k.policy("ward", false, r.rules...)
			k.refused(r)
			k.decides(80, tracing.Delivered, "web") // by the last good one
			k.decides(22, tracing.Dropped, "rest")
			if r.heal == nil {
				return
			}
			r.heal(t)
			k.recovers()
			k.decides(80, tracing.Dropped, "rest")
			k.decides(22, tracing.Delivered, "ssh")
			k.policy("ward", true, fabric.Rule{Name: "web", Weight: 2, Direction: fabric.In, Action: fabric.Allow, Protocol: "tcp", Local: portsOf(80)}, deny("rest", fabric.In))
		})
	}
}

// refusal is why h2 cannot put rules in force.
type refusal struct {
	claim, because string
	rules          []fabric.Rule
	inject         func(*testing.T)
	heal           func(*testing.T) // nil for what cannot be healed
}

func portsOf(port uint16) *fabric.End {
	return &fabric.End{Ports: []fabric.PortRange{{First: port, Last: port}}}
}

// tooManyClasses are rules that any fabric admits, and that tell more ports apart than one table can.
func tooManyClasses() []fabric.Rule {
	random := rand.New(rand.NewPCG(1, 1))
	var rules []fabric.Rule
	for i := range 1000 {
		r := fabric.Rule{Name: fmt.Sprintf("r%d", i), Weight: uint16(i + 1), Direction: fabric.In, Action: fabric.Allow, Protocol: []string{"tcp", "udp"}[i%2], Local: &fabric.End{}}
		for range 90 {
			from := uint16(1 + random.IntN(65000))
			r.Local.Ports = append(r.Local.Ports, fabric.PortRange{First: from, Last: from + uint16(random.IntN(500))})
		}
		rules = append(rules, r)
	}
	return rules
}

// refused checks that everything that an operator would look at says that h2 has not put the newest rules in force, and why.
func (k *clinic) refused(r refusal) {
	k.Helper()
	o, err := k.api.Get(k.Context(), fabric.KindPolicy, "ward")
	if err != nil {
		k.Fatal(err)
	}
	revision := o.Meta().Revision
	says := fmt.Sprintf("eneration %d failed: ", revision)
	told := func(text string) bool { return strings.Contains(text, says) && strings.Contains(text, r.because) }
	k.await("the host's status and the policy's", func() (string, bool) {
		st, err := k.api.Status(k.Context())
		if err != nil {
			return err.Error(), false
		}
		listed, err := k.api.Get(k.Context(), fabric.KindPolicy, "ward")
		if err != nil {
			return err.Error(), false
		}
		f := listed.(*fabric.Policy).Status
		return fmt.Sprintf("%+v; %+v", f, st.Problems), slices.Equal(f.Hosts, []fabric.HostID{"h1"}) && slices.Equal(f.Absent, []fabric.HostID{"h2"}) &&
			slices.ContainsFunc(st.Problems, func(p api.Problem) bool { return p.Object == "host/h2" && told(p.Message) })
	})
	k.await("the event", func() (string, bool) { e := k.events("h2", "generation.failed"); return e, told(e) })
	reach, err := k.api.Reached(k.Context(), revision)
	if err != nil || reach.Done {
		k.Errorf("the change is shown as in force everywhere: %+v, %v", reach, err)
	}
	for _, h := range reach.Hosts {
		if h.InForce != (h.Host == "h1") || h.Host == "h2" && !slices.ContainsFunc(h.Problems, told) {
			k.Errorf("host %s: %+v", h.Host, h)
		}
	}
	x, err := k.api.Why(k.Context(), api.TraceRequest{Source: "a", Destination: "b", Protocol: "tcp", Port: 22})
	if err != nil {
		k.Fatal(err)
	}
	if !slices.ContainsFunc(x.Causes, func(c tracing.Cause) bool {
		return c.Fault == tracing.FaultBehind && c.Host == "h2" && c.Change != nil && c.Change.Object == "policy/ward" && told(c.Message)
	}) {
		k.Errorf("why does not name it: %+v", x.Causes)
	}
	p, err := k.api.Get(k.Context(), fabric.KindPort, "b")
	if err != nil {
		k.Fatal(err)
	}
	if s := p.(*fabric.Port).Status; s.State != fabric.PortActive || !strings.Contains(s.Reason, "rules it had before") {
		k.Errorf("the port says %+v", s)
	}
}

// recovers waits until the policy is in force everywhere, and that was told.
func (k *clinic) recovers() {
	k.Helper()
	k.await("everywhere in force", func() (string, bool) {
		o, err := k.api.Get(k.Context(), fabric.KindPolicy, "ward")
		if err != nil {
			return err.Error(), false
		}
		told := k.events("h2", "generation.recovered")
		return fmt.Sprintf("%+v; %s", o.(*fabric.Policy).Status, told), len(o.(*fabric.Policy).Status.Hosts) == 2 && told != ""
	})
}

// decides sends a probe from a to a TCP port of b, and checks what became of it by which rule.
func (k *clinic) decides(port uint16, want tracing.Verdict, rule string) {
	k.Helper()
	r, err := k.api.Trace(k.Context(), api.TraceRequest{Source: "a", Destination: "b", Protocol: "tcp", Port: port})
	if err != nil {
		k.Fatal(err)
	}
	if r.Verdict != want || !slices.ContainsFunc(r.Hops, func(h tracing.Step) bool { return h.Stage == tracing.StagePolicyIn && h.Rule == rule }) {
		k.Errorf("tcp/%d: %s by %q, want %s by %q", port, r.Verdict, r.Rule, want, rule)
	}
}

// events are the messages of a host's events of a type.
func (k *clinic) events(host fabric.HostID, kind string) string {
	var all []string
	_ = k.api.Events(k.Context(), []fabric.HostID{host}, false, func(e fabric.Event) error {
		if e.Type == kind {
			all = append(all, e.Message)
		}
		return nil
	})
	return strings.Join(all, "\n")
}

// await waits until something holds, and says what there was if it never does.
func (k *clinic) await(what string, holds func() (string, bool)) {
	k.Helper()
	ctx, cancel := context.WithTimeout(k.Context(), 20*time.Second)
	defer cancel()
	var found string
	if poll(ctx, 100*time.Millisecond, func() (bool, error) {
		var ok bool
		found, ok = holds()
		return ok, nil
	}) != nil {
		k.Fatalf("%s: there is %s", what, found)
	}
}
