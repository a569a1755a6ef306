package api

import (
	"net/http"

	"github.com/danielgtaylor/huma/v2"
)

// Access is what a caller must be allowed to do for an operation.
type Access string

// The kinds of access.
const (
	Read   Access = "read"   // look
	Write  Access = "write"  // change the wanted state of the fabric
	Local  Access = "local"  // change what is plugged in on the host that is asked
	Report Access = "report" // a host's word about itself
	Probe  Access = "probe"  // record and send probes on the host that is asked
)

// accessKey is where an operation's access is in its OpenAPI extensions.
const accessKey = "x-weft-access"

// AccessOf is the access an operation needs; Write, the strongest, when it does not say.
func AccessOf(op *huma.Operation) Access {
	if a, ok := op.Extensions[accessKey].(Access); ok {
		return a
	}
	return Write
}

// operation fills in what all operations share.
func operation(id, method, path, tag string, access Access, summary string) huma.Operation {
	return huma.Operation{
		// What agents tell one another is read leniently: the other one may be a release newer and know more fields.
		SkipValidateBody: access == Report || access == Probe,
		OperationID:      id, Method: method, Path: path, Summary: summary, Tags: []string{tag},
		// The server bounds and times the body before the operation sees it.
		MaxBodyBytes: -1, BodyReadTimeout: -1, Extensions: map[string]any{accessKey: access},
	}
}

// ListOf is the operation that lists objects of a resource.
func ListOf(r Resource) huma.Operation {
	return operation("list-"+r.Plural, http.MethodGet, r.Path(""), r.Plural, Read, "List "+r.Plural+", with their status")
}

// GetOf is the operation that reads one object of a resource.
func GetOf(r Resource) huma.Operation {
	return operation("get-"+r.Singular, http.MethodGet, r.Path("{name}"), r.Plural, Read, "Read one "+r.Singular+", with its status")
}

// DeleteOf is the operation that deletes one object of a resource.
func DeleteOf(r Resource) huma.Operation {
	return operation("delete-"+r.Singular, http.MethodDelete, r.Path("{name}"), r.Plural, Write, "Delete a "+r.Singular+"; refused while something uses it")
}

// ApplyObjects writes objects.
func ApplyObjects() huma.Operation {
	op := operation("apply", http.MethodPost, "/v1/apply", "fabric", Write, "Make objects be as given: all of them in one transaction, or none")
	op.SkipValidateBody = true // fabric's own validation names fields and remedies
	return op
}

// Confirm keeps a change.
func Confirm() huma.Operation {
	return operation("confirm", http.MethodPost, "/v1/confirm", "fabric", Write, "Keep the change that this host would undo otherwise")
}

// ConfirmHeld goes on with what the host holds.
func ConfirmHeld() huma.Operation {
	return operation("confirm-held", http.MethodPost, "/v1/held/confirm", "fabric", Local, "Go on with what this host holds for a person's word: a change that removes many ports, or data of an etcd that went back in time")
}

// AttachPort and DetachPort act on devices of the host that is asked.
func AttachPort() huma.Operation {
	return operation("attach-port", http.MethodPost, "/v1/ports/{name}/attach", "ports", Local, "Bind a port to a device of this host")
}

// DetachPort takes a port off its device.
func DetachPort() huma.Operation {
	return operation("detach-port", http.MethodPost, "/v1/ports/{name}/detach", "ports", Local, "Take a port off its device on this host")
}

// CallHypervisor takes the word of a hypervisor's hook on the host that is asked.
func CallHypervisor() huma.Operation {
	return operation("hypervisor", http.MethodPost, "/v1/here/hypervisor", "ports", Local, "What the hypervisor of this host is about to do with a guest, or has done; refused when the fabric stands against it")
}

// IntegrateLibvirt makes libvirt of the host that is asked use the fabric.
func IntegrateLibvirt() huma.Operation {
	return operation("integrate-libvirt", http.MethodPost, "/v1/here/libvirt", "ports", Local, "Give this host's libvirt the hooks and networks that let its guests use the fabric, or take them away")
}

// PortsHere lists what is plugged in on the host that is asked.
func PortsHere() huma.Operation {
	return operation("ports-here", http.MethodGet, "/v1/here/ports", "ports", Read, "The ports that are plugged in on this host, with their counters")
}

// DropsHere lists what the host that is asked has dropped.
func DropsHere() huma.Operation {
	return operation("drops-here", http.MethodGet, "/v1/here/drops", "tracing", Read, "What this host has dropped, at its ports and at none")
}

// ConnectionsHere counts what the rules of some ports remember on the host that is asked.
func ConnectionsHere() huma.Operation {
	return operation("connections-here", http.MethodGet, "/v1/here/connections", "ports", Read, "How many connections the rules of some ports of this host remember, and for how many they have room")
}

// StationsHere lists what the host that is asked has heard on the wire.
func StationsHere() huma.Operation {
	return operation("stations-here", http.MethodGet, "/v1/here/stations", "switches", Read, "The stations that this host has heard on the wires of external switches")
}

// ListStations lists the MACs of all switches.
func ListStations() huma.Operation {
	return operation("list-stations", http.MethodGet, "/v1/stations", "switches", Read, "The MACs of all switches: those of ports, and those that hosts have heard on the wires of external switches")
}

// ListDrops lists what all hosts have dropped.
func ListDrops() huma.Operation {
	return operation("list-drops", http.MethodGet, "/v1/drops", "tracing", Read, "What all hosts have dropped, by port and reason")
}

// LeftHere reads what a port that moves away takes along.
func LeftHere() huma.Operation {
	return operation("left-here", http.MethodPost, "/v1/here/left/{name}", "ports", Report, "What a port that moves away from this host takes along: what its rules have met, and its connections")
}

// AsideHere tells the source of a move what its destination is recording.
func AsideHere() huma.Operation {
	return operation("aside-here", http.MethodPost, "/v1/here/aside", "moves", Report, "What the destination of a move from this host says itself: where it waits for the guest, or that it gave up")
}

// StatusHere reads what the host that is asked says about itself.
func StatusHere() huma.Operation {
	return operation("status-here", http.MethodGet, "/v1/here/status", "fabric", Read, "What this host says about itself: what is in force here, and its ports")
}

// GetStatus reads the fabric on one page.
func GetStatus() huma.Operation {
	return operation("status", http.MethodGet, "/v1/status", "fabric", Read, "The whole fabric on one page, with every problem and its next step")
}

// GetInForce waits for a revision.
func GetInForce() huma.Operation {
	return operation("in-force", http.MethodGet, "/v1/inforce", "fabric", Read, "Wait until every live host has a revision in force, at most 25 s (or wait seconds), and say how far each is")
}

// GetVersion reads what runs.
func GetVersion() huma.Operation {
	return operation("version", http.MethodGet, "/v1/version", "fabric", Read, "What the agent runs")
}

// GetDoctor examines the host.
func GetDoctor() huma.Operation {
	return operation("doctor", http.MethodGet, "/v1/doctor", "fabric", Read, "Examine this host; each finding has its remedy")
}

// GetEvents streams events.
func GetEvents() huma.Operation {
	return operation("events", http.MethodGet, "/v1/events", "streams", Read, "What happened on all hosts, oldest first: one JSON object a line, or server-sent events where Accept asks for them")
}

// EventsHere streams the events of the host that is asked, with what another host needs to go on after a break.
func EventsHere() huma.Operation {
	return operation("events-here", http.MethodGet, "/v1/here/events", "streams", Read, "What happened on this host, oldest first, numbered: one JSON object a line")
}

// GetWatch streams changes.
func GetWatch() huma.Operation {
	return operation("watch", http.MethodGet, "/v1/watch", "streams", Read, "Every object, then every change: one JSON object a line, or server-sent events where Accept asks for them")
}

// RenameSwitch gives a switch another name.
func RenameSwitch() huma.Operation {
	return operation("rename-switch", http.MethodPost, "/v1/switches/{name}/rename", "switches", Write, "Give a switch another name, with all that belongs to it; refused for an internal one while VMs are plugged in")
}

// StartMove starts a live migration.
func StartMove() huma.Operation {
	return operation("start-move", http.MethodPost, "/v1/moves", "moves", Write, "Start a live migration of a VM with all its ports")
}

// AbortMove gives a move up.
func AbortMove() huma.Operation {
	return operation("abort-move", http.MethodDelete, "/v1/moves/{name}", "moves", Write, "Give a move up; refused once the guest has stopped")
}

// Placements says where VMs can go.
func Placements() huma.Operation {
	return operation("placements", http.MethodGet, "/v1/placements", "moves", Read, "Where a VM can move to, or where each VM of a host should go, and what stands against it")
}

// TracePacket follows one packet.
func TracePacket() huma.Operation {
	return operation("trace", http.MethodPost, "/v1/trace", "tracing", Probe, "Send a probe from a port and say where it went and why; it is caught before it reaches a guest")
}

// WhyNot finds out what keeps packets from coming through.
func WhyNot() huma.Operation {
	return operation("why", http.MethodPost, "/v1/why", "tracing", Probe, "Say why packets of one kind do not come through from a port, or that they do: model, probes, drops and how far the hosts are in one answer")
}

// ReportHost, ReportStatus, ReportLocation and ReportMove are a host's words about itself.
func ReportHost() huma.Operation {
	return operation("report-host", http.MethodPost, "/v1/report/register", "reports", Report, "A host registers itself")
}

// ReportHostStatus reports a host's status.
func ReportHostStatus() huma.Operation {
	return operation("report-status", http.MethodPost, "/v1/report/status", "reports", Report, "A host's status; leased, so it must be repeated")
}

// ReportPortLocation asks for a compare-and-swap of a location.
func ReportPortLocation() huma.Operation {
	return operation("report-location", http.MethodPost, "/v1/report/location", "reports", Report, "One compare-and-swap of the location of a port that the host holds or was granted")
}

// ReportMoveStatus reports how far a move is.
func ReportMoveStatus() huma.Operation {
	return operation("report-move", http.MethodPost, "/v1/report/move", "reports", Report, "How far a move is, by one of its two hosts")
}

// ArmProbe makes the host record a session.
func ArmProbe() huma.Operation {
	return operation("arm-probe", http.MethodPost, "/v1/probes/arm", "tracing", Probe, "Record every stage of a frame with the session's label on this host, and catch it before a guest")
}

// InjectProbe sends a probe.
func InjectProbe() huma.Operation {
	return operation("inject-probe", http.MethodPost, "/v1/probes/inject", "tracing", Probe, "Send a frame into a port of this host, as if its guest had; only a frame that an armed session will catch")
}

// CollectProbe reads what the host recorded.
func CollectProbe() huma.Operation {
	return operation("collect-probe", http.MethodPost, "/v1/probes/hops", "tracing", Probe, "What this host has recorded for a session so far")
}

// DisarmProbe ends a session.
func DisarmProbe() huma.Operation {
	return operation("disarm-probe", http.MethodPost, "/v1/probes/disarm", "tracing", Probe, "End a session on this host; to disarm what is not armed succeeds")
}

// TryNetwork lets a throw-away guest of a host try the network.
func TryNetwork() huma.Operation {
	return operation("trial", http.MethodPost, "/v1/trial", "fabric", Probe, "Start, use or end a throw-away guest on a host, plugged into a port that is marked for it")
}
