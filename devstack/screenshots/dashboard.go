package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/devstack/ports"
	"github.com/outflowhq/outflow/devstack/proc"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
	"github.com/outflowhq/outflow/workflows"
)

const (
	dashboardFile = "metrics.png"
	// The load of the picture: long enough for a burst, an outage of a queue, and its end.
	loadFor       = 3 * time.Minute
	loadEvery     = 250 * time.Millisecond
	scrapeEvery   = 2 * time.Second
	chartStep     = 2 * time.Second
	rateInterval  = "15s"
	prometheusUp  = 20 * time.Second
	dashboardUnit = 22 // pixels of a unit of Grafana's grid
)

// chart is a panel of the dashboard with what Prometheus answered.
type chart struct {
	Type, Title string
	GridPos     struct{ H, W, X, Y int }
	FieldConfig struct{ Defaults struct{ Unit string } }
	Targets     []struct{ Expr, LegendFormat string }

	series []series
}

type series struct {
	name   string
	points [][2]float64 // time, value
}

// takeDashboard puts the programs under load, and draws the dashboard's panels.
func takeDashboard(ctx context.Context, s *scene, p *page, root, folder string) (err error) {
	charts, err := readDashboard(filepath.Join(root, "deploy", "grafana", "outflow.json"))
	if err != nil {
		return err
	}
	address, stop, err := s.startPrometheus(ctx)
	if err != nil {
		return err
	}
	defer stop()
	from := time.Now()
	if err := s.load(ctx); err != nil {
		return err
	}
	var titles []string
	for i := range charts {
		if err := charts[i].ask(ctx, address, from, time.Now()); err != nil {
			return err
		}
		titles = append(titles, charts[i].Title)
	}
	listener, err := net.Listen("tcp", ports.Address(0))
	if err != nil {
		return fmt.Errorf("listening for the dashboard's page: %w", err)
	}
	html, tall := drawDashboard(charts)
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write([]byte(html))
		})}
	go func() { _ = server.Serve(listener) }() // until Close
	defer func() { err = errors.Join(err, server.Close()) }()
	if err := p.resize(ctx, tall); err != nil {
		return err
	}
	if err := p.show(ctx, dashboardFile, "http://"+listener.Addr().String(),
		expect{shows: titles, hides: []string{"no data"}}); err != nil {
		return err
	}
	return p.capture(ctx, filepath.Join(folder, dashboardFile))
}

func readDashboard(path string) ([]chart, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the dashboard: %w", err)
	}
	var board struct{ Panels []chart }
	if err := json.Unmarshal(text, &board); err != nil {
		return nil, fmt.Errorf("reading the dashboard: %w", err)
	}
	return board.Panels, nil
}

// startPrometheus has a Prometheus scrape the programs.
func (s *scene) startPrometheus(ctx context.Context) (address string, stop func(), err error) {
	binary, err := exec.LookPath("prometheus")
	if err != nil {
		return "", nil, errors.New("prometheus is not installed: apt-get install prometheus")
	}
	var targets []string
	for _, p := range s.programs {
		targets = append(targets, strconv.Quote(p.metrics))
	}
	configuration := filepath.Join(s.folder, "prometheus.yml")
	text := fmt.Sprintf("global: {scrape_interval: %s}\nscrape_configs: [{job_name: outflow, static_configs: [{targets: [%s]}]}]\n",
		scrapeEvery, strings.Join(targets, ", "))
	if err := os.WriteFile(configuration, []byte(text), 0o600); err != nil {
		return "", nil, fmt.Errorf("writing Prometheus's configuration: %w", err)
	}
	port, err := ports.Free()
	if err != nil {
		return "", nil, err
	}
	address = ports.Address(port)
	run, err := proc.Start(exec.Command(binary, "--config.file="+configuration, "--web.listen-address="+address,
		"--storage.tsdb.path="+filepath.Join(s.folder, "prometheus"), "--log.level=error"), syscall.SIGKILL)
	if err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = run.Signal(syscall.SIGKILL) // nothing of it is kept
		<-run.Done()
	}
	ctx, cancel := context.WithTimeoutCause(ctx, prometheusUp, fmt.Errorf("not ready within %s", prometheusUp))
	defer cancel()
	if err := s.poll(ctx, "Prometheus", func() (bool, error) { return isReady(ctx, address) }); err != nil {
		stop()
		return "", nil, err
	}
	return address, stop, nil
}

func isReady(ctx context.Context, address string) (bool, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/-/ready", nil)
	if err != nil {
		return false, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return false, err
	}
	return answer.StatusCode == http.StatusOK, answer.Body.Close()
}

// load enqueues a shop's messages: a steady flow, a burst, callbacks, a queue that is away
// for a while, and one that is not there.
func (s *scene) load(ctx context.Context) error {
	failing := fakesqs.Fault{Queue: queueOf(alsoOK), When: sends,
		Error: &fakesqs.Error{Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable", Message: busyReason}}
	for began, round := time.Now(), 0; time.Since(began) < loadFor; round++ {
		passed := time.Since(began)
		var messages []outflow.Message
		add := func(n int, m outflow.Message) {
			m.Payload = []byte(`{"user":41}`)
			for range n {
				messages = append(messages, m)
			}
		}
		add(4, outflow.Message{Destination: takes, Type: "user-registered"})
		add(1, outflow.Message{Destination: alsoOK, Type: "order-placed", Callback: takes})
		if passed > loadFor/2 && passed < loadFor/2+15*time.Second {
			add(40, outflow.Message{Destination: takes, Type: "newsletter"})
		}
		if round%40 == 0 {
			add(1, outflow.Message{Destination: missing, Type: "customer-changed"})
			add(2, outflow.Message{Destination: busy, Type: "invoice-issued", Callback: takes})
		}
		switch round {
		case 80:
			if err := s.oldMessages(ctx); err != nil {
				return err
			}
		case 160:
			s.queues.Inject(failing)
		case 320:
			s.queues.Heal(queueOf(alsoOK))
		}
		if err := s.enqueueAll(ctx, messages); err != nil {
			return err
		}
		select {
		case <-time.After(loadEvery):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// oldMessages leaves a purge something to do, and a lease to run out.
func (s *scene) oldMessages(ctx context.Context) error {
	for _, sql := range []string{
		`INSERT INTO outbox.messages (id, destination, type, payload, state, finished_at)
		 SELECT gen_random_uuid(), '` + takes + `', 'user-registered', '{}', 'delivered', now() - interval '90 days' FROM generate_series(1, 5000)`,
		`INSERT INTO outbox.messages (id, destination, type, payload, started, claims)
		 SELECT gen_random_uuid(), '` + takes + `', 'user-registered', '{}', true, 1 FROM generate_series(1, 5)`,
	} {
		if _, err := s.pool.Exec(ctx, sql); err != nil {
			return fmt.Errorf("writing old messages: %w", err)
		}
	}
	purge := s.client.ScheduleClient().GetHandle(ctx, workflows.MaintainID(outflow.DefaultOutbox))
	return purge.Trigger(ctx, client.ScheduleTriggerOptions{})
}

func (s *scene) enqueueAll(ctx context.Context, messages []outflow.Message) error {
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		return fmt.Errorf("enqueuing: %w", err)
	}
	defer tx.Rollback(ctx) //nolint:errcheck // after the commit there is nothing to roll back
	if _, err := outboxdb.Enqueue(ctx, tx, messages...); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// ask has Prometheus answer the panel's queries.
func (c *chart) ask(ctx context.Context, address string, from, to time.Time) error {
	for _, target := range c.Targets {
		query := url.Values{
			"query": {strings.ReplaceAll(target.Expr, "$__rate_interval", rateInterval)},
			"start": {strconv.FormatInt(from.Unix(), 10)}, "end": {strconv.FormatInt(to.Unix(), 10)},
			"step": {strconv.Itoa(int(chartStep.Seconds()))},
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet,
			"http://"+address+"/api/v1/query_range?"+query.Encode(), nil)
		if err != nil {
			return fmt.Errorf("asking for the panel %q: %w", c.Title, err)
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return fmt.Errorf("asking for the panel %q: %w", c.Title, err)
		}
		var found struct {
			Error string
			Data  struct {
				Result []struct {
					Metric map[string]string
					Values [][2]any
				}
			}
		}
		err = errors.Join(json.NewDecoder(answer.Body).Decode(&found), answer.Body.Close())
		if err == nil && found.Error != "" {
			err = errors.New(found.Error)
		}
		if err != nil {
			return fmt.Errorf("asking for the panel %q: %w", c.Title, err)
		}
		for _, r := range found.Data.Result {
			one := series{name: legend(target.LegendFormat, r.Metric)}
			for _, v := range r.Values {
				at, _ := v[0].(float64)
				text, _ := v[1].(string)
				if value, err := strconv.ParseFloat(text, 64); err == nil && value-value == 0 { // no NaN, no infinity
					one.points = append(one.points, [2]float64{at, value})
				}
			}
			if len(one.points) > 0 {
				c.series = append(c.series, one)
			}
		}
	}
	return nil
}

var placeholder = regexp.MustCompile(`\{\{\s*(\w+)\s*\}\}`)

func legend(format string, labels map[string]string) string {
	return placeholder.ReplaceAllStringFunc(format,
		func(p string) string { return labels[placeholder.FindStringSubmatch(p)[1]] })
}
