package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"time"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

const (
	compileName = "policy-compile"
	groupsName  = "policy-group"
	memoryName  = "policy-memory"
	// large is how many rules a policy has that is compiled, swapped and weighed; members how many a group has.
	large   = 10_000
	members = 10_000
)

// takeCompile times policy.Compile for policies that differ in what makes them large.
func takeCompile(_ context.Context, _ *site, o options, _ *quiet) (result, []figure, error) {
	var all []figure
	for i, s := range shapes() {
		f := figure{Name: fmt.Sprintf("%s-%d", compileName, i), Unit: "ms", Most: 300, Text: "compile " + thousands(large) + " rules: " + s.text}
		source := s.source(large)
		for range o.Rounds {
			begun := time.Now()
			if _, err := policy.Compile(*source); err != nil {
				return result{}, nil, err
			}
			f.Values = append(f.Values, milliseconds(begun))
		}
		all = append(all, f)
	}
	return result{}, all, nil
}

// takeGroup times a change of one member of a large group, from the call of the core to its return: the new table is compiled, put,
// and named by the port.
func takeGroup(ctx context.Context, s *site, o options, _ *quiet) (result, []figure, error) {
	f := figure{Name: groupsName + "-core", Unit: "ms", Most: 50, Text: "a group of " + thousands(members) + " members changes by one, until it is in force in the core"}
	gone := figure{Name: groupsName + "-removed", Unit: "ms", Text: removedText}
	group := groupsOf(1, members)[groupName(0)]
	var old policy.Digest
	for i := range o.Rounds + 1 {
		source := groupSource(append(group[:members:members], netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 32)))
		took, err := s.swap(ctx, []string{portA}, source, old)
		if err != nil {
			return result{}, nil, err
		}
		if i > 0 { // the first has no table before it
			f.Values, gone.Values = append(f.Values, took.inForce), append(gone.Values, took.removed)
		}
		old = source.Digest()
	}
	s.ruled = ruleset{n: -1}
	return result{}, []figure{f, gone}, nil
}

// removedText is what follows a change of a table.
const removedText = "afterwards, until the old table is removed"

// groupSource is a policy of few rules, one of which names a group.
func groupSource(group []netip.Prefix) *policy.Source {
	rules := []fabric.Rule{
		{Name: "web", Weight: 30, Direction: fabric.Out, Action: fabric.Allow, Protocol: "tcp", Stateful: true,
			Remote: &fabric.End{Groups: []string{groupName(0)}, Ports: ports(443, 0)}},
		{Name: "dns", Weight: 20, Direction: fabric.Out, Action: fabric.Allow, Protocol: "udp", Stateful: true, Remote: &fabric.End{Ports: ports(53, 0)}},
	}
	p := &fabric.Policy{Metadata: fabric.Metadata{Name: "group"}, Spec: fabric.PolicySpec{Rules: rules}}
	return &policy.Source{Policies: []*fabric.Policy{p}, Default: fabric.Deny, VNI: benchVNI, Groups: map[string][]netip.Prefix{groupName(0): group}}
}

// swapped is how long it took to put ports of host 0 under another table, and then to take the old one away, in milliseconds.
type swapped struct{ inForce, removed float64 }

// swap puts ports of host 0 under a source: its table is compiled and put, and each port names it. Then the old table goes, if there
// is one.
func (s *site) swap(ctx context.Context, devices []string, source *policy.Source, old policy.Digest) (took swapped, err error) {
	state, err := s.portsOf(ctx, devices)
	if err != nil {
		return took, err
	}
	digest := source.Digest()
	for device, port := range state {
		port.Policy = digest
		state[device] = port
	}
	begun := time.Now()
	err = s.apply(0, datapath.Change{Put: datapath.State{Ports: state, Tables: map[policy.Digest]*policy.Source{digest: source}}})
	if took.inForce = milliseconds(begun); err != nil || old.IsZero() {
		return took, err
	}
	begun = time.Now()
	err = s.apply(0, datapath.Change{Delete: datapath.State{Tables: map[policy.Digest]*policy.Source{old: nil}}})
	took.removed = milliseconds(begun)
	return took, err
}

// takeMemory weighs what a policy and a port take in the kernel, and what a policy takes in the process that puts it there.
func takeMemory(ctx context.Context, s *site, _ options, _ *quiet) (result, []figure, error) {
	var all []figure
	for _, n := range []int{1000, large} {
		shape := shapes()[0]
		heap, source := heapOf(func() *policy.Source { return shape.source(n) })
		grown, err := s.weigh(ctx, func() error {
			return s.apply(0, datapath.Change{Put: datapath.State{Tables: map[policy.Digest]*policy.Source{source.Digest(): source}}})
		})
		if err != nil {
			return result{}, nil, err
		}
		if err := s.apply(0, datapath.Change{Delete: datapath.State{Tables: map[policy.Digest]*policy.Source{source.Digest(): nil}}}); err != nil {
			return result{}, nil, err
		}
		all = append(all,
			figure{Name: fmt.Sprintf("%s-%d", memoryName, n), Unit: "MB", Text: fmt.Sprintf("maps of a policy of %s rules: %s", thousands(n), shape.text), Values: []float64{grown}},
			figure{Name: fmt.Sprintf("%s-%d-heap", memoryName, n), Unit: "MB", Text: "the same in the agent's heap", Values: []float64{heap}})
	}
	source := thousand.source()
	if err := s.apply(0, datapath.Change{Put: datapath.State{Tables: map[policy.Digest]*policy.Source{source.Digest(): source}}}); err != nil {
		return result{}, nil, err
	}
	grown, err := s.weigh(ctx, func() error { return s.judgeAlso(0, portC, source) })
	all = append(all, figure{Name: memoryName + "-port", Unit: "MB", Text: "maps of one more port under a policy that is there, all its flows included", Values: []float64{grown}})
	return result{}, all, err
}

// weigh is by how many MB (10^6 bytes) the maps of host 0 grow.
func (s *site) weigh(ctx context.Context, change func() error) (float64, error) {
	total := func() (sum uint64, err error) {
		all, err := s.planes[0].Memory(ctx)
		for _, size := range all {
			sum += size
		}
		return sum, err
	}
	before, errBefore := total()
	err := change()
	after, errAfter := total()
	return (float64(after) - float64(before)) / 1e6, errors.Join(errBefore, err, errAfter)
}

// heapOf is by how many MB the heap grows with a source, and the source.
func heapOf(build func() *policy.Source) (float64, *policy.Source) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	source := build()
	runtime.GC()
	runtime.ReadMemStats(&after)
	return (float64(after.HeapAlloc) - float64(before.HeapAlloc)) / 1e6, source
}

// portsOf are the ports of host 0 on these devices as they are.
func (s *site) portsOf(ctx context.Context, devices []string) (map[string]datapath.Port, error) {
	state, err := s.planes[0].Read(ctx)
	if err != nil {
		return nil, err
	}
	found := map[string]datapath.Port{}
	for _, device := range devices {
		port, ok := state.Ports[device]
		if !ok {
			return nil, fmt.Errorf("there is no port on %s among %s", device, strings.Join(devices, ", "))
		}
		found[device] = port
	}
	return found, nil
}
