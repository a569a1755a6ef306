package api

import "github.com/weftnet/weft/fabric"

// DeviceKind is how frames are handed to a guest.
type DeviceKind string

// The device kinds.
const (
	Tap  DeviceKind = "tap"
	Veth DeviceKind = "veth"
)

// Attachment binds a port to a device of the host that is asked.
type Attachment struct {
	// Device is the network device in the agent's own network namespace.
	Device string     `json:"device" minLength:"1" maxLength:"15" doc:"Network device on this host"`
	Kind   DeviceKind `json:"kind" enum:"tap,veth"`
	// QMP is the path of the guest's QMP socket on this host, if it has one: it lets the agent migrate the guest.
	QMP string `json:"qmp,omitempty" doc:"Path of the guest's QMP socket on this host"`
}

// Attached is the answer to an attach: enough to start a guest with.
type Attached struct {
	Port   fabric.Port       `json:"port"`
	Status fabric.PortStatus `json:"status"`
	// MTU is the guest's MTU in bytes.
	MTU int `json:"mtu"`
}
