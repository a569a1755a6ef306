package tracing

// Keys of attributes: the same in spans, logs and events. What OpenTelemetry has a convention for (source.address,
// network.transport, …) keeps its name there; the rest is ours and begins with weft.
const (
	KeyHost       = "weft.host"
	KeySwitch     = "weft.switch.name"
	KeyPort       = "weft.port.id"
	KeyVM         = "weft.vm.id"
	KeyDevice     = "network.interface.name"
	KeyVNI        = "weft.vni"
	KeyPeer       = "weft.vtep.peer"
	KeyPeerHost   = "weft.vtep.peer.host"
	KeyGeneration = "weft.policy.generation"
	KeyRevision   = "weft.revision"
	KeyObject     = "weft.object"
	KeyMove       = "weft.migration.id"
	KeyPhase      = "weft.migration.phase"
	KeyEpoch      = "weft.epoch"
	KeySession    = "weft.session.id"
	KeyMode       = "weft.packet.mode"
	KeyLabel      = "weft.packet.label"
	KeyLength     = "weft.packet.length"
	KeyAttempt    = "weft.packet.attempt"
	KeyVerdict    = "weft.verdict"
	KeyStage      = "weft.stage"
	KeyResult     = "weft.result"
	KeyReason     = "weft.drop.reason"
	KeyClass      = "weft.drop.class"
	KeyMissing    = "weft.hosts.missing"
	KeyEvent      = "weft.event"
	KeyEventSeq   = "weft.event.seq"
	KeyError      = "error"

	KeySourceAddress      = "source.address"
	KeySourcePort         = "source.port"
	KeyDestinationAddress = "destination.address"
	KeyDestinationPort    = "destination.port"
	KeyNetworkType        = "network.type"
	KeyNetworkTransport   = "network.transport"
	KeyErrorType          = "error.type"

	// KeyTraceID and KeySpanID join a log line to its span.
	KeyTraceID = "trace_id"
	KeySpanID  = "span_id"
)
