package main

import (
	"context"
	"net/netip"
	"time"

	"github.com/weftnet/weft/fabric"
)

// membership has a large group grow by one member at a time, which the policy of a port names, and times each change
// until every host has it in force. It leaves the port without the policy.
func (b *bed) membership(ctx context.Context, name fabric.PortID, n int) (took []float64, err error) {
	group := &fabric.Group{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindGroup}, Metadata: fabric.Metadata{Name: groupName(0)},
		Spec: fabric.GroupSpec{CIDRs: groupsOf(1, members)[groupName(0)]},
	}
	p := groupSource(nil).Policies[0]
	p.TypeMeta = fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPolicy}
	for _, o := range []fabric.Object{group, p} {
		if err := b.put(ctx, o); err != nil {
			return nil, err
		}
	}
	if err := b.usePolicies(ctx, name, p.Metadata.Name); err != nil {
		return nil, err
	}
	for i := range n {
		group.Metadata.Revision = 0
		group.Spec.CIDRs = append(group.Spec.CIDRs, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 32))
		begun := time.Now()
		if err := b.put(ctx, group); err != nil {
			return nil, err
		}
		took = append(took, milliseconds(begun))
	}
	return took, b.usePolicies(ctx, name)
}

// usePolicies puts a port under policies and nothing else.
func (b *bed) usePolicies(ctx context.Context, name fabric.PortID, policies ...string) error {
	port, err := b.api.Port(ctx, name)
	if err != nil {
		return err
	}
	port.Metadata.Revision, port.Spec.Policies = 0, policies
	return b.put(ctx, port)
}
