package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// createPolicy makes a policy of rules on the command line.
func (a *app) createPolicy(dryRun *bool) *cobra.Command {
	o := &fabric.Policy{TypeMeta: head(fabric.KindPolicy)}
	var rules []string
	cmd := &cobra.Command{
		Use: "policy NAME", Short: "Create a named list of rules", Args: exactly("NAME"),
		Long: "Create a named list of rules. A rule is written as in a document: its fields in one line. Policies of many rules are better\n" +
			"written as documents, for weft apply -f; see docs/guide/policy.md.",
		Example: "  weft create policy web-in \\\n    --rule 'name: https, weight: 200, direction: in, action: allow, protocol: tcp, local: {ports: [443]}, stateful: true' \\\n    --rule 'name: rest, weight: 1, direction: in, action: deny'",
		RunE: a.build(o, dryRun, func() (err error) {
			o.Spec.Rules, err = readRules(rules)
			return err
		}),
	}
	cmd.Flags().StringArrayVar(&rules, "rule", nil, "a rule's fields, as in a document: 'name: rest, weight: 1, direction: in, action: deny'")
	labelFlag(cmd, o.Meta())
	return cmd
}

// readRules reads rules as they stand in a document.
func readRules(lines []string) ([]fabric.Rule, error) {
	rules := []fabric.Rule{}
	for _, line := range lines {
		text := strings.TrimSpace(line)
		if !strings.HasPrefix(text, "{") {
			text = "{" + text + "}"
		}
		objects, err := fabric.Decode("", []byte("{apiVersion: "+fabric.APIVersion+", kind: Policy, metadata: {name: x}, spec: {rules: ["+text+"]}}"))
		if err != nil || len(objects) != 1 {
			return nil, fmt.Errorf("--rule %q: %w", line, alone(err))
		}
		rules = append(rules, objects[0].(*fabric.Policy).Spec.Rules...)
	}
	return rules, nil
}

// alone is an error about a rule that stands in no document.
func alone(err error) error {
	findings, ok := err.(fabric.Findings)
	for i := range findings {
		findings[i].Line, findings[i].Column, findings[i].Path = 0, 0, strings.TrimPrefix(findings[i].Path, "spec.rules[0].")
	}
	if !ok {
		return err
	}
	return findings
}

// policyFlag is --policy of commands that create what names policies.
func (a *app) policyFlag(cmd *cobra.Command, names *[]string) {
	cmd.Flags().StringArrayVar(names, "policy", nil, "policy that judges its packets; more are asked in the order given")
	_ = cmd.RegisterFlagCompletionFunc("policy", a.completeNames("policy"))
}

// defaultFlag is --default-action.
func defaultFlag(cmd *cobra.Command, action *fabric.Action) {
	cmd.Flags().StringVar((*string)(action), "default-action", "", "allow or deny what no rule decides; allow when nothing says otherwise")
	_ = cmd.RegisterFlagCompletionFunc("default-action", cobra.FixedCompletions([]string{"allow", "deny"}, cobra.ShellCompDirectiveNoFileComp))
}

// policyRow is a policy's line in a table.
func policyRow(p *fabric.Policy) (narrow, more []string) {
	var in, out, stateful int
	var groups []string
	for _, r := range p.Spec.Rules {
		if r.Direction == fabric.In {
			in++
		} else {
			out++
		}
		if r.Stateful {
			stateful++
		}
		for _, e := range []*fabric.End{r.Local, r.Remote} {
			if e != nil {
				groups = append(groups, e.Groups...)
			}
		}
	}
	slices.Sort(groups)
	return []string{p.Metadata.Name, fmt.Sprint(in), fmt.Sprint(out), fmt.Sprint(stateful), inForce(p.Status)}, []string{strings.Join(slices.Compact(groups), ","), join(p.Status.Absent)}
}

// hitsOf adds up what a policy's rules have met at all ports, by rule.
func hitsOf(policy string, ports []fabric.Object) map[string]fabric.RuleHits {
	all := map[string]fabric.RuleHits{}
	for _, o := range ports {
		for _, r := range o.(*fabric.Port).Status.Rules {
			if r.Policy != policy {
				continue
			}
			sum := all[r.Rule]
			sum.Packets, sum.Bytes = sum.Packets+r.Packets, sum.Bytes+r.Bytes
			if r.Last.After(sum.Last) {
				sum.Last = r.Last
			}
			all[r.Rule] = sum
		}
	}
	return all
}

// describeHits prints what the rules of a port have met there.
func (a *app) describeHits(rules []fabric.RuleHits) {
	if len(rules) == 0 {
		return
	}
	rows := make([][]string, len(rules))
	for i, r := range rules {
		rows[i] = append([]string{tracing.RuleName(r.Policy, r.Rule)}, met(r)...)
	}
	fmt.Fprintln(a.out)
	a.table([]string{"RULE", "PACKETS", "BYTES", "LAST"}, rows)
}

// met are the cells for what a rule has met.
func met(r fabric.RuleHits) []string {
	last := ""
	if !r.Last.IsZero() {
		last = r.Last.Local().Format(time.DateTime)
	}
	return []string{fmt.Sprint(r.Packets), size(r.Bytes), last}
}

// describeRules prints a policy's rules in the order in which they are asked, with what they have met.
func (a *app) describeRules(p *fabric.Policy, hits map[string]fabric.RuleHits) {
	for _, d := range []fabric.Direction{fabric.In, fabric.Out} {
		var rows [][]string
		for _, r := range p.Spec.Rules {
			if r.Direction == d {
				rows = append(rows, append([]string{fmt.Sprintf("%5d", r.Weight), r.Name, does(r), asks(r)}, met(hits[r.Name])...))
			}
		}
		if len(rows) == 0 {
			continue
		}
		slices.SortFunc(rows, func(x, y []string) int { return strings.Compare(y[0], x[0]) })
		for _, r := range rows {
			r[0] = strings.TrimSpace(r[0])
		}
		fmt.Fprintln(a.out)
		a.table([]string{"WEIGHT", strings.ToUpper(string(d)), "ACTION", "MATCHES", "PACKETS", "BYTES", "LAST"}, rows)
	}
}

// does says what a rule does.
func does(r fabric.Rule) string {
	words := []string{string(r.Action)}
	if r.Stateful {
		words = append(words, "stateful")
	}
	if r.Idle != 0 {
		words = append(words, "idle "+r.Idle.String())
	}
	if r.Log != nil {
		words = append(words, "log")
	}
	return strings.Join(words, ", ")
}

// asks says what a rule matches.
func asks(r fabric.Rule) string {
	var words []string
	if r.EtherType != 0 {
		words = append(words, "ethertype "+r.EtherType.String())
	}
	if r.VNI != 0 {
		words = append(words, fmt.Sprintf("vni %d", r.VNI))
	}
	if r.Protocol != "" {
		words = append(words, r.Protocol)
	}
	if m := r.ICMP; m != nil && m.Type != nil {
		words = append(words, fmt.Sprintf("type %d", *m.Type))
		if m.Code != nil {
			words = append(words, fmt.Sprintf("code %d", *m.Code))
		}
	}
	if t := r.TCPFlags; t != nil {
		words = append(words, "flags "+strings.Join(t.Set, "+"))
		if len(t.Clear) > 0 {
			words = append(words, "not "+strings.Join(t.Clear, "+"))
		}
	}
	words = append(append(words, endWords("local", r.Local)...), endWords("remote", r.Remote)...)
	if len(words) == 0 {
		return "everything"
	}
	return strings.Join(words, " ")
}

// endWords says what an end asks for; an empty list is [].
func endWords(name string, e *fabric.End) []string {
	if e == nil {
		return nil
	}
	var words []string
	add := func(what string, present bool, items []string) {
		if present {
			words = append(words, name+what+"["+strings.Join(items, ",")+"]")
		}
	}
	add("", e.Prefixes != nil || e.Groups != nil, append(texts(e.Prefixes), e.Groups...))
	add(" ports ", e.Ports != nil, texts(e.Ports))
	add(" macs ", e.MACs != nil, texts(e.MACs))
	return words
}

func texts[T fmt.Stringer](items []T) []string {
	words := make([]string, len(items))
	for i, v := range items {
		words[i] = v.String()
	}
	return words
}
