package fabric

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// Host is a machine with an agent.
type Host struct {
	TypeMeta
	Metadata Metadata   `json:"metadata"`
	Spec     HostSpec   `json:"spec"`
	Status   HostStatus `json:"status,omitzero"`
}

// HostSpec is what a host's agent registers about itself.
type HostSpec struct {
	// VTEP is the underlay address tunnels end at, IPv4 or IPv6.
	VTEP netip.Addr `json:"vtep"`
	// UnderlayMTU is the MTU of the NIC that carries VTEP, in bytes of L3 packet.
	UnderlayMTU int `json:"underlayMTU"`
	// Capacity is what the NIC that carries VTEP sends at most, in bits a second: what the host was told (underlay.capacity of agent.yaml),
	// else the speed of its link; 0: it is not known, and nothing can be kept for a port there.
	Capacity Amount `json:"capacity,omitempty"`
	// API is the address of the host's mTLS API, host:port.
	API string `json:"api"`
	// Server is true where the host runs an etcd member or may write to etcd; agents of other hosts write through it.
	Server bool `json:"server,omitempty"`
	// Networks are the prefixes that the host has an address or a route for beside its switches', at most MaxNetworks: no internal
	// switch's subnet may overlap one, because what the host sends there would go to the switch.
	Networks []netip.Prefix `json:"networks,omitempty"`
}

// MaxNetworks is how many networks a host tells of, the widest ones.
const MaxNetworks = 256

// HostStatus is what an agent reports about its host. It is leased: it disappears when the agent does.
type HostStatus struct {
	// Generation is the revision of the last change that was read back from this host's kernel as in force.
	Generation Revision `json:"generation,omitempty"`
	// Ready is true when every wanted entry is in the kernel.
	Ready bool `json:"ready,omitempty"`
	// Problems says in sentences what keeps the host from being ready, each with the next step.
	Problems []string `json:"problems,omitempty"`
	// Alive is the gossip view of the host that answers the question, not of the host itself.
	Alive bool `json:"alive,omitempty"`
	// Ports are the ports attached here.
	Ports []PortStatus `json:"ports,omitempty"`
	// NICs are the devices that could be an uplink of an external switch, in the order of their names.
	NICs []NICStatus `json:"nics,omitempty"`
	// Version and Kernel say what runs; Capabilities what the kernel can do ("tcx", "decap-l4-udp").
	Version      string   `json:"version,omitempty"`
	Kernel       string   `json:"kernel,omitempty"`
	Capabilities []string `json:"capabilities,omitempty"`
	// Moves are the forms of a move that the agent takes part in.
	Moves MoveForms `json:"moves,omitzero"`
	// Receives is true where the agent has a hook that starts the machine which waits for a guest.
	Receives bool `json:"receives,omitempty"`
}

// MoveForms are the forms, from Least to Most, in which an agent takes part in moves. A form is what two hosts tell each other of a
// move: its phases, and what its ports take along. The zero value is of an agent that does not say.
type MoveForms struct {
	Least int `json:"least"`
	Most  int `json:"most"`
}

// Has reports whether the form is one of them.
func (m MoveForms) Has(form int) bool { return form > 0 && m.Least <= form && form <= m.Most }

// Share reports whether two agents have a form in common.
func (m MoveForms) Share(o MoveForms) bool {
	return m.Has(max(m.Least, o.Least)) && o.Has(max(m.Least, o.Least))
}

// String names them.
func (m MoveForms) String() string {
	switch {
	case m == MoveForms{}:
		return "no form that it tells of"
	case m.Least == m.Most:
		return fmt.Sprintf("form %d", m.Most)
	}
	return fmt.Sprintf("forms %d to %d", m.Least, m.Most)
}

// Type returns the document head.
func (h *Host) Type() *TypeMeta { return &h.TypeMeta }

// Meta returns the metadata.
func (h *Host) Meta() *Metadata { return &h.Metadata }

// Default takes 1500 bytes for an underlay MTU that was not given.
func (h *Host) Default() {
	if h.Spec.UnderlayMTU == 0 {
		h.Spec.UnderlayMTU = 1500
	}
}

// Validate checks the tunnel end point, its MTU and the API address; the error is Findings.
func (h *Host) Validate() error {
	var f Findings
	checkHead(&f, &h.TypeMeta, &h.Metadata, KindHost)
	if !h.Spec.VTEP.IsValid() {
		f.add("spec.vtep", "is missing: give the host's address on the underlay, such as 10.240.0.1")
	} else {
		checkAddr(&f, "spec.vtep", h.Spec.VTEP)
		h.checkUnderlay(&f)
	}
	if n := len(h.Spec.Networks); n > MaxNetworks {
		f.add("spec.networks", "%d networks, the most is %d", n, MaxNetworks)
	}
	for i, p := range h.Spec.Networks {
		checkPrefix(&f, fmt.Sprintf("spec.networks[%d]", i), p)
	}
	if h.Spec.API != "" {
		host, port, err := net.SplitHostPort(h.Spec.API)
		if n, perr := strconv.ParseUint(port, 10, 16); err != nil || host == "" || perr != nil || n == 0 {
			f.add("spec.api", "%s is not an address: write host:port, such as 10.240.0.1:7443", quote(h.Spec.API))
		}
	}
	return f.Err()
}

// checkUnderlay checks that the smallest guest MTU still fits the underlay with its encapsulation.
func (h *Host) checkUnderlay(f *Findings) {
	least := MinMTU + Overhead(h.Spec.VTEP)
	if h.Spec.UnderlayMTU < least || h.Spec.UnderlayMTU > MaxMTU {
		f.add("spec.underlayMTU", "%d cannot carry the fabric: it is %d to %d", h.Spec.UnderlayMTU, least, MaxMTU)
	}
}
