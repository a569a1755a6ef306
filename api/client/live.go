package client

import (
	"context"
	"fmt"
	"net/http"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/tracing"
)

// StartLive begins a live session at the host that is called.
func (c *Client) StartLive(ctx context.Context, r api.LiveRequest) (report tracing.LiveReport, err error) {
	return report, c.call(ctx, http.MethodPost, "/v1/live", r, &report)
}

// LiveReports are those of the live sessions that were begun at the host that is called.
func (c *Client) LiveReports(ctx context.Context) ([]tracing.LiveReport, error) {
	var l api.List[tracing.LiveReport]
	err := c.call(ctx, http.MethodGet, "/v1/live", nil, &l)
	return l.Items, err
}

// LiveReport is what a live session has found so far; with end it is over then.
func (c *Client) LiveReport(ctx context.Context, id uint32, end bool) (report tracing.LiveReport, err error) {
	method := http.MethodGet
	if end {
		method = http.MethodDelete
	}
	return report, c.call(ctx, method, fmt.Sprintf("/v1/live/%d", id), nil, &report)
}

// ArmLive makes the host that is called record a live session; see tracing.Watcher.
func (c *Client) ArmLive(ctx context.Context, s tracing.LiveSession) error {
	return c.call(ctx, http.MethodPost, "/v1/live/arm", s, nil)
}

// CollectLive is what the host that is called has recorded for a live session since it was asked last.
func (c *Client) CollectLive(ctx context.Context, s tracing.LiveSession) (b tracing.LiveBatch, err error) {
	return b, c.call(ctx, http.MethodPost, "/v1/live/collect", s, &b)
}

// DisarmLive ends a live session on the host that is called.
func (c *Client) DisarmLive(ctx context.Context, s tracing.LiveSession) error {
	return c.call(ctx, http.MethodPost, "/v1/live/disarm", s, nil)
}
