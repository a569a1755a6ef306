package fabric

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// PortRole says what is behind a port.
type PortRole string

// The roles of a port.
const (
	// RoleVM is a VM's NIC; it is not written.
	RoleVM PortRole = ""
	// RoleHost is a host on an internal switch (ADR 14). The host makes its port itself; it is held there and never moves.
	RoleHost PortRole = "host"
)

// maxDevice is the longest name of a network device in bytes (IFNAMSIZ less its end).
const maxDevice = 15

// HostPort is the name of a host's own port on an internal switch: host-<host>-<switch>. Names of ports are unique in the
// fabric, so the host alone does not name it. One that would be too long is cut and told apart by its SHA-256.
func HostPort(host HostID, sw SwitchID) PortID {
	return PortID(cut(fmt.Sprintf("host-%s-%s", host, sw), MaxName, string(host)+"/"+string(sw)))
}

// HostDevice is the device that a host has on an internal switch, the same on every host: weft-<switch>. It carries the host
// port's MAC and address, and the gateway's addresses. A name of more than 10 characters is cut and told apart by five hex
// digits of its SHA-256; two switches whose devices would be the same are refused at admission.
func HostDevice(sw SwitchID) string { return cut("weft-"+string(sw), maxDevice, string(sw)) }

// HostPortDevice is the other end of HostDevice, which carries the host's port: wp-<switch>.
func HostPortDevice(sw SwitchID) string { return cut("wp-"+string(sw), maxDevice, string(sw)) }

// cut keeps a name within most bytes, and distinct for distinct identities.
func cut(name string, most int, identity string) string {
	const digits = 5
	if len(name) <= most {
		return name
	}
	return name[:most-digits] + fmt.Sprintf("%x", sha256.Sum256([]byte(identity)))[:digits]
}

// Named is the port that is meant by a name beside another port: the port of that name, or, for host-<host>, the host's own port on
// the other one's switch. A name that means nothing is returned as it is.
func (s *Snapshot) Named(name, beside PortID) PortID {
	other, host := s.Ports[beside], strings.TrimPrefix(string(name), "host-")
	if s.Ports[name] != nil || other == nil || host == string(name) {
		return name
	}
	if own := HostPort(HostID(host), other.Spec.Switch); s.Ports[own] != nil {
		return own
	}
	return name
}

// IsHost reports whether a host is behind the port.
func (p *Port) IsHost() bool { return p.Spec.Role == RoleHost }

// hostGuards are those that are off where nobody says otherwise: a host routes, so that packets come from it with any source,
// and it is the DHCP server and the router of its guests.
func hostGuards() Guards {
	off := false
	return Guards{IP: &off, DHCPServer: &off, RA: &off}
}

// checkRole checks what a host's port says of itself.
func (p *Port) checkRole(f *Findings) {
	switch p.Spec.Role {
	case RoleVM:
		return
	case RoleHost:
	default:
		f.add("spec.role", "%s", unknown("role", string(p.Spec.Role), []string{string(RoleHost)}))
		return
	}
	if p.Spec.VM != "" {
		f.add("spec.vm", "%s: behind a host's port there is no VM: leave it out", quote(p.Spec.VM))
	}
	if p.Spec.Host == "" {
		f.add("spec.host", "is missing: a host's port names its host")
	} else if want := HostPort(p.Spec.Host, p.Spec.Switch); PortID(p.Metadata.Name) != want {
		f.add("metadata.name", "the port of host %s on switch %s is called %s: each host makes its own", p.Spec.Host, p.Spec.Switch, want)
	}
}
