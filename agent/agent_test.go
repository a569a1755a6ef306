package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

func TestAChangeIsInForceAndReportedWithItsGeneration(t *testing.T) {
	h := newHouse(t, "tap-a")
	before := goleak.IgnoreCurrent()
	n := h.settled()
	off := false
	port := prt("a")
	port.Spec.Guards = fabric.Guards{RA: &off}
	r := n.put(t, port)
	if p := h.ground.state(t).Ports["tap-a"]; p.Guards&datapath.GuardRA != 0 || p.Generation != r {
		t.Fatalf("the kernel holds %+v, wanted generation %d without guard ra", p, r)
	}
	if reach, err := n.InForce(t.Context(), r); err != nil || !reach.Done || len(reach.Hosts) != 1 || !reach.Hosts[0].Alive {
		t.Fatalf("reported: %+v, %v", reach, err)
	}
	n.stop()
	goleak.VerifyNone(t, before)
}

func TestAnAgentThatStartsAgainTouchesNothing(t *testing.T) {
	h := newHouse(t, "tap-a")
	h.settled().stop()
	before, writes := h.ground.state(t), h.ground.writes()
	n := h.start()
	n.ready(t)
	if after := h.ground.writes(); after != writes {
		t.Fatalf("the datapath was written %d times: %+v became %+v", after-writes, before, h.ground.state(t))
	}
	if p := n.keeper.portStatus("a"); p.State != fabric.PortActive {
		t.Fatalf("port a is %+v", p)
	}
}

func TestWithoutEtcdTheHostGoesOnAndStartsFromItsLastGoodState(t *testing.T) {
	h := newHouse(t, "tap-a")
	n := h.settled()
	h.etcd.Stop()
	if !h.open("tap-a") {
		t.Fatal("the port closed with etcd")
	}
	n.stop()
	// The host itself has been down: nothing is in the kernel any more.
	h.ground = newGround("tap-a")
	n = h.start()
	n.ready(t)
	if !h.open("tap-a") {
		t.Fatal("the port is not open from the last good state")
	}
	n.until(t, "a problem that says why", func() bool {
		return slices.ContainsFunc(n.Agent.Status().Problems, func(p string) bool { return strings.Contains(p, "etcd") })
	})
	if _, err := n.Client.Apply(t.Context(), []fabric.Object{prt("b")}, false); err == nil {
		t.Fatal("a change was accepted that nobody can keep")
	}
	h.etcd.Restart(t)
	n.until(t, "an answer of etcd's", func() bool { _, err := n.store.Snapshot(t.Context()); return err == nil })
	n.put(t, prt("b"))
	n.until(t, "no problem", func() bool { return len(n.Agent.Status().Problems) == 0 })
}

func TestWhatIsChangedBehindTheAgentsBackIsRepaired(t *testing.T) {
	h := newHouse(t, "tap-a")
	n := h.settled()
	s := h.ground.state(t)
	p := s.Ports["tap-a"]
	p.Guards, p.Gate = 0, datapath.Closed
	if err := h.ground.Memory.Apply(t.Context(), datapath.Change{
		Put: datapath.State{Ports: map[string]datapath.Port{"tap-a": p}}, Delete: datapath.State{FDB: s.FDB},
	}); err != nil {
		t.Fatal(err)
	}
	n.until(t, "repaired", func() bool {
		now := h.ground.state(t)
		return now.Ports["tap-a"] == s.Ports["tap-a"] && len(now.FDB) == len(s.FDB)
	})
	n.until(t, "told", func() bool { return told(t, n, "datapath.repaired") == 1 })
}

// told counts the events of a kind.
func told(t *testing.T, n *tenant, kind string) int {
	t.Helper()
	count := 0
	err := n.Agent.Events(t.Context(), 0, false, func(_ uint64, e fabric.Event) error {
		if e.Type == kind {
			count++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return count
}

func TestAVanishedDeviceMakesItsPortAbsentAtOnceAndKeepsItsLocation(t *testing.T) {
	h := newHouse(t, "tap-a")
	n := h.settled()
	h.ground.unplug("tap-a")
	n.until(t, "absent", func() bool { return n.keeper.portStatus("a").State == fabric.PortAbsent })
	if loc := n.Latest().Locations["a"]; loc.Host != "h1" {
		t.Fatalf("the location was given up: %+v", loc)
	}
	if err := n.Client.Detach(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	n.until(t, "released", func() bool { return n.Latest().Locations["a"].Host == "" })
	if _, attached := n.keeper.attachment("a"); attached {
		t.Fatal("still attached")
	}
}

func TestAnAttachmentThatCannotBeIsRefusedAndLeavesNothing(t *testing.T) {
	h := newHouse(t, "tap-a", "tap-b", "eth0")
	n := h.settled()
	needy := prt("d")
	needy.Spec.Rate = &fabric.Rates{Out: &fabric.Rate{Max: 1e6}}
	greedy := prt("e")
	greedy.Spec.Rate = &fabric.Rates{Out: &fabric.Rate{Min: 1e9}}
	n.put(t, prt("b"), prt("c"), needy, greedy)
	if _, err := n.reports.ReportLocation(t.Context(), api.LocationReport{Host: "h1", Act: api.Claim, Port: "c"}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		port fabric.PortID
		how  api.Attachment
		want string
	}{
		{"an unknown port", "nosuch", api.Attachment{Device: "tap-b", Kind: api.Tap}, "nosuch"},
		{"a port that needs what this host does not have", "d", api.Attachment{Device: "tap-b", Kind: api.Tap}, "needs rate, which this host does not have"},
		{"a port with a minimum, of which nobody knows whether the host has it", "e", api.Attachment{Device: "tap-b", Kind: api.Tap}, "set underlay.capacity"},
		{"an unknown device", "b", api.Attachment{Device: "tap-x", Kind: api.Tap}, "no such device"},
		{"a device that is taken", "b", api.Attachment{Device: "tap-a", Kind: api.Tap}, "carries port a"},
		{"a port that is on another device", "a", api.Attachment{Device: "tap-b", Kind: api.Tap}, "is on device tap-a"},
		{"the underlay", "b", api.Attachment{Device: "eth0", Kind: api.Tap}, "not a guest's device"},
		{"an unknown kind", "b", api.Attachment{Device: "tap-b", Kind: "magic"}, "tap, veth"},
	} {
		if _, err := n.Client.Attach(t.Context(), c.port, c.how); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q in it", c.name, err, c.want)
		}
	}
	if s := h.ground.state(t); len(s.Ports) != 1 || n.Latest().Locations["b"].Host != "" {
		t.Fatalf("something was left: %+v, %+v", s.Ports, n.Latest().Locations["b"])
	}
	if _, err := n.Client.Attach(t.Context(), "a", api.Attachment{Device: "tap-a", Kind: api.Tap}); err != nil {
		t.Errorf("attaching again as it is: %v", err)
	}
}

func TestRemovingManyPortsIsHeldOnEveryHostUntilConfirmed(t *testing.T) {
	h := newHouse(t, "tap-a")
	n := h.settled()
	var ports []fabric.Object
	for i := range 20 {
		ports = append(ports, prt(fmt.Sprintf("p%d", i)))
	}
	n.put(t, ports...)
	n.stop() // the agent does not see the deletions one by one
	s := h.etcd.Open(t)
	for i := range 15 {
		if _, err := s.Delete(t.Context(), fabric.KindPort, fmt.Sprintf("p%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	n = h.start()
	n.until(t, "held", func() bool {
		return slices.ContainsFunc(n.Agent.Status().Problems, func(p string) bool { return strings.Contains(p, "removes 15 of 21 ports") })
	})
	if got := len(h.ground.state(t).Neighbors); got != 21 {
		t.Fatalf("%d neighbours are left of 21", got)
	}
	if _, err := n.ConfirmHeld(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := n.ConfirmHeld(t.Context()); !errors.Is(err, fabric.ErrNotFound) {
		t.Fatalf("confirmed twice: %v", err)
	}
	if got := len(h.ground.state(t).Neighbors); got != 6 || len(n.Agent.Status().Problems) != 0 {
		t.Fatalf("after the confirmation: %d neighbours, problems %q", got, n.Agent.Status().Problems)
	}
}

func TestEtcdThatWentBackIsNotFollowed(t *testing.T) {
	h := newHouse(t, "tap-a")
	n := h.settled()
	n.stop()
	h.etcd.Stop()
	backup := filepath.Join(t.TempDir(), "backup")
	if err := os.CopyFS(backup, os.DirFS(h.etcd.DataDir)); err != nil {
		t.Fatal(err)
	}
	h.etcd.Restart(t)
	n = h.start()
	n.ready(t)
	on := true
	port := prt("a")
	port.Spec.Guards = fabric.Guards{MAC: &on}
	newest := n.put(t, port, prt("b"))
	n.until(t, "kept", func() bool { // on disk, that is
		s, err := n.lastGood.load(time.Now())
		return err == nil && s != nil && s.Revision >= newest
	})
	n.stop()
	h.etcd.Stop()
	if err := os.RemoveAll(h.etcd.DataDir); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(h.etcd.DataDir, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	h.etcd.Restart(t)
	writes := h.ground.writes()
	n = h.start()
	n.until(t, "the problem", func() bool {
		return slices.ContainsFunc(n.Agent.Status().Problems, func(p string) bool { return strings.Contains(p, "confirm") })
	})
	if h.ground.writes() != writes || !h.open("tap-a") {
		t.Fatal("older data has changed the datapath")
	}
	if _, err := n.ConfirmHeld(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.until(t, "the restored data in force", func() bool {
		return len(n.Agent.Status().Problems) == 0 && n.Latest().Ports["b"] == nil && n.Agent.Ready(t.Context()) == nil
	})
	if !h.open("tap-a") {
		t.Fatal("the port did not come back")
	}
}

func TestTheSpanOfAReconcileBelongsToTheCommandThatCausedIt(t *testing.T) {
	h := newHouse(t, "tap-a")
	n := h.settled()
	n.stop() // what is told late is told at the end
	text, err := os.ReadFile(filepath.Join(h.config.StateDir, "spans", "spans.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	command := between(string(text), `"name":"apply"`, "traceId")
	if command == "" {
		t.Fatalf("no span of the command in\n%s", text)
	}
	for line := range strings.Lines(string(text)) {
		for span := range strings.SplitSeq(line, `{"traceId"`) {
			if strings.Contains(span, `"put in force"`) && strings.Contains(span, command) {
				if !strings.Contains(span, "weft.host") || !strings.Contains(span, "weft.policy.generation") {
					t.Fatalf("attributes are missing: %s", span)
				}
				return
			}
		}
	}
	t.Fatalf("no reconcile span in trace %s in\n%s", command, text)
}

// between finds the trace id of the span that has the mark.
func between(text, mark, _ string) string {
	for span := range strings.SplitSeq(text, `{"traceId":"`) {
		if strings.Contains(span, mark) {
			return span[:32]
		}
	}
	return ""
}
