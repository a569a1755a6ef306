package export

import (
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/weftnet/weft/fabric"
)

type source struct {
	reading Reading
	err     error
}

func (s *source) Reading(context.Context) (Reading, error) { return s.reading, s.err }

// scrape reads /metrics as Prometheus does; keys are name{label="value",…} with the labels sorted.
func scrape(tb testing.TB, m *Metrics) map[string]float64 {
	tb.Helper()
	server := httptest.NewServer(m.Handler())
	defer server.Close()
	response, err := server.Client().Get(server.URL)
	if err != nil {
		tb.Fatal(err)
	}
	defer response.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil {
		tb.Fatal(err)
	}
	values := map[string]float64{}
	for name, family := range families {
		if family.GetHelp() == "" {
			tb.Errorf("%s has no help", name)
		}
		for _, m := range family.Metric {
			values[key(name, m)] = m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	_, _ = io.Copy(io.Discard, response.Body)
	return values
}

func key(name string, m *dto.Metric) string {
	var labels []string
	for _, l := range m.Label {
		labels = append(labels, l.GetName()+"="+l.GetValue())
	}
	return name + "{" + strings.Join(labels, ",") + "}"
}

func TestMetrics(t *testing.T) {
	s := &source{reading: Reading{
		Status: fabric.HostStatus{Generation: 118, Ready: true, Problems: []string{"one"}, Ports: []fabric.PortStatus{
			{Name: "a", State: fabric.PortActive, RxPackets: 10, TxPackets: 20, RxBytes: 30, TxBytes: 40, Drops: map[string]uint64{"guard_src_ip": 3, "of_the_future": 1}},
			{Name: "b", State: fabric.PortActive}, {Name: "c", State: fabric.PortStaged},
		}},
		Drops: map[string]uint64{"vtep_unknown": 7}, PolicyAge: 1500 * time.Millisecond, Peers: 1, PeersWanted: 2,
		Mirrors: []MirrorCount{{Mirror: "ids", Copied: 5, Given: 4, Lost: 1}},
	}}
	telemetry := open(t, Options{Dir: t.TempDir()})
	span(t, telemetry, "apply")
	m := NewMetrics(s, "0.1.0", telemetry)
	m.Reconciled(time.Millisecond, 0, nil)
	m.Reconciled(time.Millisecond, 2, nil)
	m.Reconciled(time.Millisecond, 2, errors.New("map full"))
	m.Repaired("program", 2)
	m.InForce(time.Millisecond)
	m.Attached(time.Millisecond)
	m.Logged()
	got := scrape(t, m)
	for name, want := range map[string]float64{
		"weft_up{}": 1, "weft_generation{}": 118, "weft_ready{}": 1, "weft_problems{}": 1, "weft_policy_age_seconds{}": 1.5,
		"weft_peers{alive=true}": 1, "weft_peers{alive=false}": 1,
		"weft_ports{state=active}": 2, "weft_ports{state=staged}": 1, "weft_ports{state=closed}": 0, "weft_ports{state=relayed}": 0,
		"weft_port_packets_total{direction=rx,port=a}": 10, "weft_port_packets_total{direction=tx,port=a}": 20,
		"weft_port_bytes_total{direction=rx,port=a}": 30, "weft_port_bytes_total{direction=tx,port=a}": 40,
		"weft_drops_total{class=policy,port=a,reason=guard_src_ip}": 3, "weft_drops_total{class=unknown,port=a,reason=of_the_future}": 1,
		"weft_drops_total{class=config,port=,reason=vtep_unknown}": 7,
		"weft_mirror_frames_total{mirror=ids,outcome=copied}":      5, "weft_mirror_frames_total{mirror=ids,outcome=given}": 4,
		"weft_mirror_frames_total{mirror=ids,outcome=lost}":  1,
		"weft_reconcile_duration_seconds{outcome=unchanged}": 1, "weft_reconcile_duration_seconds{outcome=changed}": 1,
		"weft_reconcile_duration_seconds{outcome=failed}": 1, "weft_drift_repairs_total{kind=program}": 2,
		"weft_in_force_duration_seconds{}": 1, "weft_attach_duration_seconds{}": 1, "weft_events_total{}": 1, "weft_build_info{version=0.1.0}": 1,
		"weft_trace_spans_total{outcome=sent}": 1, "weft_trace_spans_total{outcome=lost}": 0,
	} {
		if value, has := got[name]; !has || value != want {
			t.Errorf("%s is %v (there: %v), want %v", name, value, has, want)
		}
	}
	for name := range got {
		if !strings.HasPrefix(name, "weft_") && !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") && !strings.HasPrefix(name, "promhttp_") {
			t.Errorf("%s is not named weft_*", name)
		}
	}
}

func TestAHostThatCannotBeReadIsDownAndSaysNothingElse(t *testing.T) {
	got := scrape(t, NewMetrics(&source{err: errors.New("no")}, "0.1.0", nil))
	if value, has := got["weft_up{}"]; !has || value != 0 {
		t.Errorf("weft_up is %v (there: %v)", value, has)
	}
	if _, has := got["weft_generation{}"]; has {
		t.Error("a generation is claimed all the same")
	}
}
