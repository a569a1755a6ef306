package api

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// LiveRequest asks for the ways of frames that guests send. What is absent is not asked for; a request for nothing asks for all frames.
type LiveRequest struct {
	// From and To are the ports that send and receive; Both asks for the other direction, too.
	From fabric.PortID `json:"from,omitempty"`
	To   fabric.PortID `json:"to,omitempty"`
	Both bool          `json:"both,omitempty"`
	// Switch is a switch whose frames are asked for.
	Switch fabric.SwitchID `json:"switch,omitempty"`
	// Protocol is tcp, udp, icmp or icmpv6, tcp and udp with or without a destination port behind a slash.
	Protocol string `json:"protocol,omitempty"`
	// Source and Destination are inner addresses or prefixes.
	Source      string `json:"source,omitempty"`
	Destination string `json:"destination,omitempty"`
	// Drops asks for frames that are dropped, on the host that drops them.
	Drops bool `json:"drops,omitempty"`
	// Sample asks for one of so many frames; Every for each, even where a host's budget is used up, which makes gaps then.
	Sample uint32 `json:"sample,omitempty" maximum:"1000000"`
	Every  bool   `json:"every,omitempty"`
	// Seconds is how long, at most an hour; 10 s when 0. MaxRate is how many records per second a host makes at most.
	Seconds float64 `json:"seconds,omitempty" minimum:"0" maximum:"3600"`
	MaxRate uint32  `json:"maxRate,omitempty" maximum:"50000"`
	// Keep is how many ways the last report has in full, with the changes behind them; a collector that the agent knows gets them, too.
	Keep int `json:"keep,omitempty" minimum:"0" maximum:"2000"`
}

// DefaultLiveSeconds is how long a live session lasts that does not say.
const DefaultLiveSeconds = 10

// For is how long the session lasts.
func (r LiveRequest) For() time.Duration {
	if r.Seconds == 0 {
		return DefaultLiveSeconds * time.Second
	}
	return time.Duration(r.Seconds * float64(time.Second))
}

// Text says in one line what is asked for.
func (r LiveRequest) Text() string {
	var words []string
	for _, w := range []struct{ name, value string }{
		{"from", string(r.From)}, {"to", string(r.To)}, {"switch", string(r.Switch)}, {"protocol", r.Protocol}, {"source", r.Source}, {"destination", r.Destination},
	} {
		if w.value != "" {
			words = append(words, w.name+" "+w.value)
		}
	}
	if r.Both {
		words = append(words, "both ways")
	}
	if len(words) == 0 {
		words = append(words, "all frames")
	}
	if r.Drops {
		words = append(words, "drops")
	}
	if r.Sample > 1 {
		words = append(words, fmt.Sprintf("1 in %d", r.Sample))
	}
	return strings.Join(words, ", ")
}

// Picks is the filter of the request; snap names its ports. The error wraps fabric.ErrInvalid or fabric.ErrNotFound.
func (r LiveRequest) Picks(snap *fabric.Snapshot) ([]tracing.Pick, error) {
	p := tracing.Pick{From: r.From}
	if err := r.pickEnds(&p, snap); err != nil {
		return nil, err
	}
	if err := r.pickProtocol(&p); err != nil {
		return nil, err
	}
	if p == (tracing.Pick{}) {
		return nil, nil
	}
	if !r.Both {
		return []tracing.Pick{p}, nil
	}
	back := p
	back.From, back.FromMAC, back.ToMAC = r.To, p.ToMAC, p.FromMAC
	back.Source, back.Destination, back.SourcePorts, back.DestinationPorts = p.Destination, p.Source, p.DestinationPorts, p.SourcePorts
	return []tracing.Pick{p, back}, nil
}

// pickEnds fills in what is asked of the ends.
func (r LiveRequest) pickEnds(p *tracing.Pick, snap *fabric.Snapshot) error {
	for _, end := range []struct {
		port fabric.PortID
		mac  *fabric.MAC
	}{{r.From, &p.FromMAC}, {r.To, &p.ToMAC}} {
		if end.port == "" {
			continue
		}
		port := snap.Ports[end.port]
		if port == nil {
			return fmt.Errorf("port %s does not exist; the ports there are: weft get ports: %w", end.port, fabric.ErrNotFound)
		}
		*end.mac = port.Spec.MAC
	}
	if r.Switch != "" {
		sw := snap.Switches[r.Switch]
		if sw == nil {
			return fmt.Errorf("switch %s does not exist; the switches there are: weft get switches: %w", r.Switch, fabric.ErrNotFound)
		}
		p.VNI = sw.Spec.VNI
	}
	for _, end := range []struct {
		text string
		at   *netip.Prefix
	}{{r.Source, &p.Source}, {r.Destination, &p.Destination}} {
		if end.text == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(end.text)
		if a, single := netip.ParseAddr(end.text); single == nil {
			prefix, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return fmt.Errorf("%q is no address and no prefix: write 10.10.0.11 or 10.10.0.0/24: %w", end.text, fabric.ErrInvalid)
		}
		*end.at = prefix.Masked()
	}
	return nil
}

// pickProtocol fills in what is asked of the protocol.
func (r LiveRequest) pickProtocol(p *tracing.Pick) error {
	if r.Protocol == "" {
		return nil
	}
	name, port, has := strings.Cut(strings.ToLower(r.Protocol), "/")
	n, err := fabric.ParseProtocol(name)
	if err != nil {
		return err
	}
	p.Protocol = &n
	if !has {
		return nil
	}
	ports, err := fabric.ParsePortRange(port)
	if err != nil || name != "tcp" && name != "udp" {
		return fmt.Errorf("%q: write tcp/443 or udp/53; other protocols have no ports: %w", r.Protocol, fabric.ErrInvalid)
	}
	p.DestinationPorts = ports
	return nil
}

// LiveID names a session in a path.
type LiveID struct {
	ID uint32 `path:"id"`
}

// StartLive begins a live session.
func StartLive() huma.Operation {
	return operation("start-live", http.MethodPost, "/v1/live", "tracing", Probe, "Begin to record frames that guests send, on all hosts; it ends by itself")
}

// ListLive lists live sessions.
func ListLive() huma.Operation {
	return operation("list-live", http.MethodGet, "/v1/live", "tracing", Probe, "The live sessions that were begun at this host")
}

// GetLive reads what a live session has found.
func GetLive() huma.Operation {
	return operation("get-live", http.MethodGet, "/v1/live/{id}", "tracing", Probe, "What a live session that was begun at this host has found so far")
}

// EndLive ends a live session.
func EndLive() huma.Operation {
	return operation("end-live", http.MethodDelete, "/v1/live/{id}", "tracing", Probe, "End a live session that was begun at this host, and say what it has found")
}

// ArmLive makes the host record a live session.
func ArmLive() huma.Operation {
	return operation("arm-live", http.MethodPost, "/v1/live/arm", "tracing", Probe, "Record the frames that a live session asks for, on this host")
}

// CollectLive reads what the host recorded.
func CollectLive() huma.Operation {
	return operation("collect-live", http.MethodPost, "/v1/live/collect", "tracing", Probe, "What this host has recorded for a live session since it was asked last")
}

// DisarmLive ends a live session on a host.
func DisarmLive() huma.Operation {
	return operation("disarm-live", http.MethodPost, "/v1/live/disarm", "tracing", Probe, "End a live session on this host; to end what is not armed succeeds")
}
