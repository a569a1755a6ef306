package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// Status is the whole fabric on one page.
func (c *Client) Status(ctx context.Context) (api.Status, error) {
	var s api.Status
	return s, c.call(ctx, http.MethodGet, "/v1/status", nil, &s)
}

// healthPause is the time between two looks at the status while waiting for it.
const healthPause = 200 * time.Millisecond

// WaitHealthy waits until the status has no problems, or ctx ends; then it returns the cause of that.
func (c *Client) WaitHealthy(ctx context.Context) (api.Status, error) {
	tick := time.NewTicker(healthPause)
	defer tick.Stop()
	for {
		if s, err := c.Status(ctx); err == nil && s.Healthy {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return api.Status{}, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// InForce waits until every live host has put the revision in force, at most until ctx ends, and returns how far each is.
func (c *Client) InForce(ctx context.Context, r fabric.Revision) (api.InForce, error) {
	var f api.InForce
	return f, c.call(ctx, http.MethodGet, "/v1/inforce?revision="+strconv.FormatInt(int64(r), 10), nil, &f)
}

// Reached says how far every host is with a revision now.
func (c *Client) Reached(ctx context.Context, r fabric.Revision) (api.InForce, error) {
	var f api.InForce
	return f, c.call(ctx, http.MethodGet, "/v1/inforce?wait=0&revision="+strconv.FormatInt(int64(r), 10), nil, &f)
}

// WaitInForce waits until every live host has the revision in force, or ctx ends; then it returns how far they were, with
// the error that says so.
func (c *Client) WaitInForce(ctx context.Context, r fabric.Revision) (api.InForce, error) {
	var last api.InForce
	for {
		f, err := c.InForce(ctx, r)
		if err != nil {
			return last, err
		}
		if last = f; f.Done {
			return f, nil
		}
	}
}

// Version is what the agent runs.
func (c *Client) Version(ctx context.Context) (api.Version, error) {
	var v api.Version
	return v, c.call(ctx, http.MethodGet, "/v1/version", nil, &v)
}

// Ready says what is missing before the host that is called does its work; nil when nothing is.
func (c *Client) Ready(ctx context.Context) error {
	return c.call(ctx, http.MethodGet, "/readyz", nil, nil)
}

// Doctor examines the host that is called.
func (c *Client) Doctor(ctx context.Context) ([]api.Finding, error) {
	var l api.List[api.Finding]
	err := c.call(ctx, http.MethodGet, "/v1/doctor", nil, &l)
	return l.Items, err
}

// Move starts a live migration and returns it as granted; watch the moves for its progress.
func (c *Client) Move(ctx context.Context, r api.MoveRequest) (*fabric.Move, error) {
	var m fabric.Move
	return &m, c.call(ctx, http.MethodPost, "/v1/moves", r, &m)
}

// AbortMove gives a move up; fabric.ErrConflict when the guest has stopped already.
func (c *Client) AbortMove(ctx context.Context, id fabric.MoveID) (*fabric.Move, error) {
	var m fabric.Move
	return &m, c.call(ctx, http.MethodDelete, "/v1/moves/"+url.PathEscape(string(id)), nil, &m)
}

// Candidates says of each other host whether the VM can move there.
func (c *Client) Candidates(ctx context.Context, vm string) ([]api.Placement, error) {
	return c.placements(ctx, url.Values{"vm": {vm}})
}

// Evacuate says where each VM of a host should go; to names the hosts allowed, none is any.
func (c *Client) Evacuate(ctx context.Context, from fabric.HostID, to []fabric.HostID) ([]api.Placement, error) {
	q := url.Values{"from": {string(from)}}
	for _, host := range to {
		q.Add("to", string(host))
	}
	return c.placements(ctx, q)
}

func (c *Client) placements(ctx context.Context, q url.Values) ([]api.Placement, error) {
	var l api.List[api.Placement]
	return l.Items, c.call(ctx, http.MethodGet, "/v1/placements?"+q.Encode(), nil, &l)
}

// Trace sends a probe from a port and says where it went and why.
func (c *Client) Trace(ctx context.Context, r api.TraceRequest) (*tracing.Path, error) {
	var p tracing.Path
	return &p, c.call(ctx, http.MethodPost, "/v1/trace", r, &p)
}

// Why finds out why packets of one kind do not come through from a port.
func (c *Client) Why(ctx context.Context, r api.TraceRequest) (*tracing.Examination, error) {
	var x tracing.Examination
	return &x, c.call(ctx, http.MethodPost, "/v1/why", r, &x)
}

// Drops are what all hosts have dropped since their ports were plugged in; hosts that do not answer are named.
func (c *Client) Drops(ctx context.Context) (d api.Drops, err error) {
	return d, c.call(ctx, http.MethodGet, "/v1/drops", nil, &d)
}

// Stations are the MACs of all switches; hosts that do not answer are named.
func (c *Client) Stations(ctx context.Context) (s api.Stations, err error) {
	return s, c.call(ctx, http.MethodGet, "/v1/stations", nil, &s)
}

// Arm makes the host that is called record a session; see tracing.Fabric.
func (c *Client) Arm(ctx context.Context, s tracing.Session) error {
	return c.call(ctx, http.MethodPost, "/v1/probes/arm", s, nil)
}

// Inject sends a frame into a port of the host that is called, times times.
func (c *Client) Inject(ctx context.Context, port fabric.PortID, frame []byte, times int) error {
	return c.call(ctx, http.MethodPost, "/v1/probes/inject", api.Injection{Port: port, Frame: frame, Times: times}, nil)
}

// Hops returns what the host that is called has recorded for a session so far.
func (c *Client) Hops(ctx context.Context, s tracing.Session) ([]tracing.Hop, error) {
	var l api.List[tracing.Hop]
	err := c.call(ctx, http.MethodPost, "/v1/probes/hops", s, &l)
	return l.Items, err
}

// Disarm ends a session on the host that is called.
func (c *Client) Disarm(ctx context.Context, s tracing.Session) error {
	return c.call(ctx, http.MethodPost, "/v1/probes/disarm", s, nil)
}

// Try lets a throw-away guest of a host try the network.
func (c *Client) Try(ctx context.Context, r api.TrialRequest) ([]api.TrialCheckResult, error) {
	var out api.List[api.TrialCheckResult]
	err := c.call(ctx, http.MethodPost, "/v1/trial", r, &out)
	return out.Items, err
}

// Left returns what a port that moves away from the host that is called takes along.
func (c *Client) Left(ctx context.Context, port fabric.PortID, since api.LeftSince) (l api.Left, err error) {
	return l, c.call(ctx, http.MethodPost, "/v1/here/left/"+url.PathEscape(string(port)), since, &l)
}

// Aside tells the source of a move, which is called, what the caller's host records as its destination.
func (c *Client) Aside(ctx context.Context, r api.MoveReport) error {
	return c.call(ctx, http.MethodPost, "/v1/here/aside", r, nil)
}

// Register tells a server host about the caller's host.
func (c *Client) Register(ctx context.Context, h *fabric.Host) error {
	return c.call(ctx, http.MethodPost, "/v1/report/register", h, nil)
}

// ReportStatus tells a server host how the caller's host is; it must be repeated before the lease runs out.
func (c *Client) ReportStatus(ctx context.Context, host fabric.HostID, s fabric.HostStatus) error {
	return c.call(ctx, http.MethodPost, "/v1/report/status", api.StatusReport{Host: host, Status: s}, nil)
}

// CallHypervisor tells the agent what the hypervisor of its host does with a guest.
func (c *Client) CallHypervisor(ctx context.Context, call api.HypervisorCall) error {
	return c.call(ctx, http.MethodPost, "/v1/here/hypervisor", call, nil)
}

// IntegrateLibvirt makes libvirt of the agent's host use the fabric, or undoes that.
func (c *Client) IntegrateLibvirt(ctx context.Context, r api.IntegrateRequest) (api.Integration, error) {
	var i api.Integration
	return i, c.call(ctx, http.MethodPost, "/v1/here/libvirt", r, &i)
}

// ReportLocation asks a server host for one compare-and-swap of a location, and returns the record after it.
// fabric.ErrStaleEpoch or fabric.ErrConflict when somebody else was first.
func (c *Client) ReportLocation(ctx context.Context, r api.LocationReport) (fabric.Location, error) {
	var l fabric.Location
	return l, c.call(ctx, http.MethodPost, "/v1/report/location", r, &l)
}

// ReportMove asks a server host to write a move's status, and returns the record after it.
func (c *Client) ReportMove(ctx context.Context, r api.MoveReport) (*fabric.Move, error) {
	var m fabric.Move
	return &m, c.call(ctx, http.MethodPost, "/v1/report/move", r, &m)
}
