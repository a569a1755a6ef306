package export

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// Source says how this host is at the moment of a scrape.
type Source interface {
	// Reading is called for every scrape and must return when ctx ends; its error turns into weft_up 0.
	Reading(ctx context.Context) (Reading, error)
}

// Reading is a host at one moment.
type Reading struct {
	// Status has the generation, readiness and the ports with their counters.
	Status fabric.HostStatus
	// Drops are those of no port, by reason: the underlay's.
	Drops map[string]uint64
	// PolicyAge is how long ago the settings in force were last compared with the fabric's and found equal.
	PolicyAge time.Duration
	// Peers is how many other hosts gossip calls alive; PeersWanted how many the fabric has.
	Peers, PeersWanted int
	// Services are what guests of internal switches were answered.
	Services []ServiceCount
	// Mirrors are what mirrors have copied here, in frames.
	Mirrors []MirrorCount
}

// MirrorCount is a mirror on this host: Copied at ports here, Given to its sink here, Lost here.
type MirrorCount struct {
	Mirror              string
	Copied, Given, Lost uint64
}

// ServiceCount is how often a service on a device has ended a request in one way.
type ServiceCount struct {
	Service, Device, Result string
	Count                   uint64
}

// Metrics is this host's metrics, all named weft_*, with Go's and the process's own.
type Metrics struct {
	registry  *prometheus.Registry
	source    Source
	reconcile *prometheus.HistogramVec
	repairs   *prometheus.CounterVec
	events    prometheus.Counter
	inForce   prometheus.Histogram
	attached  prometheus.Histogram
}

// scrapeTimeout bounds one reading.
const scrapeTimeout = 5 * time.Second

// NewMetrics makes the metrics of a host. t may be nil; else its counts of spans are among them.
func NewMetrics(source Source, version string, t *Telemetry) *Metrics {
	fast := prometheus.ExponentialBuckets(0.0005, 2, 16) // 0.5 ms to 16 s
	m := &Metrics{
		registry: prometheus.NewRegistry(), source: source,
		reconcile: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "weft_reconcile_duration_seconds", Buckets: fast,
			Help: "How long one comparison of wanted and actual state took, by outcome: unchanged, changed or failed."}, []string{"outcome"}),
		repairs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weft_drift_repairs_total",
			Help: "Entries of the kernel that were not as the agent had put them and were put right, by kind."}, []string{"kind"}),
		events: prometheus.NewCounter(prometheus.CounterOpts{Name: "weft_events_total", Help: "Events written to this host's event log."}),
		inForce: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weft_in_force_duration_seconds", Buckets: fast,
			Help: "From the arrival of a change on this host to its being read back from the kernel."}),
		attached: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weft_attach_duration_seconds", Buckets: fast, Help: "From the request to attach a port to its being in force."}),
	}
	m.registry.MustRegister(m.reconcile, m.repairs, m.events, m.inForce, m.attached, &scraper{m},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "weft_build_info", Help: "1, with the version that runs.", ConstLabels: prometheus.Labels{"version": version}},
			func() float64 { return 1 }))
	if t != nil {
		m.registry.MustRegister(spanCounter("sent", t), spanCounter("lost", t))
	}
	return m
}

func spanCounter(outcome string, t *Telemetry) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "weft_trace_spans_total", Help: "Spans by what became of them.", ConstLabels: prometheus.Labels{"outcome": outcome}},
		func() float64 {
			sent, lost := t.Outcomes()
			if outcome == "lost" {
				return float64(lost)
			}
			return float64(sent)
		})
}

// Sends adds what becomes of the events that go to a collector; to be called once at most.
func (m *Metrics) Sends(s *EventSender) {
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "weft_events_waiting", Help: "Events that the collector has not taken yet; they are kept and sent later."},
			func() float64 { waiting, _ := s.Outcomes(); return float64(waiting) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "weft_events_send_failures_total", Help: "How often the collector refused events, did not answer in time or was away."},
			func() float64 { _, failures := s.Outcomes(); return float64(failures) }))
}

// Handler answers a scrape.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// Reconciled records one comparison of wanted and actual state: how many entries it changed and whether it failed.
func (m *Metrics) Reconciled(took time.Duration, changed int, err error) {
	outcome := "unchanged"
	switch {
	case err != nil:
		outcome = "failed"
	case changed > 0:
		outcome = "changed"
	}
	m.reconcile.WithLabelValues(outcome).Observe(took.Seconds())
}

// Repaired counts entries that were not as the agent had put them; kind is what they are: port, fdb, program, link.
func (m *Metrics) Repaired(kind string, n int) { m.repairs.WithLabelValues(kind).Add(float64(n)) }

// InForce records how long a change took from its arrival here to being read back.
func (m *Metrics) InForce(took time.Duration) { m.inForce.Observe(took.Seconds()) }

// Attached records how long a port took from the request to being in force.
func (m *Metrics) Attached(took time.Duration) { m.attached.Observe(took.Seconds()) }

// Logged counts an event.
func (m *Metrics) Logged() { m.events.Inc() }

// Descriptions of what is read at a scrape.
var (
	descUp         = desc("up", "1 when the agent could read its host's state.")
	descGeneration = desc("generation", "Revision of the last change that was read back as in force.")
	descReady      = desc("ready", "1 when every wanted entry is in the kernel.")
	descProblems   = desc("problems", "How many things keep the host from being ready.")
	descAge        = desc("policy_age_seconds", "Time since the settings in force were last found equal to the fabric's.")
	descPeers      = desc("peers", "Other hosts of the fabric, by whether gossip calls them alive.", "alive")
	descPorts      = desc("ports", "Ports on this host by state.", "state")
	descPackets    = desc("port_packets_total", "Packets of a port; rx is from the guest, tx to the guest.", "port", "direction")
	descBytes      = desc("port_bytes_total", "Bytes of a port; rx is from the guest, tx to the guest.", "port", "direction")
	descDrops      = desc("drops_total", "Dropped packets by reason; port is empty for those of no port.", "port", "reason", "class")
	descServices   = desc("service_requests_total", "What guests of internal switches asked of a service, by how it ended; of NAT, packets by rule.", "service", "device", "result")
	descMirrors    = desc("mirror_frames_total", "Frames of mirrors: copied at ports here, given to the sink here, lost here.", "mirror", "outcome")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("weft_"+name, help, labels, nil)
}

// scraper turns a reading into metrics.
type scraper struct{ metrics *Metrics }

// Describe names all metrics, so that a name taken twice is found at start.
func (s *scraper) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descUp, descGeneration, descReady, descProblems, descAge, descPeers, descPorts, descPackets, descBytes, descDrops, descServices, descMirrors,
	} {
		out <- d
	}
}

// Collect reads the source once.
func (s *scraper) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	r, err := s.metrics.source.Reading(ctx)
	gauge(out, descUp, truth(err == nil))
	if err != nil {
		return
	}
	gauge(out, descGeneration, float64(r.Status.Generation))
	gauge(out, descReady, truth(r.Status.Ready))
	gauge(out, descProblems, float64(len(r.Status.Problems)))
	gauge(out, descAge, r.PolicyAge.Seconds())
	gauge(out, descPeers, float64(r.Peers), "true")
	gauge(out, descPeers, float64(r.PeersWanted-r.Peers), "false")
	states := map[fabric.PortState]int{fabric.PortClosed: 0, fabric.PortStaged: 0, fabric.PortActive: 0, fabric.PortRelayed: 0}
	for _, p := range r.Status.Ports {
		states[p.State]++
		port(out, p)
	}
	for state, n := range states {
		gauge(out, descPorts, float64(n), string(state))
	}
	drops(out, "", r.Drops)
	for _, c := range r.Services {
		counter(out, descServices, c.Count, c.Service, c.Device, c.Result)
	}
	for _, c := range r.Mirrors {
		counter(out, descMirrors, c.Copied, c.Mirror, "copied")
		counter(out, descMirrors, c.Given, c.Mirror, "given")
		counter(out, descMirrors, c.Lost, c.Mirror, "lost")
	}
}

func port(out chan<- prometheus.Metric, p fabric.PortStatus) {
	name := string(p.Name)
	counter(out, descPackets, p.RxPackets, name, "rx")
	counter(out, descPackets, p.TxPackets, name, "tx")
	counter(out, descBytes, p.RxBytes, name, "rx")
	counter(out, descBytes, p.TxBytes, name, "tx")
	drops(out, name, p.Drops)
}

func drops(out chan<- prometheus.Metric, port string, byReason map[string]uint64) {
	for name, n := range byReason {
		class := "unknown"
		if r, err := tracing.ParseReason(name); err == nil {
			class = r.Class().String()
		} else if r, ok := tracing.ParseKernelReason(name); ok {
			class = r.Class().String()
		}
		counter(out, descDrops, n, port, name, class)
	}
}

func gauge(out chan<- prometheus.Metric, d *prometheus.Desc, value float64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
}

func counter(out chan<- prometheus.Metric, d *prometheus.Desc, value uint64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
