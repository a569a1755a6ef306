package agent

import (
	"context"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// followed sends one probe, and says which operations wrote what it met.
func (p *prober) followed(ctx context.Context, snap *fabric.Snapshot, o tracing.ProbeOptions) (*tracing.Path, error) {
	path, err := tracing.Probe(ctx, p.everywhere(), o)
	if err != nil {
		return nil, err
	}
	path.Changes = changesOf(snap, path)
	p.telemetry.Path(ctx, path)
	return path, nil
}

// changesOf are the operations behind a way: those that wrote the policies of the rules that decided, that brought its ports where
// they are, moves among them, and the one that wrote the port at which it was dropped for its own settings.
func changesOf(snap *fabric.Snapshot, path *tracing.Path) (out []tracing.Change) {
	said := map[string]bool{}
	add := func(object string, revision fabric.Revision, trace string) {
		if trace != "" && !said[object] {
			said[object] = true
			out = append(out, tracing.Change{Object: object, Revision: revision, Trace: trace})
		}
	}
	for _, h := range path.Hops {
		if o := snap.Policies[h.Policy]; o != nil {
			add("policy/"+h.Policy, o.Metadata.Revision, o.Metadata.Trace)
		}
		if l, there := snap.Locations[h.Port]; there {
			add("location/"+string(h.Port), l.Revision, l.Trace)
		}
		if o := snap.Ports[h.Port]; o != nil && h.Ends() && h.Reason != tracing.ReasonProbeCaught {
			add("port/"+string(h.Port), o.Metadata.Revision, o.Metadata.Trace)
		}
	}
	return out
}
