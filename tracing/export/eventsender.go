package export

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	logscollector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

const (
	// eventBatch is how many events go out at once.
	eventBatch = 256
	// eventPause is the first pause after a failure; it doubles up to eventPauseMax.
	eventPause, eventPauseMax = time.Second, 30 * time.Second
)

// EventSender sends the events of a log to a collector as OTLP log records, each with its number (weft.event.seq). What the collector did
// not take is sent again, also by the next process: the log itself is the queue, and a file beside its segments says how far the
// collector is. An event may arrive twice where a process dies between sending and noting; its number shows that.
type EventSender struct {
	log      *EventLog
	send     func(context.Context, *logscollector.ExportLogsServiceRequest) error
	close    func() error
	resource *resourcepb.Resource
	logger   *slog.Logger
	cursor   string
	// taken is the number of the last event that the collector has, failed how often it took none.
	taken, failed atomic.Uint64
}

// NewEventSender prepares to send to the endpoint of the options; Run sends. Options.Dir is not used. The error wraps fabric.ErrInvalid
// for an endpoint that cannot be.
func NewEventSender(log *EventLog, o Options) (*EventSender, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &EventSender{log: log, logger: o.Logger, cursor: filepath.Join(log.dir, "sent"), close: func() error { return nil }}
	s.resource = &resourcepb.Resource{}
	for _, a := range agentResource(o.Host, o.Version).Attributes() {
		s.resource.Attributes = append(s.resource.Attributes, text(string(a.Key), a.Value.AsString()))
	}
	return s, s.dial(o.Endpoint)
}

// dial understands an endpoint as spans do.
func (s *EventSender) dial(endpoint string) error {
	full := endpoint
	if !strings.Contains(full, "://") {
		full = "grpc://" + full
	}
	u, err := url.Parse(full)
	if err != nil || u.Host == "" {
		return fmt.Errorf("send events to %q: write the endpoint as grpc://HOST:4317 or http://HOST:4318: %w", endpoint, fabric.ErrInvalid)
	}
	switch u.Scheme {
	case "grpc", "grpcs":
		secure := insecure.NewCredentials()
		if u.Scheme == "grpcs" {
			secure = credentials.NewTLS(nil)
		}
		conn, err := grpc.NewClient(u.Host, grpc.WithTransportCredentials(secure))
		if err != nil {
			return fmt.Errorf("send events to %s: %w", endpoint, err)
		}
		client := logscollector.NewLogsServiceClient(conn)
		s.close = conn.Close
		s.send = func(ctx context.Context, r *logscollector.ExportLogsServiceRequest) error {
			_, err := client.Export(ctx, r)
			return err
		}
	case "http", "https":
		u.Path = "/v1/logs" // the endpoint's own path, where it has one, is that of spans
		client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConns: 1}}
		s.close = func() error { client.CloseIdleConnections(); return nil }
		s.send = func(ctx context.Context, r *logscollector.ExportLogsServiceRequest) error {
			return post(ctx, client, u.String(), r)
		}
	default:
		return fmt.Errorf("send events to %q: %q is not grpc, grpcs, http or https: %w", endpoint, u.Scheme, fabric.ErrInvalid)
	}
	return nil
}

// post sends one request by HTTP (OTLP 1.11, section OTLP/HTTP).
func post(ctx context.Context, client *http.Client, to string, r *logscollector.ExportLogsServiceRequest) error {
	body, err := proto.Marshal(r)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection is used again
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the collector answered %s", resp.Status)
	}
	return nil
}

// Run sends until ctx ends or the log is closed. A collector that is away, hangs or refuses holds nobody up.
func (s *EventSender) Run(ctx context.Context) error {
	defer func() { _ = s.close() }()
	sent, err := s.sent()
	if err != nil {
		return err
	}
	s.taken.Store(sent)
	var batch []Record
	err = s.log.Follow(ctx, sent, func(r Record) error {
		if batch = append(batch, r); len(batch) < eventBatch && r.Seq < s.log.Last() {
			return nil
		}
		if err := s.deliver(ctx, batch); err != nil {
			return err
		}
		batch = batch[:0]
		return nil
	})
	if ctx.Err() != nil || errors.Is(err, ErrLogClosed) {
		return nil
	}
	return err
}

// Outcomes are how many events wait for the collector, and how often it has refused, hung or been away since the sender was made.
func (s *EventSender) Outcomes() (waiting, failures uint64) {
	taken := s.taken.Load() // first: the log only grows
	return s.log.Last() - min(taken, s.log.Last()), s.failed.Load()
}

// sent is the number of the last event that the collector has taken. A number beyond the log's end is of another log: all is sent again.
func (s *EventSender) sent() (uint64, error) {
	b, err := os.ReadFile(s.cursor)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read which events were sent: %w", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || n > s.log.Last() {
		return 0, nil
	}
	return n, nil
}

// deliver sends a batch until it is taken or ctx ends, and notes it.
func (s *EventSender) deliver(ctx context.Context, batch []Record) error {
	request := s.request(batch)
	for wait, failed := eventPause, false; ; wait = min(2*wait, eventPauseMax) {
		try, cancel := context.WithTimeout(ctx, answerWithin)
		err := s.send(try, request)
		cancel()
		if err == nil {
			if failed {
				s.logger.Info("events reach the collector again")
			}
			s.taken.Store(batch[len(batch)-1].Seq)
			return s.note(batch[len(batch)-1].Seq)
		}
		if ctx.Err() == nil {
			s.failed.Add(1)
		}
		if ctx.Err() == nil && !failed {
			failed = true
			s.logger.Warn("events do not reach the collector; they are kept and sent later", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// note remembers how far the collector is.
func (s *EventSender) note(seq uint64) error {
	fresh := s.cursor + ".new"
	if err := os.WriteFile(fresh, []byte(strconv.FormatUint(seq, 10)+"\n"), 0o600); err != nil {
		return fmt.Errorf("note which events were sent: %w", err)
	}
	if err := os.Rename(fresh, s.cursor); err != nil {
		return fmt.Errorf("note which events were sent: %w", err)
	}
	return nil
}

// request is a batch in OTLP's words.
func (s *EventSender) request(batch []Record) *logscollector.ExportLogsServiceRequest {
	records := make([]*logspb.LogRecord, len(batch))
	for i, r := range batch {
		records[i] = logRecord(r)
	}
	return &logscollector.ExportLogsServiceRequest{ResourceLogs: []*logspb.ResourceLogs{{
		Resource:  s.resource,
		ScopeLogs: []*logspb.ScopeLogs{{Scope: &commonpb.InstrumentationScope{Name: "github.com/weftnet/weft/tracing/export"}, LogRecords: records}},
	}}}
}

// logRecord is an event as a log record with a name (OpenTelemetry semantic conventions 1.44, events).
func logRecord(r Record) *logspb.LogRecord {
	out := &logspb.LogRecord{
		TimeUnixNano: uint64(r.Time.UnixNano()), ObservedTimeUnixNano: uint64(r.Time.UnixNano()), EventName: "weft." + r.Type,
		SeverityNumber: logspb.SeverityNumber_SEVERITY_NUMBER_INFO, SeverityText: "INFO",
		Body: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: r.Message}},
		Attributes: []*commonpb.KeyValue{
			text(tracing.KeyHost, string(r.Host)), number(tracing.KeyEventSeq, int64(r.Seq)),
		},
	}
	if r.Object != "" {
		out.Attributes = append(out.Attributes, text(tracing.KeyObject, r.Object))
	}
	if r.Generation != 0 {
		out.Attributes = append(out.Attributes, number(tracing.KeyGeneration, int64(r.Generation)))
	}
	if id, err := hex.DecodeString(r.TraceID); err == nil && len(id) == 16 {
		out.TraceId = id
	}
	return out
}

func text(key, value string) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: value}}}
}

func number(key string, value int64) *commonpb.KeyValue {
	return &commonpb.KeyValue{Key: key, Value: &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: value}}}
}
