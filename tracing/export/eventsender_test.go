package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	logscollector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/weftnet/weft/fabric"
)

// archive is a collector of logs: OpenTelemetry's own service definition, which decodes what arrives.
type archive struct {
	logscollector.UnimplementedLogsServiceServer
	mu      sync.Mutex
	refuses bool
	asked   int
	records []*logspb.LogRecord
	hosts   map[string]bool
	arrived chan struct{}
}

func newArchive() *archive {
	return &archive{hosts: map[string]bool{}, arrived: make(chan struct{}, 1000)}
}

func (a *archive) Export(_ context.Context, q *logscollector.ExportLogsServiceRequest) (*logscollector.ExportLogsServiceResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer func() { a.arrived <- struct{}{} }()
	if a.asked++; a.refuses {
		return nil, grpcstatus.Error(codes.Unavailable, "not now")
	}
	for _, r := range q.ResourceLogs {
		for _, s := range r.ScopeLogs {
			a.records = append(a.records, s.LogRecords...)
		}
		for _, attribute := range r.Resource.Attributes {
			if attribute.Key == "service.instance.id" {
				a.hosts[attribute.Value.GetStringValue()] = true
			}
		}
	}
	return &logscollector.ExportLogsServiceResponse{}, nil
}

// ServeHTTP takes the same by HTTP.
func (a *archive) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var q logscollector.ExportLogsServiceRequest
	if err != nil || proto.Unmarshal(body, &q) != nil || r.URL.Path != "/v1/logs" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if _, err := a.Export(r.Context(), &q); err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// until waits until n records have come, or for n requests when the collector refuses.
func (a *archive) until(t *testing.T, n int) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		a.mu.Lock()
		enough := len(a.records) >= n || a.refuses && a.asked >= n
		a.mu.Unlock()
		if enough {
			return
		}
		select {
		case <-a.arrived:
		case <-deadline:
			t.Fatalf("%d of %d records came", len(a.records), n)
		}
	}
}

func (a *archive) numbers() (out []int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.records {
		for _, attribute := range r.Attributes {
			if attribute.Key == "weft.event.seq" {
				out = append(out, attribute.Value.GetIntValue())
			}
		}
	}
	return out
}

// collects serves an archive by gRPC, and returns the endpoint.
func collects(t *testing.T, a *archive) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	logscollector.RegisterLogsServiceServer(s, a)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return "grpc://" + l.Addr().String()
}

// sends runs a sender on the log in dir until the returned function is called, which says how it ended.
func sends(t *testing.T, dir, endpoint string, o Options) (*EventLog, func()) {
	t.Helper()
	log, err := OpenEventLog(dir, EventLogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	o.Endpoint = endpoint
	s, err := NewEventSender(log, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return log, func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the sender ended: %v", err)
		}
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	}
}

// noted waits until the sender remembers that the collector has taken so many.
func noted(t *testing.T, dir, want string) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(20 * time.Second); ; {
		if b, err := os.ReadFile(filepath.Join(dir, "sent")); err == nil && string(b) == want {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("it is not noted that %q were taken", want)
		}
	}
}

func tell(t *testing.T, log *EventLog, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		if _, err := log.Append(fabric.Event{Time: time.Unix(int64(i), 0), Host: "h1", Type: "port.active", Object: "port/a", Message: fmt.Sprint("event ", i), TraceID: "0af7651916cd43dd8448eb211c80319c", Generation: 7}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEventsAreLogRecordsInTheirOrderAndGoOnAfterARestart(t *testing.T) {
	a := newArchive()
	web := httptest.NewServer(a)
	defer web.Close()
	for name, endpoint := range map[string]string{"grpc": collects(t, a), "http": web.URL} {
		t.Run(name, func(t *testing.T) {
			a.mu.Lock()
			a.records = nil
			a.mu.Unlock()
			dir := t.TempDir()
			log, stop := sends(t, dir, endpoint, Options{Host: "h1", Version: "v1"})
			tell(t, log, 1, 300)
			a.until(t, 300)
			noted(t, dir, "300\n") // or the next one would send the last batch again
			stop()
			log, stop = sends(t, dir, endpoint, Options{Host: "h1"})
			tell(t, log, 301, 310)
			a.until(t, 310)
			stop()
			got := a.numbers()
			for i, n := range got {
				if n != int64(i+1) {
					t.Fatalf("record %d has number %d: %d came", i, n, len(got))
				}
			}
			r := a.records[4]
			if r.EventName != "weft.port.active" || r.Body.GetStringValue() != "event 5" || r.TimeUnixNano != 5e9 || fmt.Sprintf("%x", r.TraceId) != "0af7651916cd43dd8448eb211c80319c" || r.SeverityNumber != logspb.SeverityNumber_SEVERITY_NUMBER_INFO {
				t.Errorf("%v", r)
			}
			if !a.hosts["h1"] {
				t.Errorf("resources of %v", a.hosts)
			}
		})
	}
}

func TestEventsWaitForACollectorThatRefuses(t *testing.T) {
	a := newArchive()
	a.refuses = true
	log, stop := sends(t, t.TempDir(), collects(t, a), Options{Host: "h1"})
	tell(t, log, 1, 3)
	a.until(t, 1)
	tell(t, log, 4, 5) // nobody is held up
	a.mu.Lock()
	a.refuses = false
	a.mu.Unlock()
	a.until(t, 5)
	stop()
	if got := a.numbers(); len(got) != 5 || got[0] != 1 || got[4] != 5 {
		t.Errorf("numbers %v", got)
	}
}

func TestEndpointsOfEventsThatCannotBe(t *testing.T) {
	log, err := OpenEventLog(t.TempDir(), EventLogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for _, endpoint := range []string{"ftp://collector:21", "grpc://", "://"} {
		if _, err := NewEventSender(log, Options{Endpoint: endpoint}); !errors.Is(err, fabric.ErrInvalid) {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
}
