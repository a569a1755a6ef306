package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weftnet/weft/fabric"
)

// BasicACL is an entry of Hyper-V's Add-VMNetworkAdapterAcl, in the words of that cmdlet.
type BasicACL struct {
	// Direction is Inbound, Outbound or Both, from the VM's viewpoint; Action is Allow, Deny or Meter.
	Direction, Action string
	// Local and Remote: one of them is given, as an IP address, a prefix, "ANY", or with MAC set a MAC address or "ANY".
	Local, Remote string
	// MAC says that the address is one of Ethernet (-LocalMacAddress, -RemoteMacAddress).
	MAC bool
}

// ExtendedACL is an entry of Hyper-V's Add-VMNetworkAdapterExtendedAcl, in the words of that cmdlet.
type ExtendedACL struct {
	// Direction is Inbound or Outbound, from the VM's viewpoint; Action is Allow or Deny.
	Direction, Action string
	// LocalIPAddress and RemoteIPAddress are an address, a prefix, or "ANY", "*" or nothing for all.
	LocalIPAddress, RemoteIPAddress string
	// LocalPort and RemotePort are a port, a range ("49152-49182"), or "ANY", "*" or nothing for all.
	LocalPort, RemotePort string
	// Protocol is TCP, UDP, a number, or "ANY", "*" or nothing for all.
	Protocol string
	// Weight is 0 to 65535, unique; the highest is asked first.
	Weight int
	// Stateful entries allow the answers too, until nothing has come for IdleSessionTimeout seconds; 0 is weft's own.
	Stateful           bool
	IdleSessionTimeout int
	// IsolationID limits the entry to one VLAN (below 4096) or virtual subnet; 0 is none.
	IsolationID int
}

// aclRule is a rule in the making, with how much of its address is left open.
type aclRule struct {
	fabric.Rule
	open int // free bits of the address; fewer is asked first
}

// FromBasicACLs makes a policy that decides as Hyper-V does by basic ACLs: of the entries of a direction that match, the one
// with the longest prefix; a MAC address is as long as a host's. Where two are equally long, on which Hyper-V's documents
// are silent, deny is before allow. Meter entries are told apart by the longest prefix among themselves. Where no entry
// matches, the default action of the port decides, which is Hyper-V's as long as it is allow. The error wraps
// fabric.ErrInvalid and names the entry by its number, from 1.
func FromBasicACLs(name string, acls []BasicACL) (*fabric.Policy, error) {
	var rules []aclRule
	for i, a := range acls {
		r, err := a.rule()
		if err != nil {
			return nil, fmt.Errorf("basic ACL %d: %w", i+1, err)
		}
		directions, err := aclDirections(a.Direction, true)
		if err != nil {
			return nil, fmt.Errorf("basic ACL %d: %w", i+1, err)
		}
		for _, d := range directions {
			one := r
			one.Direction, one.Name = d, fmt.Sprintf("acl-%d-%s", i+1, d)
			rules = append(rules, one)
		}
	}
	slices.SortStableFunc(rules, func(x, y aclRule) int {
		if c := cmp.Compare(x.open, y.open); c != 0 {
			return c
		}
		return cmp.Compare(severity(x.Action), severity(y.Action))
	})
	p := newPolicy(name)
	for i, r := range rules {
		r.Weight = uint16(min(len(rules)-i, 65535))
		p.Spec.Rules = append(p.Spec.Rules, r.Rule)
	}
	return p, p.Validate()
}

// severity orders actions that are equally specific.
func severity(a fabric.Action) int {
	if a == fabric.Deny {
		return 0
	}
	return 1
}

// rule is an entry without its direction.
func (a BasicACL) rule() (aclRule, error) {
	var r aclRule
	action, ok := map[string]fabric.Action{"allow": fabric.Allow, "deny": fabric.Deny, "meter": fabric.Meter}[strings.ToLower(a.Action)]
	if !ok {
		return r, aclError("action %q is none of Allow, Deny and Meter", a.Action)
	}
	r.Action = action
	address, end := a.Local, &r.Local
	if address == "" {
		address, end = a.Remote, &r.Remote
	}
	switch {
	case address == "" || a.Local != "" && a.Remote != "":
		return r, aclError("it takes a local address or a remote one, and not both")
	case a.MAC && action == fabric.Meter:
		return r, aclError("a meter counts by IP addresses, not by MAC addresses")
	case a.MAC && strings.EqualFold(address, "ANY"):
		r.open = 128
		return r, nil
	case a.MAC:
		m, err := fabric.ParseMAC(address)
		if err != nil {
			return r, err
		}
		*end = &fabric.End{MACs: []fabric.MAC{m}}
		return r, nil
	}
	prefixes, err := aclPrefixes(address)
	if err != nil {
		return r, err
	}
	*end = &fabric.End{Prefixes: prefixes}
	if r.open = 128; len(prefixes) == 1 && prefixes[0].Bits() > 0 {
		r.open = prefixes[0].Addr().BitLen() - prefixes[0].Bits()
	}
	return r, nil
}

// FromExtendedACLs makes a policy with a rule for each entry, of the same weight: the highest that matches decides. An entry
// that asks for nothing judges IP alone, as all of Hyper-V's extended ones do. A weight of 0, which weft has not, moves all
// up by as little as needed. The error wraps fabric.ErrInvalid and names the entry by its number, from 1.
func FromExtendedACLs(name string, acls []ExtendedACL) (*fabric.Policy, error) {
	p := newPolicy(name)
	weights := aclWeights(acls)
	seen := map[int]int{}
	for i, a := range acls {
		if first, twice := seen[a.Weight]; twice {
			return nil, fmt.Errorf("extended ACL %d: %w", i+1, aclError("weight %d is that of entry %d: no two have the same", a.Weight, first))
		}
		seen[a.Weight] = i + 1
		r, err := a.rule()
		if err != nil {
			return nil, fmt.Errorf("extended ACL %d: %w", i+1, err)
		}
		r.Name, r.Weight = fmt.Sprintf("acl-%d", i+1), weights[a.Weight]
		p.Spec.Rules = append(p.Spec.Rules, r)
	}
	return p, p.Validate()
}

// aclWeights gives each weight of the entries ours: the same, unless one is 0.
func aclWeights(acls []ExtendedACL) map[int]uint16 {
	var all []int
	for _, a := range acls {
		all = append(all, a.Weight)
	}
	slices.Sort(all)
	out, least := map[int]uint16{}, 1
	for _, w := range slices.Compact(all) {
		least = max(w, least)
		out[w] = uint16(least)
		least++
	}
	return out
}

func (a ExtendedACL) rule() (fabric.Rule, error) {
	r := fabric.Rule{Stateful: a.Stateful, Idle: fabric.Duration(time.Duration(a.IdleSessionTimeout) * time.Second)}
	directions, err := aclDirections(a.Direction, false)
	if err != nil {
		return r, err
	}
	r.Direction = directions[0]
	switch {
	case strings.EqualFold(a.Action, "Allow"):
		r.Action = fabric.Allow
	case strings.EqualFold(a.Action, "Deny"):
		r.Action = fabric.Deny
	default:
		return r, aclError("action %q is neither Allow nor Deny", a.Action)
	}
	switch {
	case a.Weight < 0 || a.Weight > 65535:
		return r, aclError("weight %d is not 0 to 65535", a.Weight)
	case a.IdleSessionTimeout < 0 || a.IdleSessionTimeout > 65535:
		return r, aclError("an idle time of %d s is not 0 to 65535", a.IdleSessionTimeout)
	case a.IsolationID < 0:
		return r, aclError("isolation ID %d is negative", a.IsolationID)
	case a.IsolationID >= int(fabric.MinIsolation):
		r.VNI = fabric.VNI(a.IsolationID)
	default:
		r.VLAN = fabric.VLANID(a.IsolationID)
	}
	if !a.Stateful {
		r.Idle = 0 // Hyper-V takes it and does nothing with it
	}
	if !aclAny(a.Protocol) {
		r.Protocol = strings.ToLower(a.Protocol)
	}
	if r.Local, err = aclEnd(a.LocalIPAddress, a.LocalPort); err != nil {
		return r, err
	}
	if r.Remote, err = aclEnd(a.RemoteIPAddress, a.RemotePort); err != nil {
		return r, err
	}
	if !r.NeedsIP() { // extended ACLs judge IP alone
		r.Remote = &fabric.End{Prefixes: allAddresses()}
	}
	return r, nil
}

func aclEnd(address, port string) (*fabric.End, error) {
	var e fabric.End
	if !aclAny(address) {
		p, err := aclPrefixes(address)
		if err != nil {
			return nil, err
		}
		e.Prefixes = p
	}
	if !aclAny(port) {
		r, err := fabric.ParsePortRange(port)
		if err != nil {
			return nil, err
		}
		e.Ports = []fabric.PortRange{r}
	}
	if e.Prefixes == nil && e.Ports == nil {
		return nil, nil
	}
	return &e, nil
}

// aclPrefixes reads an address as Hyper-V writes it; host bits are cleared, as Hyper-V does.
func aclPrefixes(s string) ([]netip.Prefix, error) {
	if strings.EqualFold(s, "ANY") || s == "*" {
		return allAddresses(), nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}, nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return nil, aclError("%s is neither an address, a prefix nor ANY", strconv.Quote(s))
	}
	return []netip.Prefix{p.Masked()}, nil
}

func allAddresses() []netip.Prefix {
	return []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
}

func aclAny(s string) bool { return s == "" || s == "*" || strings.EqualFold(s, "ANY") }

func aclDirections(s string, both bool) ([]fabric.Direction, error) {
	switch {
	case strings.EqualFold(s, "Inbound"):
		return []fabric.Direction{fabric.In}, nil
	case strings.EqualFold(s, "Outbound"):
		return []fabric.Direction{fabric.Out}, nil
	case both && strings.EqualFold(s, "Both"):
		return []fabric.Direction{fabric.In, fabric.Out}, nil
	}
	return nil, aclError("direction %q is not one that such an entry has", s)
}

func aclError(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, fabric.ErrInvalid)...)
}

func newPolicy(name string) *fabric.Policy {
	return &fabric.Policy{TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPolicy}, Metadata: fabric.Metadata{Name: name}, Spec: fabric.PolicySpec{Rules: []fabric.Rule{}}}
}
