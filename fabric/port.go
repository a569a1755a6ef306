package fabric

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Port is a VM's NIC and its switch port as one thing.
type Port struct {
	TypeMeta
	Metadata Metadata   `json:"metadata"`
	Spec     PortSpec   `json:"spec"`
	Status   PortStatus `json:"status,omitzero"`
}

// PortSpec is what the operator asks for.
type PortSpec struct {
	// Role is host for a host's own port on an internal switch, which the host makes itself (ADR 14); empty for a VM's.
	Role PortRole `json:"role,omitempty"`
	// VM is the machine the NIC belongs to; the port's own name when empty. A host's port has none.
	VM     string   `json:"vm,omitempty"`
	Switch SwitchID `json:"switch,omitempty"`
	// SwitchLabels let the fabric choose the switch when the port is created without one: of those that carry all of these labels the
	// one with the fewest ports. The port stays on it.
	SwitchLabels map[string]string `json:"switchLabels,omitempty"`
	// MAC is allocated fleet-wide when zero.
	MAC MAC `json:"mac,omitzero"`
	// Addresses are allocated, one per subnet, when the field is absent; an empty list means none.
	Addresses []netip.Addr `json:"addresses,omitzero"`
	Profile   string       `json:"profile,omitempty"`
	// Host is where the port is wanted first; a move changes the location, not this field.
	Host HostID `json:"host,omitempty"`
	// Settings are the port's own; they win over its profile's, field by field.
	Settings
}

// PortState says how far a port is.
type PortState string

// The states of a port on a host.
const (
	PortAbsent  PortState = "absent"  // no device here
	PortClosed  PortState = "closed"  // device here, policy not in force: nothing passes
	PortStaged  PortState = "staged"  // destination of a move: settings in force, opens with the guest's first frame
	PortActive  PortState = "active"  // the guest is here
	PortRelayed PortState = "relayed" // source of a move: late packets are sent on
	PortUnknown PortState = "unknown" // the host that holds it does not say; its traffic goes on as before
)

// PortStatus is the port as its host sees it.
type PortStatus struct {
	Name   PortID    `json:"name,omitempty"`
	State  PortState `json:"state,omitempty"`
	Host   HostID    `json:"host,omitempty"`
	Epoch  Epoch     `json:"epoch,omitempty"`
	Device string    `json:"device,omitempty"`
	Reason string    `json:"reason,omitempty"` // why it is not active
	// Monitor is true where the host's agent was given the guest's QMP socket, by which it can migrate the guest.
	Monitor bool `json:"monitor,omitempty"`
	// Counters of the guest's traffic: Rx from the guest, Tx to the guest.
	RxPackets uint64            `json:"rxPackets,omitempty"`
	RxBytes   uint64            `json:"rxBytes,omitempty"`
	TxPackets uint64            `json:"txPackets,omitempty"`
	TxBytes   uint64            `json:"txBytes,omitempty"`
	Drops     map[string]uint64 `json:"drops,omitzero"` // by reason name
	// QueueDrops are packets for the guest that its device had no room for, because the guest did not take them: of a tap alone.
	QueueDrops uint64 `json:"queueDrops,omitempty"`
	// MarkedOut and MarkedIn are packets from the guest and to it that were told to slow down (ECN) near the port's rate.
	MarkedOut uint64 `json:"markedOut,omitempty"`
	MarkedIn  uint64 `json:"markedIn,omitempty"`
	// Waiting are frames from the guest that wait for its rate.
	Waiting uint64 `json:"waiting,omitempty"`
	// Relayed are frames for the port that were sent on to its new host.
	Relayed uint64 `json:"relayed,omitempty"`
	// Rules are the rules that have met packets here, by policy and name.
	Rules []RuleHits `json:"rules,omitempty"`
}

// RuleHits are what a rule has decided, or metered, at one port since its device was plugged in. They stay with the rule when
// the port's policies change.
type RuleHits struct {
	// Policy is empty for the default action, whose Rule is default-in or default-out.
	Policy string `json:"policy,omitempty"`
	Rule   string `json:"rule"`
	// Packets are those on a wire, Bytes theirs from the Ethernet header on: of an aggregate the headers of every packet count.
	Packets uint64    `json:"packets"`
	Bytes   uint64    `json:"bytes"`
	Last    time.Time `json:"last,omitzero"`
}

// Guards are the protections of a port. Absent means on.
type Guards struct {
	MAC        *bool `json:"mac,omitempty"`        // only the port's MAC as source
	IP         *bool `json:"ip,omitempty"`         // only the port's addresses as source
	ARP        *bool `json:"arp,omitempty"`        // ARP and ND speak only of the port's own addresses
	DHCPServer *bool `json:"dhcpServer,omitempty"` // no DHCP server behind the port
	RA         *bool `json:"ra,omitempty"`         // no router advertisements or redirects from the port
	L2Control  *bool `json:"l2Control,omitempty"`  // no STP, LLDP, LACP, pause or EAPOL from the port
	VXLAN      *bool `json:"vxlan,omitempty"`      // no VXLAN from the guest to a tunnel end point
}

// Location says which host holds a port. One etcd record, written by compare-and-swap.
type Location struct {
	Port   PortID   `json:"port"`
	Switch SwitchID `json:"switch"`
	Host   HostID   `json:"host"`
	Epoch  Epoch    `json:"epoch"`
	// Grant is set while a move may take the port elsewhere.
	Grant *Grant `json:"grant,omitempty"`
	// From is the host that held the port in the epoch before and relays late packets; cleared when the relay ends.
	From HostID `json:"from,omitempty"`
	// Revision is the etcd revision of this record; read-only.
	Revision Revision `json:"revision,omitempty"`
	// Trace is the traceparent of the operation that wrote the record.
	Trace string `json:"trace,omitempty"`
}

// Grant names the only legal next owner of a port, with the epochs granted in advance, so that neither switchover nor
// rollback needs etcd (ADR 0005): the source holds Location.Epoch, the destination gets Epoch, a rollback gets Rollback.
type Grant struct {
	Move     MoveID `json:"move"`
	To       HostID `json:"to"`
	Epoch    Epoch  `json:"epoch"`
	Rollback Epoch  `json:"rollback"`
}

// Type returns the document head.
func (p *Port) Type() *TypeMeta { return &p.TypeMeta }

// Meta returns the metadata.
func (p *Port) Meta() *Metadata { return &p.Metadata }

// Default names the VM after the port.
func (p *Port) Default() {
	if p.Spec.VM == "" && !p.IsHost() {
		p.Spec.VM = p.Metadata.Name
	}
}

// Validate checks names, MAC and addresses; the error is Findings. That the addresses lie in the switch's subnets is the
// store's to check.
func (p *Port) Validate() error {
	var f Findings
	checkHead(&f, &p.TypeMeta, &p.Metadata, KindPort)
	if vm := p.Spec.VM; vm != "" && (len(vm) > MaxName || !vmExpr.MatchString(vm)) {
		f.add("spec.vm", "%s must match %s and have at most %d characters", quote(vm), vmPattern, MaxName)
	}
	checkRef(&f, "spec.switch", string(p.Spec.Switch), len(p.Spec.SwitchLabels) == 0)
	checkLabels(&f, "spec.switchLabels", p.Spec.SwitchLabels)
	checkRef(&f, "spec.profile", p.Spec.Profile, false)
	checkRef(&f, "spec.host", string(p.Spec.Host), false)
	p.Spec.Settings.check(&f)
	if m := p.Spec.MAC; !m.IsZero() && !m.IsUnicast() {
		f.add("spec.mac", "%s is a group address, a station's first byte is even: leave it out to have one allocated", m)
	}
	p.checkRole(&f)
	if m := p.Spec.MAC; !m.IsZero() && slices.Contains(p.Spec.AllowedMACs(), m) {
		f.add("spec.macs.allowed", "%s is the port's own MAC already: leave it out of the list", m)
	}
	p.checkAddresses(&f)
	return f.Err()
}

func (p *Port) checkAddresses(f *Findings) {
	if n := len(p.Spec.Addresses); n > MaxPortAddresses {
		f.add("spec.addresses", "%d addresses, the most is %d", n, MaxPortAddresses)
		return
	}
	for i, a := range p.Spec.Addresses {
		path := fmt.Sprintf("spec.addresses[%d]", i)
		if !a.IsValid() {
			f.add(path, "is empty: write an address, or leave spec.addresses out to have them allocated")
			continue
		}
		checkAddr(f, path, a)
		if slices.Contains(p.Spec.Addresses[:i], a) {
			f.add(path, "%s is given twice", a)
		}
	}
}
