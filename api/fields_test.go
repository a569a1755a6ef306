package api_test

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

func aPort() *fabric.Port {
	return &fabric.Port{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPort},
		Metadata: fabric.Metadata{Name: "a", Labels: map[string]string{"tier": "web"}, Revision: 7, Trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		Spec:     fabric.PortSpec{VM: "a", Switch: "blue", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}},
		Status:   fabric.PortStatus{State: fabric.PortActive},
	}
}

func TestSetChangesOnlyWhatIsNamed(t *testing.T) {
	for _, c := range []struct{ assignment, diff string }{
		{"profile=gold", "+ spec.profile: gold"},
		{"spec.profile=gold", "+ spec.profile: gold"},
		{"addresses=[10.0.0.2, 10.0.0.3]", `~ spec.addresses: ["10.0.0.1"] → ["10.0.0.2","10.0.0.3"]`},
		{"addresses=[]", `~ spec.addresses: ["10.0.0.1"] → []`},
		{"guards.ip=false", "+ spec.guards.ip: false"},
		{"labels.tier=db", "~ metadata.labels.tier: web → db"},
		{"labels.example.com/team=net", "+ metadata.labels.example.com/team: net"},
		{"labels.tier=", "- metadata.labels.tier: web"},
		{"mac=52:54:00:00:00:09", "+ spec.mac: 52:54:00:00:00:09"},
	} {
		o, err := api.Set(aPort(), []string{c.assignment})
		if err != nil {
			t.Errorf("%s: %v", c.assignment, err)
			continue
		}
		changes, err := api.Diff(aPort(), o)
		if err != nil || len(changes) != 1 || changes[0].String() != c.diff {
			t.Errorf("%s changed %v (%v), want %s", c.assignment, changes, err, c.diff)
		}
		if o.Meta().Revision != 7 {
			t.Errorf("%s: the revision that was read is lost: another's change would be overwritten", c.assignment)
		}
	}
}

func TestSetRefusesWhatIsNoField(t *testing.T) {
	for _, assignment := range []string{"profile", "=gold", "colour=red", "switch.name=x", "guards=on", "addresses=[nonsense]", "profile={"} {
		if _, err := api.Set(aPort(), []string{assignment}); !errors.Is(err, fabric.ErrInvalid) {
			t.Errorf("%s: %v, want an invalid-input error", assignment, err)
		}
	}
}

func TestDiffLeavesOutWhatUsersDoNotWrite(t *testing.T) {
	other := aPort()
	other.Metadata.Revision, other.Metadata.Trace, other.Status.State = 9, "", fabric.PortClosed
	if changes, err := api.Diff(aPort(), other); err != nil || len(changes) != 0 {
		t.Errorf("%v, %v", changes, err)
	}
	created, err := api.Diff(nil, aPort())
	if err != nil || len(created) == 0 || !strings.HasPrefix(created[0].String(), "+ apiVersion") {
		t.Errorf("from nothing: %v, %v", created, err)
	}
}

func TestATargetIsReadOrRefused(t *testing.T) {
	for target, want := range map[string]api.TraceRequest{
		"tcp/443": {Protocol: "tcp", Port: 443}, "UDP/53": {Protocol: "udp", Port: 53}, "icmp": {Protocol: "icmp"}, "icmp6": {Protocol: "icmp"}, "arp": {Protocol: "arp"},
	} {
		var r api.TraceRequest
		if err := r.ParseTarget(target); err != nil || !reflect.DeepEqual(r, want) {
			t.Errorf("%s: %+v, %v", target, r, err)
		}
	}
	for _, target := range []string{"", "tcp", "tcp/", "tcp/0", "tcp/65536", "tcp/http", "icmp/8", "sctp/1", "443"} {
		var r api.TraceRequest
		if err := r.ParseTarget(target); !errors.Is(err, fabric.ErrInvalid) {
			t.Errorf("%q was read as %+v, %v", target, r, err)
		}
	}
}

func TestEtcdCanLose(t *testing.T) {
	for _, c := range []struct{ members, healthy, lose int }{{1, 1, 0}, {3, 3, 1}, {3, 2, 0}, {3, 1, -1}, {5, 5, 2}, {5, 3, 0}, {4, 4, 1}} {
		if got := api.CanLose(c.members, c.healthy); got != c.lose {
			t.Errorf("%d of %d members: can lose %d, want %d", c.healthy, c.members, got, c.lose)
		}
	}
}

func TestErrorsGoThereAndBack(t *testing.T) {
	for _, identity := range []error{fabric.ErrInvalid, fabric.ErrNotFound, fabric.ErrConflict, fabric.ErrStaleEpoch, api.ErrForbidden, api.ErrUnavailable} {
		e := api.ErrorOf(identity)
		if !errors.Is(&api.Error{Code: e.Code}, identity) || e.GetStatus() < 400 {
			t.Errorf("%v became %+v with status %d", identity, e, e.GetStatus())
		}
	}
}

func TestDiffComparesRulesByName(t *testing.T) {
	policy := func(rules ...fabric.Rule) *fabric.Policy {
		return &fabric.Policy{TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPolicy}, Metadata: fabric.Metadata{Name: "p"}, Spec: fabric.PolicySpec{Rules: rules}}
	}
	rule := func(name string, weight uint16) fabric.Rule {
		return fabric.Rule{Name: name, Weight: weight, Direction: fabric.In, Action: fabric.Deny}
	}
	changes, err := api.Diff(policy(rule("stays", 1), rule("moves", 2), rule("goes", 3)), policy(rule("comes", 4), rule("moves", 5), rule("stays", 1)))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range changes {
		line, _, _ := strings.Cut(c.String(), "{")
		got = append(got, line)
	}
	if want := "+ spec.rules[comes]: |- spec.rules[goes]: |~ spec.rules[moves].weight: 2 → 5"; strings.Join(got, "|") != want {
		t.Errorf("changes %q, want %q", got, want)
	}
}
