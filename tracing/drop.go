package tracing

import "github.com/weftnet/weft/fabric"

// Drop is what was dropped at a port, or on a host at no port of it: by the datapath for a Reason, or by the kernel itself for a
// Kernel reason. One of the two is set.
type Drop struct {
	Host   fabric.HostID `json:"host"`
	Port   fabric.PortID `json:"port,omitempty"`
	Reason Reason        `json:"reason,omitempty"`
	// Kernel is the kernel's own name of its reason, Device the device of this host that it was at.
	Kernel KernelReason `json:"kernel,omitempty"`
	Device string       `json:"device,omitempty"`
	// Packets are all since the port was plugged in, of the kernel's since this agent began; Now those of them that came while it
	// was looked at.
	Packets uint64 `json:"packets"`
	Now     uint64 `json:"now,omitempty"`
}

// Named is the drop with the reason of this name, the kernel's or ours; false where this release does not know it.
func (d Drop) Named(name string) (Drop, bool) {
	if r, ok := ParseKernelReason(name); ok {
		d.Kernel = r
		return d, true
	}
	r, err := ParseReason(name)
	d.Reason = r
	return d, err == nil
}

// Name is the reason's, as in "guard_src_mac" or "kernel:FULL_RING".
func (d Drop) Name() string {
	if d.Kernel != "" {
		return d.Kernel.String()
	}
	return d.Reason.String()
}

// Class is who should care.
func (d Drop) Class() Class {
	if d.Kernel != "" {
		return d.Kernel.Class()
	}
	return d.Reason.Class()
}

// Doc says in one phrase what the reason means.
func (d Drop) Doc() string {
	if d.Kernel != "" {
		return d.Kernel.Doc()
	}
	return d.Reason.Doc()
}

// Fix says what to do about it; empty where nothing is known to help.
func (d Drop) Fix() string {
	if d.Kernel != "" {
		return d.Kernel.Fix()
	}
	return d.Reason.Fix()
}

// At is the port, or the device where it is no port's; empty for neither.
func (d Drop) At() string {
	if d.Port == "" && d.Device != "" {
		return "device/" + d.Device
	}
	return string(d.Port)
}
