package stack_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	sdk "go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/outflowhq/outflow/devstack/stack"
)

// TestStack looks at all parts of one stack: a process can hold only one.
func TestStack(t *testing.T) {
	t.Setenv("TEMPORAL_ADDRESS", "ambient:1")
	t.Setenv("PGHOST", "ambient")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := stack.Up(ctx, stack.Options{Ephemeral: true, Queues: []string{"welcome-email"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Down(); err != nil {
			t.Error(err)
		}
	})
	t.Run("the database is there and empty", func(t *testing.T) { checkDatabase(ctx, t, s) })
	t.Run("the Web UI answers and lists no run", func(t *testing.T) { checkUI(ctx, t, s) })
	t.Run("a start with search attributes is accepted and found", func(t *testing.T) { checkStart(ctx, t, s) })
	t.Run("a thousand starts at once meet no limit", func(t *testing.T) { checkManyStarts(ctx, t, s) })
	t.Run("the table names all", func(t *testing.T) { checkTable(t, s) })
}

func checkDatabase(ctx context.Context, t *testing.T, s *stack.Stack) {
	conn, err := pgx.Connect(ctx, s.DatabaseURL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for query, want := range map[string]string{
		"select current_database()": stack.Database,
		"select count(*)::text from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'public'": "0",
		"show wal_level": "logical", "show fsync": "off", "show max_connections": "300", "show listen_addresses": "127.0.0.1",
	} {
		var got string
		if err := conn.QueryRow(ctx, query).Scan(&got); err != nil || got != want {
			t.Errorf("%s: %q, want %q (%v)", query, got, want, err)
		}
	}
	if _, err := conn.Exec(ctx, "create extension pg_stat_statements; select count(*) from pg_stat_statements; drop extension pg_stat_statements"); err != nil {
		t.Errorf("pg_stat_statements: %v", err)
	}
}

func checkUI(ctx context.Context, t *testing.T, s *stack.Stack) {
	if page := get(ctx, t, s.UIURL()+"/"); !strings.Contains(strings.ToLower(page), "<html") {
		t.Errorf("the first page is no page: %.200s", page)
	}
	if list := get(ctx, t, s.UIURL()+"/api/v1/namespaces/default/workflows"); strings.Contains(list, "workflowId") {
		t.Errorf("a fresh stack lists runs: %.500s", list)
	}
}

func get(ctx context.Context, t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v", url, resp.Status, err)
	}
	return string(body)
}

var destination = sdk.NewSearchAttributeKeyKeyword("OutflowDestination")

func checkStart(ctx context.Context, t *testing.T, s *stack.Stack) {
	c := dial(t, s)
	state := sdk.NewSearchAttributeKeyKeyword("OutflowState")
	const queue = "check-start"
	w := worker.New(c, queue, worker.Options{})
	w.RegisterWorkflowWithOptions(func(ctx workflow.Context) (string, error) {
		return "done", workflow.UpsertTypedSearchAttributes(ctx, state.ValueSet("retrying"))
	}, workflow.RegisterOptions{Name: "Check"})
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: "check", TaskQueue: queue,
		EnableEagerStart: true,
		TypedSearchAttributes: sdk.NewSearchAttributes(destination.ValueSet("sqs://orders"),
			sdk.NewSearchAttributeKeyKeyword("OutflowType").ValueSet("user-registered"), state.ValueSet("pending"))}, "Check")
	if err != nil {
		t.Fatal(err)
	}
	var result string
	if err := run.Get(ctx, &result); err != nil || result != "done" {
		t.Fatalf("the run ended with %q, %v", result, err)
	}
	for {
		list, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Query: "OutflowDestination = 'sqs://orders' and OutflowState = 'retrying' and ExecutionStatus = 'Completed'"})
		if err != nil {
			t.Fatal(err)
		}
		if len(list.GetExecutions()) == 1 {
			return
		}
		if ctx.Err() != nil {
			t.Fatal("the run is not found by its search attributes")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// checkManyStarts starts as fast as it can what no worker takes, then reads as fast as it can what
// needs visibility.
func checkManyStarts(ctx context.Context, t *testing.T, s *stack.Stack) {
	c := dial(t, s)
	const n, atOnce = 1000, 100
	began := time.Now()
	each(t, n, atOnce, func(i int) error {
		_, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: fmt.Sprintf("many-%d", i), TaskQueue: "nobody",
			EnableEagerStart:      true,
			TypedSearchAttributes: sdk.NewSearchAttributes(destination.ValueSet("sqs://many"))}, "Nothing")
		return err
	})
	t.Logf("%d starts in %s", n, time.Since(began).Round(time.Millisecond))
	each(t, 100, 20, func(int) error {
		_, err := c.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{Query: "OutflowDestination = 'sqs://none'"})
		return err
	})
}

func each(t *testing.T, n, atOnce int, do func(int) error) {
	t.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := do(i); err != nil {
				t.Errorf("call %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

func dial(t *testing.T, s *stack.Stack) client.Client {
	t.Helper()
	c, err := client.Dial(client.Options{HostPort: s.TemporalAddress(), Namespace: "default", Logger: silent{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

type silent struct{}

func (silent) Debug(string, ...any) {}
func (silent) Info(string, ...any)  {}
func (silent) Warn(string, ...any)  {}
func (silent) Error(string, ...any) {}

func checkTable(t *testing.T, s *stack.Stack) {
	var b bytes.Buffer
	if err := s.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{s.DatabaseURL(), s.TemporalAddress(), s.UIURL(), s.QueueEndpoint(), "Data", "Logs"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table lacks %s:\n%s", want, &b)
		}
	}
}
