package telemetry

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"

	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/testport"
	"github.com/outflowhq/outflow/internal/timing"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"))
}

// log is what a program says.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *log) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// traces are the settings of a process that exports to an address, often.
func traces(t *testing.T, address string) config.Traces {
	t.Helper()
	u, err := url.Parse(address + "/v1/traces")
	require.NoError(t, err)
	return config.Traces{
		Endpoint: u, Timeout: 10 * time.Second, Sampler: "parentbased_always_on",
		QueueSize: 100, BatchSize: 10, Delay: 5 * time.Millisecond, ExportTimeout: 30 * time.Second,
	}
}

func makeSpans(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		_, span := otel.Tracer("test").Start(t.Context(), fmt.Sprintf("span %d", i))
		span.End()
	}
}

func TestNothingIsExportedByDefault(t *testing.T) {
	s, err := Start(t.Context(), config.Traces{}, "outflow-starter", slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	assert.IsType(t, noop.TracerProvider{}, otel.GetTracerProvider(), "spans cost nothing")
	s.Stop()
	_, span := otel.Tracer("test").Start(t.Context(), "span")
	assert.False(t, span.SpanContext().IsValid())
}

func TestSpansAreExported(t *testing.T) {
	type request struct {
		path, key, body string
	}
	requests := make(chan request, 100)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		requests <- request{r.URL.Path, r.Header.Get("api-key"), string(body)}
	}))
	defer collector.Close()
	c := traces(t, collector.URL)
	c.Headers, c.Resource, c.Delay = map[string]string{"api-key": "k"}, map[string]string{"deployment.environment.name": "test"}, time.Hour
	said := &log{}
	s, err := Start(t.Context(), c, "outflow-starter", said.logger())
	require.NoError(t, err)
	makeSpans(t, 1)
	select {
	case <-requests:
		t.Fatal("the batch is neither full nor old enough")
	default:
	}
	s.Stop() // sends what is left
	require.Len(t, requests, 1)
	got := <-requests
	assert.Equal(t, "/v1/traces", got.path)
	assert.Equal(t, "k", got.key)
	for _, part := range []string{"span 0", "outflow-starter", "deployment.environment.name", "telemetry.sdk.name"} {
		assert.Contains(t, got.body, part)
	}
	assert.NotContains(t, said.String(), "WARN")
	assert.Equal(t, []string{"traceparent", "tracestate"}, otel.GetTextMapPropagator().Fields())

	_, span := otel.Tracer("test").Start(t.Context(), "later")
	assert.False(t, span.SpanContext().IsValid(), "nobody records for an exporter that has ended")
}

func TestTheNameOfTheService(t *testing.T) {
	for want, c := range map[string]config.Traces{
		"outflow-worker": {},
		"mine":           {ServiceName: "mine"},
	} {
		value, ok := resourceOf(c, "outflow-worker").Set().Value("service.name")
		require.True(t, ok)
		assert.Equal(t, want, value.AsString())
	}
}

func TestSamplers(t *testing.T) {
	for name, want := range map[string]string{
		"always_on": "AlwaysOnSampler", "always_off": "AlwaysOffSampler", "traceidratio": "TraceIDRatioBased{0.25}",
		"parentbased_always_on": "ParentBased{root:AlwaysOnSampler", "parentbased_always_off": "ParentBased{root:AlwaysOffSampler",
		"parentbased_traceidratio": "ParentBased{root:TraceIDRatioBased{0.25}",
	} {
		assert.True(t, strings.HasPrefix(samplerOf(config.Traces{Sampler: name, Ratio: 0.25}).Description(), want),
			name)
	}
}

// Whatever becomes of the collector, who ends a span does not wait, the log has
// one line of it, and stopping ends within its bound.
func TestACollectorThatIsAway(t *testing.T) {
	closed := testport.Reserve(t)
	hanging, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer hanging.Close()
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter,
		_ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
	}))
	defer refusing.Close()
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter,
		_ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer busy.Close()
	for name, c := range map[string]struct {
		address string
		lines   int // of failures, before it is stopped
	}{
		"nobody listens": {"http://" + closed.Address, 1},
		"it hangs":       {"http://" + hanging.Addr().String(), 0}, // it has a request's time
		"it refuses":     {refusing.URL, 1},
		"it is busy":     {busy.URL, 0}, // it is asked again
	} {
		t.Run(name, func(t *testing.T) {
			said := &log{}
			s, err := Start(t.Context(), traces(t, c.address), "outflow-starter", said.logger())
			require.NoError(t, err)
			began := time.Now()
			makeSpans(t, 1000)
			assert.Less(t, time.Since(began), 20*time.Second,
				"ten times what the queue holds: none waits for an export")
			failures := func() int { return strings.Count(said.String(), "exporting spans fails") }
			require.Eventually(t, func() bool { return failures() == c.lines }, 20*time.Second, time.Millisecond)
			makeSpans(t, 50)
			began = time.Now()
			s.Stop()
			assert.Less(t, time.Since(began), timing.StopSpans+15*time.Second)
			assert.LessOrEqual(t, failures(), 1, "%s", said)
			assert.Contains(t, said.String(), "lost=1050", "none is lost in silence")
			assert.Less(t, strings.Count(said.String(), "\n"), 5, "%s", said)
		})
	}
}

func TestACollectorThatIsBack(t *testing.T) {
	var mu sync.Mutex
	status := http.StatusForbidden
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.WriteHeader(status)
	}))
	defer collector.Close()
	said := &log{}
	s, err := Start(t.Context(), traces(t, collector.URL), "outflow-starter", said.logger())
	require.NoError(t, err)
	makeSpans(t, 3)
	require.Eventually(t, func() bool { return strings.Contains(said.String(), "exporting spans fails") },
		20*time.Second, time.Millisecond)
	mu.Lock()
	status = http.StatusOK
	mu.Unlock()
	require.Eventually(t, func() bool {
		makeSpans(t, 1)
		return strings.Contains(said.String(), "exporting spans works again")
	}, 20*time.Second, 10*time.Millisecond)
	s.Stop()
	assert.Equal(t, 1, strings.Count(said.String(), "exporting spans fails"), "%s", said)
	assert.NotContains(t, said.String(), "lost=0")
}

// What somebody's own span says of its sampling holds.
func TestParentsDecide(t *testing.T) {
	c := traces(t, "http://127.0.0.1:1")
	s, err := Start(t.Context(), c, "outflow-starter", slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer s.Stop()
	parent := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1},
		Remote: true})
	_, span := otel.Tracer("test").Start(trace.ContextWithSpanContext(t.Context(), parent), "span")
	assert.False(t, span.IsRecording())
}
