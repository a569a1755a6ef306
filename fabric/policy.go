package fabric

import "fmt"

// Quotas of policies.
const (
	// MaxPolicyRules is how many rules one policy may hold.
	MaxPolicyRules = 10000
	// MaxPortRules is how many rules of one direction may judge one port, all its policies together: with the default action they
	// are four blocks of 4,096, which is what one table has. MaxPortMeters is how many of them may meter, beside the port's MaxMeters:
	// another block.
	MaxPortRules  = 16383
	MaxPortMeters = 4096 - MaxMeters
	// MaxPortPolicies is how many policies may judge one port: its own, its profile's and its switch's together.
	MaxPortPolicies = 64
)

// Policy is a named list of rules about what a VM may send and receive.
type Policy struct {
	TypeMeta
	Metadata Metadata   `json:"metadata"`
	Spec     PolicySpec `json:"spec"`
	Status   Force      `json:"status,omitzero"`
}

// Force says where the newest record of an object is in force; it is computed when asked for.
type Force struct {
	Hosts  []HostID `json:"hosts,omitempty"`  // hosts on which it is
	Absent []HostID `json:"absent,omitempty"` // hosts on which it is not (yet): what was in force there before goes on
}

// PolicySpec holds the rules; their order in the document means nothing, their weights do.
type PolicySpec struct {
	Rules []Rule `json:"rules"`
}

// Type returns the document head.
func (p *Policy) Type() *TypeMeta { return &p.TypeMeta }

// Meta returns the metadata.
func (p *Policy) Meta() *Metadata { return &p.Metadata }

// Default leaves a policy as it is: what a rule leaves out, it does not ask for.
func (p *Policy) Default() {}

// Validate checks every rule, and that names and weights are unique; the error is Findings, which name the rule. That
// groups exist is the store's to check.
func (p *Policy) Validate() error {
	var f Findings
	checkHead(&f, &p.TypeMeta, &p.Metadata, KindPolicy)
	if n := len(p.Spec.Rules); n > MaxPolicyRules {
		f.add("spec.rules", "%d rules, the most is %d: make several policies of it", n, MaxPolicyRules)
		return f.Err()
	}
	type rank struct {
		direction Direction
		weight    uint16
	}
	names, weights := map[string]bool{}, map[rank]string{}
	for i := range p.Spec.Rules {
		r := &p.Spec.Rules[i]
		c := ruleCheck{Findings: &f, rule: r, path: fmt.Sprintf("spec.rules[%d]", i)}
		c.all()
		if names[r.Name] {
			c.add(".name", "is the name of an earlier rule too: counters and traces know a rule by its name, choose another")
		}
		names[r.Name] = true
		at := rank{r.Direction, r.Weight}
		if other, taken := weights[at]; taken {
			c.add(".weight", "%d is the weight of rule %s too: rules of one direction have different weights", r.Weight, quote(other))
		} else {
			weights[at] = r.Name
		}
	}
	return f.Err()
}

// checkPolicies checks a list of policies that a port, profile or switch names.
func checkPolicies(f *Findings, names []string) {
	if len(names) > MaxPortPolicies {
		f.add("spec.policies", "%d policies, the most is %d", len(names), MaxPortPolicies)
		return
	}
	seen := map[string]bool{}
	for i, name := range names {
		path := fmt.Sprintf("spec.policies[%d]", i)
		checkRef(f, path, name, true)
		if seen[name] {
			f.add(path, "%s is given twice: remove one", quote(name))
		}
		seen[name] = true
	}
}

// checkDefaultAction checks what decides where no rule does; empty is allowed.
func checkDefaultAction(f *Findings, a Action) {
	switch a {
	case "", Allow, Deny:
	default:
		f.add("spec.defaultAction", "%s", unknown("action", string(a), []string{string(Allow), string(Deny)}))
	}
}
