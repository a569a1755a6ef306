package fabric

import "net/netip"

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
	// API is the address of the host's mTLS API, host:port.
	API string `json:"api"`
	// Server is true where the host runs an etcd member or may write to etcd; agents of other hosts write through it.
	Server bool `json:"server,omitempty"`
}

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
	// Version and Kernel say what runs; Capabilities what the kernel can do ("tcx", "decap-l4-udp").
	Version      string   `json:"version,omitempty"`
	Kernel       string   `json:"kernel,omitempty"`
	Capabilities []string `json:"capabilities,omitempty"`
}
