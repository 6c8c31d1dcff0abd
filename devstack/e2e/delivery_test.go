package e2e

import (
	"encoding/base64"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/history/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

func TestTwoStartersDeliverEverythingOnce(t *testing.T) {
	w := newWorld(t)
	const n = 2000
	ids := w.enqueue(n, to("sqs://orders"))
	began := time.Now()
	w.start("outflow-worker")
	w.start("outflow-starter")
	w.start("outflow-starter")
	w.eventually(2*time.Minute, "every row delivered", func() bool { return w.count("state = 'delivered'") == n })
	lost, duplicates := w.report("orders", ids, began)
	require.Zero(t, lost, "lost")
	require.Zero(t, duplicates, "duplicates")
	require.Len(t, w.Arrivals("orders"), n)
	require.Equal(t, n, w.count("attempts = 1 AND broker_message_id IS NOT NULL AND NOT retrying"))
}

func TestStarterKilledInMidBacklog(t *testing.T) {
	w := newWorld(t)
	// The killed starter's messages come back when their leases run out.
	w.env = append(w.env, "OUTFLOW_LEASE=30s")
	const n = 2000
	ids := w.enqueue(n, to("sqs://orders"))
	w.start("outflow-worker")
	victim := w.start("outflow-starter")
	w.eventually(time.Minute, "a backlog being worked on", func() bool { return w.count("state = 'delivered'") > n/10 })
	require.NoError(t, victim.Signal(syscall.SIGKILL))
	<-victim.Done()
	inFlight := w.count("state = 'pending' AND available_at > now()")
	require.Positive(t, w.count("state = 'pending'"), "the kill came in the middle")

	killed := time.Now()
	w.start("outflow-starter")
	w.eventually(3*time.Minute, "every row delivered", func() bool { return w.count("state = 'delivered'") == n })
	lost, duplicates := w.report("orders", ids, killed)
	t.Logf("in flight at the kill %d", inFlight)
	require.Zero(t, lost, "lost")
	require.LessOrEqual(t, duplicates, inFlight, "only what was in flight may be published twice")
}

func TestLeaseExpiresBesideALiveRun(t *testing.T) {
	w := newWorld(t)
	w.queues.Inject(refusesEntries)
	ids := w.enqueue(1, to("sqs://orders"))
	w.start("outflow-worker")
	w.start("outflow-starter")
	w.eventually(30*time.Second, "the run is off its fast path",
		func() bool { return w.count("retrying AND attempts >= 2") == 1 })

	// Its lease runs out while the run waits for its next attempt.
	_, err := w.pool.Exec(t.Context(), "UPDATE outbox.messages SET available_at = now() WHERE id = $1", ids[0])
	require.NoError(t, err)
	w.eventually(10*time.Second, "a claim met the live run and was not counted", func() bool {
		return w.count("available_at > now() AND claims = 0") == 1
	})
	w.queues.Heal("")
	healed := time.Now()
	w.eventually(time.Minute, "delivered by the live run", func() bool { return w.count("state = 'delivered'") == 1 })

	lost, duplicates := w.report("orders", ids, healed)
	require.Zero(t, lost)
	require.Zero(t, duplicates)
	require.Len(t, w.runs(ids[0].String()), 1, "the message had one run")
}

func TestHistoryOfOneDelivery(t *testing.T) {
	w := newWorld(t)
	const marker = "payload-marker-7f3a91"
	w.start("outflow-starter")
	ids := w.enqueue(1, func(int) outflow.Message {
		return outflow.Message{Destination: "sqs://orders", Type: "order-placed",
			Payload: []byte(`{"secret":"` + marker + `"}`)}
	})
	w.eventually(30*time.Second, "delivered", func() bool { return w.count("state = 'delivered'") == 1 })
	var outcome outflow.Outcome
	require.NoError(t, w.client.GetWorkflow(t.Context(), w.workflowID(ids[0]), "").Get(t.Context(), &outcome))
	require.Equal(t, outflow.Delivered, outcome.State)

	events := w.history(ids[0].String())
	tasks := 0
	for _, e := range events {
		if e.EventType == enums.EVENT_TYPE_WORKFLOW_TASK_STARTED {
			tasks++
		}
	}
	require.Equal(t, 1, tasks, "workflow tasks")
	require.LessOrEqual(t, len(events), 7, "history events")

	exported, err := protojson.Marshal(&history.History{Events: events})
	require.NoError(t, err)
	require.Contains(t, string(exported), base64.StdEncoding.EncodeToString([]byte("\"`order-placed` to `sqs://orders`\"")), "the summary is there")
	require.Zero(t, hits(string(exported), marker), "the payload is nowhere in the history")
	// The search itself finds what is there.
	require.Positive(t, hits(string(exported), ids[0].String()))
	require.Contains(t, w.queues.Messages("", "orders")[0].MessageBody, marker)
}

func TestIdleStarterLooksOncePerInterval(t *testing.T) {
	w := newWorld(t)
	if _, err := w.pool.Exec(t.Context(), "CREATE EXTENSION IF NOT EXISTS pg_stat_statements"); err != nil {
		t.Fatalf("pg_stat_statements is missing: install Postgres's contrib package: %v", err)
	}
	w.env = append(w.env, "OUTFLOW_POLL_INTERVAL=200ms")
	calls := func() (n int) {
		require.NoError(t, w.pool.QueryRow(t.Context(), `SELECT coalesce(sum(calls), 0) FROM pg_stat_statements
			WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
			  AND query LIKE '%outbox.messages%' AND query NOT LIKE '%pg_stat_statements%' AND query NOT LIKE '%to_regclass%'`).Scan(&n))
		return n
	}
	migrated := calls()
	w.start("outflow-starter")
	// The first looks have others beside them, such as one for pages that streams have left behind.
	w.eventually(20*time.Second, "the starter looks at the table", func() bool { return calls() >= migrated+10 })
	began, before := time.Now(), calls()
	w.eventually(20*time.Second, "some more looks", func() bool { return calls() >= before+10 })
	looks, intervals := calls()-before, int(time.Since(began)/(200*time.Millisecond))
	// One for what has become due, one for the destinations.
	require.LessOrEqual(t, looks, 2*(intervals+1), "statements of an idle starter in %d intervals", intervals)
}

func TestOnce(t *testing.T) {
	w := newWorld(t)
	w.queues.Inject(fakesqs503("down"))
	ids := w.enqueue(25, to("sqs://up"))
	w.enqueue(2, to("sqs://down"))
	w.enqueue(3, func(i int) outflow.Message {
		m := to("sqs://up")(i)
		m.DueIn = time.Hour
		return m
	})
	p := w.start("outflow-starter", "-once", "-time-limit", "8s")
	require.NoError(t, p.Err(), "%s", p.Output)
	require.Contains(t, p.Output.String(), "once: left 2 in backoff, 3 delayed, 0 not started\n  sqs://down: 2 in backoff; last error: ")
	missing, duplicates := w.tally("up", ids)
	require.Zero(t, missing)
	require.Zero(t, duplicates)

	// A later pass takes up what was left: its runs are still open.
	w.queues.Heal("")
	p = w.start("outflow-starter", "-once", "-time-limit", "60s")
	require.NoError(t, p.Err(), "%s", p.Output)
	require.Contains(t, p.Output.String(), "once: left 0 in backoff, 3 delayed, 0 not started")
	require.Equal(t, 27, w.count("state = 'delivered'"))
}

func TestOrderlyStopLosesAndRepeatsNothing(t *testing.T) {
	w := newWorld(t)
	const n = 1500
	ids := w.enqueue(n, to("sqs://orders"))
	w.start("outflow-worker")
	began := time.Now()
	for stops := 1; stops <= 3; stops++ {
		p := w.start("outflow-starter")
		w.eventually(time.Minute, "some deliveries", func() bool { return w.count("state = 'delivered'") >= stops*n/5 })
		w.stop(p)
		// What the worker has taken over ends at once; nothing waits for a lease or a task that
		// nobody holds.
		w.eventually(5*time.Second, "a stopped starter leaves nothing half done", func() bool {
			return w.count("state = 'pending' AND available_at > now()") == 0
		})
	}
	w.start("outflow-starter")
	w.eventually(time.Minute, "every row delivered", func() bool { return w.count("state = 'delivered'") == n })
	lost, duplicates := w.report("orders", ids, began)
	require.Zero(t, lost)
	require.Zero(t, duplicates)
}

func TestUnknownQueueEndsDeadAndStopsNobody(t *testing.T) {
	w := newWorld(t)
	w.env = append(w.env, "OUTFLOW_MISSING_GRACE=3s")
	w.queues.AutoCreate = false
	w.queues.CreateQueue("", "orders", nil)
	good := w.enqueue(50, to("sqs://orders"))
	bad := w.enqueue(1, to("sqs://nowhere"))
	w.start("outflow-starter")
	w.eventually(time.Minute, "all ended", func() bool {
		return w.count("state = 'delivered'") == 50 &&
			w.count("state = 'dead'") == 1
	})
	missing, duplicates := w.tally("orders", good)
	require.Zero(t, missing)
	require.Zero(t, duplicates)

	store := outboxdb.New(w.pool)
	record, err := store.Load(t.Context(), outbox.Ref{ID: bad[0], Generation: 1})
	require.NoError(t, err)
	require.Contains(t, record.LastError, "nowhere")
	runs := w.runs(bad[0].String())
	require.Len(t, runs, 1)
	w.eventually(10*time.Second, "its run ended when the message was left to its row", func() bool {
		d, err := w.client.DescribeWorkflowExecution(t.Context(), w.workflowID(bad[0]), "")
		return err == nil && d.WorkflowExecutionInfo.Status == enums.WORKFLOW_EXECUTION_STATUS_COMPLETED
	})
}

// hits counts text in exported, as it is and as base64 would hold it at each of
// the three alignments.
func hits(exported, text string) int {
	n := strings.Count(exported, text)
	for shift := range 3 {
		encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + text))
		// Without the characters that also depend on the neighbours.
		n += strings.Count(exported, strings.TrimRight(encoded,
			"=")[4*min(shift, 1):len(strings.TrimRight(encoded, "="))-2])
	}
	return n
}
