package service

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/testport"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
	"github.com/outflowhq/outflow/publish/webhook"
	"github.com/outflowhq/outflow/workflows"
)

const (
	metricsPage = "../../docs/metrics.md"
	alertsFile  = "../../deploy/prometheus/alerts.yaml"
	dashboard   = "../../deploy/grafana/outflow.json"
)

// TestMetricsOfALiveProcess: a starter exports every metric that the page, the alerts and
// the dashboard name, and the page has every metric that it exports. Where there is a
// Prometheus, it accepts the rules, and every panel shows something.
func TestMetricsOfALiveProcess(t *testing.T) {
	w := newWorld(t)
	address := startWithMetrics(t, w)
	everythingHappens(t, w)
	exported := map[string]bool{}
	named := slices.Concat(namedMetrics(t, dashboard), namedMetrics(t, metricsPage))
	assert.Eventually(t, func() bool {
		exported = exportedMetrics(t, address)
		return slices.IndexFunc(named, func(name string) bool { return !exported[name] }) < 0
	}, time.Minute, time.Second, "what the dashboard and the page name")

	for _, file := range []string{alertsFile, dashboard, metricsPage} {
		for _, name := range namedMetrics(t, file) {
			assert.True(t, exported[name], "%s names %s, which is not exported", file, name)
		}
	}
	documented := namedMetrics(t, metricsPage)
	for name := range exported {
		if strings.HasPrefix(name, "outflow_") {
			assert.Contains(t, documented, name, "docs/metrics.md leaves it out")
		}
	}
	t.Run("Prometheus", func(t *testing.T) { askPrometheus(t, address) })
}

// startWithMetrics runs a starter whose queues are at hand, and returns its address.
func startWithMetrics(t *testing.T, w *world) (address string) {
	broker := &fakesqs.Server{}
	for _, name := range []string{"orders", "replies", "broken"} {
		broker.CreateQueue("", name, nil)
	}
	broker.Inject(fakesqs.Fault{Action: "SendMessageBatch", Queue: "broken",
		Error: &fakesqs.Error{Status: 503, Code: "ServiceUnavailable"}})
	queues := httptest.NewServer(broker)
	t.Cleanup(queues.Close)
	c := config.Config{
		HealthAddress: "127.0.0.1:0", Database: w.pool.Config(), Temporal: client.Options{HostPort: teststack.Temporal(t)},
		Brokers: brokersOf(aws.Config{Region: "eu-west-1", BaseEndpoint: aws.String(queues.URL),
			Credentials: credentials.NewStaticCredentialsProvider("AKIAFAKE", "fake", "")}, webhook.Options{}),
		Scanner: w.opts, Retention: outflow.Retention{Delivered: outflow.Keep(time.Hour)},
	}
	log := &announced{}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Starter(ctx, c, slog.New(slog.NewTextHandler(log, nil))) }()
	t.Cleanup(func() {
		stop()
		assert.NoError(t, <-ended)
	})
	w.eventually(func() bool {
		if log.url() == "" {
			return false
		}
		status, _ := probe(t, log.url()+"/readyz")
		return status == http.StatusOK
	}, log.String)
	return strings.TrimPrefix(log.url(), "http://")
}

// everythingHappens has messages delivered, retried and given up, a callback sent and
// another refused, a lease that ran out, a breaker open, and a purge.
func everythingHappens(t *testing.T, w *world) {
	var messages []outflow.Message
	for range 20 {
		messages = append(messages, outflow.Message{Destination: "sqs://orders", Type: "a", Payload: []byte("{}")})
	}
	messages[0].Callback = "sqs://replies"
	for range 3 {
		messages = append(messages, outflow.Message{Destination: "sqs://broken", Type: "a", Payload: []byte("{}")},
			outflow.Message{Destination: "sqs://missing", Type: "a", Payload: []byte("{}"), Callback: "sqs://broken"})
	}
	require.NoError(t, pgx.BeginFunc(t.Context(), w.pool, func(tx pgx.Tx) error {
		_, err := outboxdb.Enqueue(t.Context(), tx, messages...)
		return err
	}))
	for _, sql := range []string{
		`INSERT INTO outbox.messages (id, destination, type, payload, state, finished_at)
		 VALUES (gen_random_uuid(), 'sqs://orders', 'a', '{}', 'delivered', now() - interval '2 hours')`,
		`INSERT INTO outbox.messages (id, destination, type, payload, started, claims) VALUES (gen_random_uuid(), 'sqs://orders', 'a', '{}', true, 1)`,
		`INSERT INTO outbox.destinations (destination, failures, failing_since, openings, open_until)
		 VALUES ('sqs://broken', 1, now(), 1, now() + interval '1 hour')
		 ON CONFLICT (destination) DO UPDATE SET failing_since = now(), openings = 1, open_until = now() + interval '1 hour'`,
	} {
		_, err := w.pool.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	handle := w.client.ScheduleClient().GetHandle(t.Context(), workflows.MaintainID(w.opts.Outbox))
	w.eventually(func() bool { return handle.Trigger(t.Context(), client.ScheduleTriggerOptions{}) == nil },
		func() string { return "no schedule" })
	t.Cleanup(func() { _ = handle.Delete(context.Background()) })
}

// exportedMetrics are the names of the metrics that a process exports, without those that
// a histogram adds.
func exportedMetrics(t *testing.T, address string) map[string]bool {
	status, text := probe(t, "http://"+address+"/metrics")
	require.Equal(t, http.StatusOK, status)
	names := map[string]bool{}
	for line := range strings.Lines(text) {
		if kind, found := strings.CutPrefix(line, "# TYPE "); found {
			names[strings.Fields(kind)[0]] = true
		}
	}
	return names
}

var (
	metricName = regexp.MustCompile(`\b(outflow|temporal)_[a-z_]*[a-z]\b`)
	histogram  = regexp.MustCompile(`_(bucket|sum|count)$`)
)

// namedMetrics are the metrics that a file names.
func namedMetrics(t *testing.T, file string) (names []string) {
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, name := range metricName.FindAllString(string(text), -1) {
		names = append(names, histogram.ReplaceAllString(name, ""))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// askPrometheus has a real Prometheus scrape the process, load the rules and answer the
// dashboard's queries.
func askPrometheus(t *testing.T, target string) {
	binary, err := exec.LookPath("prometheus")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("prometheus is missing; .ci/run installs it")
		}
		t.Skip("prometheus is not installed (apt-get install prometheus)")
	}
	rules, err := filepath.Abs(alertsFile)
	require.NoError(t, err)
	out, err := exec.CommandContext(t.Context(), "promtool", "check", "rules", rules).CombinedOutput()
	require.NoError(t, err, "%s", out)

	folder := t.TempDir()
	configuration := filepath.Join(folder, "prometheus.yml")
	require.NoError(t, os.WriteFile(configuration, fmt.Appendf(nil,
		"global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs: [{job_name: outflow, static_configs: [{targets: [%q]}]}]\n", rules, target), 0o600))
	server := testport.Reserve(t).Address
	run := exec.CommandContext(t.Context(), binary, "--config.file="+configuration,
		"--storage.tsdb.path="+filepath.Join(folder, "data"), "--web.listen-address="+server, "--log.level=warn")
	log, err := os.Create(filepath.Join(folder, "log"))
	require.NoError(t, err)
	run.Stdout, run.Stderr = log, log
	require.NoError(t, run.Start())
	defer func() { _ = run.Process.Kill(); _ = run.Wait() }()

	for _, panel := range panels(t) {
		for _, query := range panel.queries {
			require.Eventually(t, func() bool {
				var answer struct {
					Data struct{ Result []json.RawMessage }
				}
				get(server, "/api/v1/query?query="+url.QueryEscape(strings.ReplaceAll(query, "$__rate_interval",
					"30s")), &answer)
				return len(answer.Data.Result) > 0
			}, 30*time.Second, 500*time.Millisecond, "panel %q shows nothing: %s", panel.title, query)
		}
	}
	var groups struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
	}
	get(server, "/api/v1/rules", &groups)
	require.NotEmpty(t, groups.Data.Groups)
	for _, rule := range groups.Data.Groups[0].Rules {
		assert.Equal(t, "ok", rule.Health, "%s: %s", rule.Name, rule.LastError)
	}
}

func get(server, path string, into any) {
	resp, err := http.Get("http://" + server + path)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	_ = json.NewDecoder(resp.Body).Decode(into)
}

type panel struct {
	title   string
	queries []string
}

// panels are the dashboard's.
func panels(t *testing.T) (all []panel) {
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	text, err := os.ReadFile(dashboard)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &board))
	for _, p := range board.Panels {
		one := panel{title: p.Title}
		for _, target := range p.Targets {
			one.queries = append(one.queries, target.Expr)
		}
		all = append(all, one)
	}
	return all
}

// TestAlertsHavePages: each alert's page is a heading of docs/metrics.md.
func TestAlertsHavePages(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(metricsPage)
	require.NoError(t, err)
	alerts, err := os.ReadFile(alertsFile)
	require.NoError(t, err)
	names := regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(string(alerts), -1)
	require.NotEmpty(t, names)
	for _, name := range names {
		assert.Contains(t, string(page), "\n### "+name[1]+"\n")
		assert.Contains(t, string(alerts), "docs/metrics.md#"+strings.ToLower(name[1])+"\n")
	}
}
