package fabric

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

// policyText is a policy with the rules in YAML's flow form, the first of them in line 7.
func policyText(lines ...string) string {
	return "apiVersion: weft/v1\nkind: Policy\nmetadata:\n  name: p\nspec:\n  rules:\n  - " + strings.Join(lines, "\n  - ") + "\n"
}

func TestRulesAreReadInEveryForm(t *testing.T) {
	text := policyText(
		`{name: https, weight: 200, direction: in, action: allow, protocol: tcp, local: {ports: [443, "8000-8080"]}, remote: {groups: [office], prefixes: []}, stateful: true, idle: 10m, log: {sample: 10}}`,
		`{name: lldp, weight: 100, direction: out, action: deny, etherType: 0x88cc, local: {macs: [52:54:00:12:34:56]}}`,
		`{name: profinet, weight: 99, direction: out, action: deny, etherType: 34962}`,
		`{name: big, weight: 98, direction: out, action: reject, protocol: icmp, icmp: {type: 3, code: 4}, vlan: 4097, vni: 10001}`,
		`{name: flags, weight: 97, direction: out, action: deny, protocol: "6", tcpFlags: {set: [syn], clear: [ack]}}`)
	objects, err := Decode("p.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	r := objects[0].(*Policy).Spec.Rules
	if ports := r[0].Local.Ports; len(ports) != 2 || ports[0] != (PortRange{443, 443}) || ports[1] != (PortRange{8000, 8080}) {
		t.Errorf("ports %v", ports)
	}
	if r[0].Remote.Prefixes == nil || r[0].Remote.Ports != nil {
		t.Errorf("remote %+v: empty and absent differ", r[0].Remote)
	}
	if time.Duration(r[0].Idle) != 10*time.Minute || r[1].EtherType != 0x88cc || r[2].EtherType != 0x8892 {
		t.Errorf("idle %s, types %s and %s", r[0].Idle, r[1].EtherType, r[2].EtherType)
	}
	var yaml strings.Builder
	if err := Encode(&yaml, objects...); err != nil {
		t.Fatal(err)
	}
	again, err := Decode("again", []byte(yaml.String()))
	if err != nil || !reflect.DeepEqual(again, objects) {
		t.Errorf("what was written reads differently (%v):\n%s", err, yaml.String())
	}
	var back Policy
	b, err := json.Marshal(objects[0])
	if err == nil {
		err = json.Unmarshal(b, &back)
	}
	if err != nil || !reflect.DeepEqual(&back, objects[0]) {
		t.Errorf("JSON %s\nreads as %+v (%v)", b, back, err)
	}
	var numbers struct {
		Port PortRange
		Type EtherType
	}
	if err := json.Unmarshal([]byte(`{"port": 443, "type": 35020}`), &numbers); err != nil || numbers.Port.Last != 443 || numbers.Type != 0x88cc {
		t.Errorf("numbers in JSON: %+v (%v)", numbers, err)
	}
}

func TestABadRuleIsRefusedByNameAndLine(t *testing.T) {
	const good = `{name: a, weight: 1, direction: in, action: deny}`
	for name, c := range map[string]struct{ rule, want string }{
		"a weight that is taken":      {`{name: b, weight: 1, direction: in, action: allow}`, `spec.rules[1].weight: rule "b": 1 is the weight of rule "a" too`},
		"no weight":                   {`{name: b, direction: in, action: allow}`, `rule "b": is missing or 0: 1 to 65535`},
		"a weight of 65536":           {`{name: b, weight: 65536, direction: in, action: allow}`, `not a whole number from 0 to 65535`},
		"a name that is taken":        {`{name: a, weight: 2, direction: in, action: allow}`, `rule "a": is the name of an earlier rule too`},
		"no name":                     {`{weight: 2, direction: in, action: allow}`, `spec.rules[1].name: is missing`},
		"no direction":                {`{name: b, weight: 2, action: allow}`, `rule "b": is missing: one of [in out]`},
		"an unknown action":           {`{name: b, weight: 2, direction: in, action: alow}`, `did you mean "allow"?`},
		"an unknown protocol":         {`{name: b, weight: 2, direction: in, action: allow, protocol: tpc}`, `did you mean "tcp"?`},
		"a protocol of 256":           {`{name: b, weight: 2, direction: in, action: allow, protocol: "256"}`, `and numbers of 0 to 255`},
		"ports without a protocol":    {`{name: b, weight: 2, direction: in, action: allow, local: {ports: [443]}}`, `only tcp, udp and sctp have ports`},
		"ports of icmp":               {`{name: b, weight: 2, direction: in, action: allow, protocol: icmp, remote: {ports: []}}`, `only tcp, udp and sctp have ports`},
		"a reversed range":            {`{name: b, weight: 2, direction: in, action: allow, protocol: tcp, local: {ports: ["90-80"]}}`, `spec.rules[1].local.ports[0]: rule "b": 90-80 is reversed: write 80-90`},
		"a port of 65536":             {`{name: b, weight: 2, direction: in, action: allow, protocol: tcp, local: {ports: [65536]}}`, `"65536" is not a port or a range of ports`},
		"host bits in a prefix":       {`{name: b, weight: 2, direction: in, action: allow, remote: {prefixes: [10.0.0.0/24, 10.1.0.1/24]}}`, `spec.rules[1].remote.prefixes[1]: rule "b": 10.1.0.1/24 has host bits set: write 10.1.0.0/24`},
		"IPv4 in IPv6 clothes":        {`{name: b, weight: 2, direction: in, action: allow, remote: {prefixes: ["::ffff:10.0.0.0/104"]}}`, `write it as 10.0.0.0/8`},
		"a group's bad name":          {`{name: b, weight: 2, direction: in, action: allow, remote: {groups: [Web]}}`, `must match`},
		"a stateful deny":             {`{name: b, weight: 2, direction: in, action: deny, stateful: true}`, `goes with action allow only`},
		"an idle time of no flow":     {`{name: b, weight: 2, direction: in, action: allow, idle: 10m}`, `only a stateful rule has flows`},
		"an idle time of a week":      {`{name: b, weight: 2, direction: in, action: allow, stateful: true, idle: 168h}`, `168h cannot be: an idle time is 1s to 24h`},
		"an idle time without a unit": {`{name: b, weight: 2, direction: in, action: allow, stateful: true, idle: 10}`, `"10" is not a duration: write it as 30s, 10m or 1h30m`},
		"flags of a stateful rule":    {`{name: b, weight: 2, direction: in, action: allow, protocol: tcp, stateful: true, tcpFlags: {set: [syn]}}`, `cannot narrow a stateful rule`},
		"flags of a meter":            {`{name: b, weight: 2, direction: in, action: meter, protocol: tcp, tcpFlags: {set: [syn]}}`, `cannot narrow a meter`},
		"flags of udp":                {`{name: b, weight: 2, direction: in, action: deny, protocol: udp, tcpFlags: {set: [syn]}}`, `needs protocol tcp`},
		"a flag both set and clear":   {`{name: b, weight: 2, direction: in, action: deny, protocol: tcp, tcpFlags: {set: [syn], clear: [syn]}}`, `cannot be set and clear`},
		"an unknown flag":             {`{name: b, weight: 2, direction: in, action: deny, protocol: tcp, tcpFlags: {set: [sin]}}`, `did you mean`},
		"ICMP of tcp":                 {`{name: b, weight: 2, direction: in, action: deny, protocol: tcp, icmp: {type: 8}}`, `needs protocol icmp or icmpv6`},
		"an ICMP code without a type": {`{name: b, weight: 2, direction: in, action: deny, protocol: icmp, icmp: {code: 8}}`, `means nothing without a type`},
		"ARP":                         {`{name: b, weight: 2, direction: in, action: deny, etherType: 0x0806}`, `ARP is the guards' matter`},
		"a length":                    {`{name: b, weight: 2, direction: in, action: deny, etherType: 0x05ff}`, `is a length`},
		"IP in another EtherType":     {`{name: b, weight: 2, direction: in, action: deny, etherType: 0x88cc, protocol: tcp}`, `0x88cc is not IP`},
		"flows of another EtherType":  {`{name: b, weight: 2, direction: in, action: allow, etherType: 0x88cc, stateful: true}`, `only IP has connections`},
		"VLAN 4095":                   {`{name: b, weight: 2, direction: in, action: deny, vlan: 4095}`, `a VLAN is 1 to 4094`},
		"a VNI of 2^24":               {`{name: b, weight: 2, direction: in, action: deny, vni: 16777216}`, `does not fit`},
		"a log of a meter":            {`{name: b, weight: 2, direction: in, action: meter, log: {}}`, `a meter decides none`},
		"a field that is unknown":     {`{name: b, weight: 2, direction: in, action: deny, protocl: tcp}`, `did you mean "protocol"?`},
		"too long a list":             {`{name: b, weight: 2, direction: in, action: deny, protocol: tcp, local: {ports: [` + strings.Repeat("1,", MaxRuleList) + `2]}}`, `1025 entries, the most is 1024`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decode("p.yaml", []byte(policyText(good, c.rule)))
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "p.yaml:8:") {
				t.Errorf("error\n  %v\nis not about line 8 with\n  %s", err, c.want)
			}
		})
	}
}

func TestListsOfPoliciesAreBounded(t *testing.T) {
	var f Findings
	checkPolicies(&f, []string{"a", "b", "a"})
	if err := f.Err(); err == nil || !strings.Contains(err.Error(), `spec.policies[2]: "a" is given twice`) {
		t.Error(err)
	}
	p := &Port{TypeMeta: TypeMeta{APIVersion, KindPort}, Metadata: Metadata{Name: "x"}, Spec: PortSpec{Switch: "blue"}}
	for n := range MaxPortPolicies + 1 {
		p.Spec.Policies = append(p.Spec.Policies, fmt.Sprintf("p%d", n))
	}
	if err := p.Validate(); err == nil || !strings.Contains(err.Error(), "65 policies, the most is 64") {
		t.Error(err)
	}
	sw := &Switch{TypeMeta: TypeMeta{APIVersion, KindSwitch}, Metadata: Metadata{Name: "x"}, Spec: SwitchSpec{Type: Private, DefaultAction: Reject}}
	if err := sw.Validate(); err == nil || !strings.Contains(err.Error(), "spec.defaultAction") {
		t.Error(err)
	}
}

func TestTenThousandRulesAreOneDocument(t *testing.T) {
	line := func(n int) string {
		return fmt.Sprintf(`{name: rule-%d, weight: %d, direction: in, action: allow, protocol: tcp, local: {ports: ["443"]}, remote: {groups: [office], prefixes: [10.0.0.0/8, 192.168.0.0/16]}, stateful: true, idle: 10m}`, n, n+1)
	}
	var lines []string
	for n := range MaxPolicyRules {
		lines = append(lines, line(n))
	}
	if _, err := Decode("p.yaml", []byte(policyText(lines...))); err != nil {
		t.Error(err)
	}
	_, err := Decode("p.yaml", []byte(policyText(append(lines, line(MaxPolicyRules))...)))
	if err == nil || !strings.Contains(err.Error(), "10001 rules, the most is 10000") {
		t.Error(err)
	}
}

func TestKindsHaveAPluralThatIsReadBack(t *testing.T) {
	for _, k := range Kinds() {
		if got, err := ParseKind(Plural(k)); err != nil || got != k {
			t.Errorf("%s became %q (%v)", Plural(k), got, err)
		}
	}
	if Plural(KindPolicy) != "policies" || Plural(KindSwitch) != "switches" {
		t.Errorf("%s, %s", Plural(KindPolicy), Plural(KindSwitch))
	}
}
