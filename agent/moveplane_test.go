package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/location"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/migration"
)

// granted is blue with port a granted from one host to another.
func granted(r fabric.Revision, from, to fabric.HostID) *fabric.Snapshot {
	s := blue(r, 1)
	s.Locations["a"] = fabric.Location{Port: "a", Switch: "blue", Host: from, Epoch: 1,
		Grant: &fabric.Grant{Move: "m1", To: to, Epoch: 2, Rollback: 3}}
	return s
}

func TestAHandoffIsOneWriteAndOutlivesTheAgent(t *testing.T) {
	b := newBench(t)
	b.accept(t.Context(), granted(10, "h1", "h2"))
	b.plug(t, "a", "tap-a")
	writes := b.plane.applied
	if err := b.handoff(t.Context(), []fabric.PortID{"a"}, "h2"); err != nil {
		t.Fatal(err)
	}
	b.remembering.Wait()
	if n := b.plane.applied - writes; n != 1 || b.plane.state.Ports["tap-a"].Gate != datapath.Relay {
		t.Fatalf("%d writes, the kernel holds %+v", n, b.plane.state.Ports)
	}
	l, err := loadLocal(b.stateDir, noon)
	if err != nil {
		t.Fatal(err)
	}
	next := b.successor()
	if err := next.begin(t.Context(), l, false); err != nil {
		t.Fatal(err)
	}
	next.accept(t.Context(), granted(10, "h1", "h2"))
	next.check(t.Context())
	if p := b.plane.state.Ports["tap-a"]; p.Gate != datapath.Relay {
		t.Fatalf("the next agent made of it %+v", p)
	}
	rolledBack := blue(11, 1)
	rolledBack.Locations["a"] = fabric.Location{Port: "a", Switch: "blue", Host: "h1", Epoch: 3}
	next.accept(t.Context(), rolledBack)
	if p := b.plane.state.Ports["tap-a"]; p.Gate != datapath.Open || p.Epoch != 3 {
		t.Fatalf("after the rollback: %+v", p)
	}
	next.check(t.Context())
	if len(next.local.Handoffs) != 0 {
		t.Fatal("the handoff is remembered after its epoch")
	}
}

func TestAHandoffDoesNotWaitForTheDisk(t *testing.T) {
	b := newBench(t)
	b.accept(t.Context(), granted(10, "h1", "h2"))
	b.plug(t, "a", "tap-a")
	b.stateDir += "/nowhere"
	if err := b.handoff(t.Context(), []fabric.PortID{"a"}, "h2"); err != nil {
		t.Fatal(err)
	}
	if b.plane.state.Ports["tap-a"].Gate != datapath.Relay {
		t.Fatal("not handed off")
	}
	b.remembering.Wait()
}

func TestWhatWasStagedForAMoveThatIsOverIsForgotten(t *testing.T) {
	for name, c := range map[string]struct {
		loc      fabric.Location
		attached bool
		gate     datapath.Gate
	}{
		"the guest came":      {fabric.Location{Port: "a", Switch: "blue", Host: "h1", Epoch: 2, From: "h2"}, true, datapath.Open},
		"it stayed elsewhere": {fabric.Location{Port: "a", Switch: "blue", Host: "h2", Epoch: 3}, false, datapath.Closed},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.accept(t.Context(), granted(10, "h2", "h1"))
			err := b.change(t.Context(), func(l *local) error {
				l.Attachments["a"] = attachment{Attachment: plan.Attachment{Device: "tap-a", Kind: datapath.Tap}}
				l.Staged["a"] = "m1"
				l.Moves["m1"] = incoming{URI: "tcp:10.240.0.1:4444"}
				return nil
			})
			if err != nil || b.plane.state.Ports["tap-a"].Gate != datapath.Staged {
				t.Fatalf("%v, the kernel holds %+v", err, b.plane.state.Ports)
			}
			after := blue(11, 1)
			after.Locations["a"] = c.loc
			b.accept(t.Context(), after)
			b.check(t.Context())
			if len(b.local.Staged)+len(b.local.Moves) != 0 {
				t.Errorf("still remembered: %+v", b.local)
			}
			if _, attached := b.local.Attachments["a"]; attached != c.attached || b.plane.state.Ports["tap-a"].Gate != c.gate {
				t.Errorf("attached %v, the kernel holds %+v", attached, b.plane.state.Ports)
			}
		})
	}
}

// arriving is a host with a move of port a towards it, whose hook is a script.
func arriving(t *testing.T, hook string) (*house, *tenant, *store.Store, *fabric.Move) {
	t.Helper()
	h := newHouse(t, "tap-a", "tap-b")
	script := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"+hook), 0o700); err != nil {
		t.Fatal(err)
	}
	h.config.Hooks.Incoming = []string{script}
	n := h.start()
	n.ready(t)
	n.until(t, "registered", func() bool { return n.Latest().Hosts["h1"] != nil })
	n.put(t, sw("blue"), prt("a"))
	s := h.etcd.Open(t)
	other := &fabric.Host{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindHost}, Metadata: fabric.Metadata{Name: "h2"},
		Spec: fabric.HostSpec{VTEP: n.config.Underlay.Address.Next(), UnderlayMTU: 1500},
	}
	if _, err := s.Apply(t.Context(), []fabric.Object{other}, store.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	ledger := location.New(s)
	if _, err := ledger.Claim(t.Context(), "a", "h2"); err != nil {
		t.Fatal(err)
	}
	move, err := ledger.Grant(t.Context(), &fabric.Move{Metadata: fabric.Metadata{Name: "m1"}, Spec: fabric.MoveSpec{VM: "a", To: "h1"}})
	if err != nil {
		t.Fatal(err)
	}
	return h, n, s, move
}

// phase is how far the record says that the move is.
func (n *tenant) phase(id fabric.MoveID) fabric.Phase {
	if m := n.Latest().Moves[id]; m != nil {
		return m.Status.Phase
	}
	return ""
}

const answer = `cat > "$0.request"
echo '{"uri": "tcp:10.240.0.1:4444", "attachments": [{"port": "a", "device": "tap-a", "kind": "tap", "qmp": "/nowhere.qmp"}]}'
`

func TestTheFirstFrameOfAGuestThatArrivesCommitsItsPort(t *testing.T) {
	h, n, _, move := arriving(t, answer)
	n.until(t, "staged", func() bool { return n.phase("m1") == fabric.MoveStaged })
	if p := h.ground.state(t).Ports["tap-a"]; p.Gate != datapath.Staged || p.Epoch != 2 {
		t.Fatalf("the kernel holds %+v", p)
	}
	if got := n.Latest().Moves["m1"].Status.Incoming; got != "tcp:10.240.0.1:4444" {
		t.Errorf("the guest is expected at %q", got)
	}
	request, err := os.ReadFile(h.config.Hooks.Incoming[0] + ".request")
	if want := fmt.Sprintf(`{"vm":"a","ports":["a"],"move":%q}`, move.Metadata.Name); err != nil || string(request) != want {
		t.Errorf("the hook read %s, %v; want %s", request, err, want)
	}
	if !h.ground.FirstFrame("tap-a", time.Now()) {
		t.Fatal("the first frame was refused")
	}
	n.until(t, "the location is this host's", func() bool {
		loc := n.Latest().Locations["a"]
		return loc.Host == "h1" && loc.Epoch == 2 && loc.From == "h2"
	})
	n.until(t, "active", func() bool { return n.keeper.portStatus("a").State == fabric.PortActive })
	n.until(t, "told", func() bool { return told(t, n, "port.opened") == 1 })
}

func TestAnAgentThatIsReplacedWhileAGuestIsOnItsWayGoesOn(t *testing.T) {
	h, n, _, _ := arriving(t, answer)
	n.until(t, "staged", func() bool { return n.phase("m1") == fabric.MoveStaged })
	n.stop()
	if err := os.Remove(h.config.Hooks.Incoming[0]); err != nil { // the machine waits already: it must not be started twice
		t.Fatal(err)
	}
	h.ground.FirstFrame("tap-a", time.Now()) // while nobody looks
	n = h.start()
	n.until(t, "the location is this host's", func() bool {
		loc := n.Latest()
		return loc != nil && loc.Locations["a"].Host == "h1"
	})
	if !h.open("tap-a") {
		t.Fatal("the port is not open")
	}
}

func TestAMoveWhoseConnectionsAreRefusedIsGivenUpBeforeTheGuestIsCopied(t *testing.T) {
	h, n, _, _ := arriving(t, `while ! test -e "$0.go"; do sleep 0.02; done
`+answer)
	n.bequests.first("a", "m1", fmt.Errorf("%w: form 9: %w", errRefused, fabric.ErrInvalid))
	if err := os.WriteFile(h.config.Hooks.Incoming[0]+".go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n.until(t, "given up", func() bool {
		m := n.Latest().Moves["m1"]
		return m != nil && m.Status.Fault != ""
	})
	m := n.Latest().Moves["m1"]
	for _, want := range []string{"port a", "host h2", "form 9", "stays there"} {
		if !strings.Contains(m.Status.Fault, want) {
			t.Errorf("the record says %q, want %q in it", m.Status.Fault, want)
		}
	}
	if m.Status.Incoming != "" {
		t.Errorf("the guest was expected at %q", m.Status.Incoming)
	}
	n.until(t, "nothing left", func() bool { return len(h.ground.state(t).Ports) == 0 })
	if loc := n.Latest().Locations["a"]; loc.Host != "h2" {
		t.Errorf("the port is at %+v", loc)
	}
}

func TestWhatAnAgentOfAnotherReleaseSendsIsRefused(t *testing.T) {
	h := heir{Agent: newHouse(t).start().Agent, port: "a", move: &fabric.Move{Spec: fabric.MoveSpec{From: "h2"}}}
	for _, form := range []int{0, migration.Forms().Most + 1, -1} {
		err := h.take(t.Context(), api.Left{Form: form})
		if refused(err) == nil || !strings.Contains(err.Error(), fmt.Sprintf("host h2 moves guests in form %d", form)) {
			t.Errorf("of form %d it is said: %v", form, err)
		}
	}
	if err := h.take(t.Context(), api.Left{Form: migration.Forms().Most}); refused(err) != nil {
		t.Errorf("its own form: %v", err)
	}
}

func TestConnectionsAreRefusedForWhatTheyAreAndNotForTheirPort(t *testing.T) {
	h := heir{Agent: newHouse(t).start().Agent, port: "a"}
	for carried, want := range map[string]bool{"": false, fabric.ErrNotFound.Error(): false, "form 9": true} {
		if err := h.takeFlows(t.Context(), api.Left{Flows: []byte(carried)}); (refused(err) != nil) != want {
			t.Errorf("of %q it is said: %v", carried, err)
		}
	}
}

func TestAMoveWhoseHookFailsIsGivenUpAndNothingStays(t *testing.T) {
	for name, c := range map[string]struct{ hook, want string }{
		"it fails":               {"echo 'no memory left' >&2; exit 3", "no memory left"},
		"it answers nonsense":    {"echo hello", "invalid character"},
		"it names a wrong port":  {strings.ReplaceAll(answer, `"a"`, `"b"`), "port b, which is not of move"},
		"it forgets a port":      {`echo '{"uri": "tcp:1", "attachments": []}'`, "no device for port a"},
		"it names no device":     {strings.ReplaceAll(answer, "tap-a", "tap-x"), "no such device"},
		"it names no QMP socket": {strings.ReplaceAll(answer, "/nowhere.qmp", ""), "no QMP socket"},
	} {
		t.Run(name, func(t *testing.T) {
			h, n, _, _ := arriving(t, c.hook)
			n.until(t, "given up", func() bool {
				m := n.Latest().Moves["m1"]
				return m != nil && (m.Status.Fault != "" || m.Status.Phase == fabric.MoveAborted)
			})
			m := n.Latest().Moves["m1"]
			if text := m.Status.Fault + m.Status.Reason; !strings.Contains(text, c.want) {
				t.Errorf("the record says %q, want %q in it", text, c.want)
			}
			n.until(t, "nothing left", func() bool { return len(h.ground.state(t).Ports) == 0 })
			if _, attached := n.keeper.attachment("a"); attached {
				t.Error("still attached")
			}
		})
	}
}
