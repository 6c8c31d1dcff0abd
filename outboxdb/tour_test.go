package outboxdb_test

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/wait"
)

// tour sends every statement on pool and looks at what it answers; setup is another
// way into the same database.
func tour(t *testing.T, setup, pool *pgxpool.Pool) {
	t.Helper()
	watched, seen := traced(t, pool)
	tourProducer(t, setup, watched)
	tourDispatcher(t, setup, watched)
	tourMissing(t, setup, watched)
	tourListener(t, setup, watched, seen)
	tourBreaker(t, setup, watched)
	tourPurge(t, setup, watched)
	tourOperator(t, setup, watched)
	tourOrder(t, setup, watched)
	tourStream(t, setup, watched)
	sent := seen.take()
	known := slices.Concat(outboxdb.Statements, outboxdb.StreamStatements, operatorStatements(t, setup))
	for _, statement := range known {
		if !slices.Contains(sent, statement) {
			assert.Failf(t, "the tour leaves a statement out", "%.200s", strings.TrimSpace(statement))
		}
	}
	ofWaiters := []string{`LISTEN "outflow_ended"`, "outbox.keep_waiter(", "outbox.outcomes("}
	if isDirect(setup, pool) { // through a pooler no notification arrives
		ofWaiters = append(ofWaiters, "pg_current_snapshot()", "outbox.drop_waiter(")
	}
	for _, part := range ofWaiters {
		assert.True(t, slices.ContainsFunc(sent, func(s string) bool { return strings.Contains(s, part) }),
			"the tour leaves %s out", part)
	}
}

// awkward is a message whose every value is written in another way by some setting.
func awkward() outflow.Message {
	return outflow.Message{
		Destination: "sqs://orders", Type: "order/placed", Payload: []byte{0, '\\', 0xff, '\'',
			'x'}, ContentType: "text/plain",
		Headers:     map[string]string{"who": "日本 \\ ' \" é \U0001F600"},
		OrderingKey: `k\'1`, DueAt: time.Date(2020, 3, 4, 5, 6, 7, 89_000, time.UTC), ExpiresIn: 25*time.Hour +
			1500*time.Microsecond,
		Callback: "https://example.com/a(b)'", CallbackPayload: true,
	}
}

func tourProducer(t *testing.T, setup, pool *pgxpool.Pool) {
	t.Helper()
	sent, given := awkward(), awkward()
	given.ID = uuid.New()
	inTx(t, pool, func(tx pgx.Tx) {
		ids, err := outboxdb.Enqueue(t.Context(), tx, sent)
		require.NoError(t, err)
		sent.ID = ids[0]
		bad := message("sqs://日本")
		_, err = outboxdb.Enqueue(t.Context(), tx, bad)
		require.ErrorContains(t, err, "日本", "the refusal quotes what was given")
		bad = message("sqs://orders?region=eu-west-1&account=123456789012")
		bad.Headers = map[string]string{"no spaces": "in names"}
		_, err = outboxdb.Enqueue(t.Context(), tx, bad)
		require.ErrorContains(t, err, "a name wants 1 to 128 letters")
		bad.Headers = nil
		_, err = outboxdb.Enqueue(t.Context(), tx, bad)
		require.NoError(t, err, "patterns with backslashes mean what they say")
		written, err := outboxdb.EnqueueIfAbsent(t.Context(), tx, given, given)
		require.NoError(t, err)
		require.Equal(t, []uuid.UUID{given.ID}, written)
	})
	direct := pool.Config().ConnConfig.Port == setup.Config().ConnConfig.Port
	db := stdlib.OpenDBFromPool(another(t, pool, func(c *pgxpool.Config) {
		if !direct && c.ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
			// A producer prepares no statements behind a pooler (docs/running.md).
			c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
		}
	}))
	defer db.Close()
	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = outboxdb.EnqueueSQLIfAbsent(t.Context(), tx, given)
	require.NoError(t, err)
	other := awkward()
	ids, err := outboxdb.EnqueueSQL(t.Context(), tx, other)
	require.NoError(t, err)
	require.NoError(t, tx.Commit())
	for _, id := range []uuid.UUID{sent.ID, given.ID, ids[0]} {
		r := value[map[string]any](t, setup,
			`
			SELECT to_jsonb(m) || jsonb_build_object('payload', encode(m.payload, 'hex'),
			           'life', extract(epoch FROM m.expires_at - m.enqueued_at))
			  FROM outbox.messages AS m WHERE id = $1`, id)
		assert.Equal(t, awkward().Headers["who"], r["headers"].(map[string]any)["who"])
		assert.Equal(t, "005cff2778", r["payload"])
		assert.Equal(t, awkward().OrderingKey, r["ordering_key"])
		assert.Equal(t, awkward().Callback, r["callback"])
		assert.InDelta(t, awkward().ExpiresIn.Seconds(), r["life"], 1e-6)
		assert.Equal(t, "2020-03-04T05:06:07.000089+00:00", r["due_at"])
	}
}

// fresh replaces all messages by a new one.
func fresh(t *testing.T, setup *pgxpool.Pool) uuid.UUID {
	t.Helper()
	execute(t, setup, `TRUNCATE outbox.messages, outbox.destinations`)
	return enqueue(t, setup, awkward())[0]
}

func tourDispatcher(t *testing.T, setup, pool *pgxpool.Pool) {
	t.Helper()
	ctx, store := t.Context(), outboxdb.New(pool)
	require.NoError(t, store.Ping(ctx))
	want := awkward()
	same := func(r outbox.Record) {
		t.Helper()
		assert.Equal(t, want.Payload, r.Payload)
		assert.Equal(t, want.Headers, r.Headers)
		assert.Equal(t, want.OrderingKey, r.OrderingKey)
		assert.True(t, want.DueAt.Equal(r.DueAt), "%s", r.DueAt)
		assert.False(t, r.Expired)
	}
	id := fresh(t, setup)
	claimed := claim(t, store, request())
	require.Equal(t, []uuid.UUID{id}, idsOf(claimed))
	same(claimed.Messages[0].Record)
	assert.InDelta(t, 60, stands(t, setup, id).LeasedFor, 20)
	refusing, parked := request(), outboxdb.New(pool)
	refusing.Refuse = func(string) error { return errors.New("日: the host is not allowed") }
	execute(t, setup, `UPDATE outbox.messages SET available_at = now(), parked = true`)
	require.Empty(t, claim(t, parked, refusing).Messages)
	assert.Contains(t, *stands(t, setup, id).LastError, "日")
	execute(t, setup, `UPDATE outbox.messages SET available_at = $1`, claimed.Messages[0].LeasedUntil)
	require.NoError(t, store.GiveBack(ctx, claimed.Messages[0], outbox.RunOpen))
	require.NoError(t, store.GiveBack(ctx, claimed.Messages[0], outbox.NotStarted))
	assert.True(t, value[bool](t, setup, `SELECT available_at <= now() FROM outbox.messages WHERE id = $1`, id))
	execute(t, setup, `UPDATE outbox.messages SET claims = 5`)
	alone, err := store.ClaimIsolated(ctx, time.Minute)
	require.NoError(t, err)
	require.Len(t, alone, 1)
	require.NoError(t, makeWay(ctx, store, ref(id)))

	for _, load := range []func() (outbox.Record, error){
		func() (outbox.Record, error) { return outboxdb.New(pool).Load(ctx, ref(id)) },
		func() (outbox.Record, error) { return store.LoadAgain(ctx, ref(id)) },
		func() (outbox.Record, error) {
			return store.Renew(ctx, outbox.Renewal{Ref: ref(id), Lease: time.Minute, LastError: awkwardError,
				Attempts: 1})
		},
	} {
		r, err := load()
		require.NoError(t, err)
		same(r)
	}
	s := stands(t, setup, id)
	assert.Equal(t, awkwardError, *s.LastError)
	assert.InDelta(t, 60, s.LeasedFor, 20)
	_, err = store.PutBack(ctx, outbox.PutBack{Ref: ref(id), LastError: awkwardError})
	require.NoError(t, err)
	_, err = store.Load(ctx, ref(uuid.New()))
	require.ErrorIs(t, err, outflow.ErrNotFound)
	execute(t, setup, `UPDATE outbox.messages SET payload = convert_to(repeat('p', 10000), 'UTF8')`)
	large, err := outboxdb.New(pool).Load(ctx, ref(id))
	require.NoError(t, err)
	payload, err := outboxdb.New(pool).LoadPayload(ctx, large)
	require.NoError(t, err)
	require.Len(t, payload, 10_000)
	counts, err := store.Pending(ctx)
	require.NoError(t, err)
	require.Equal(t, awkwardError, counts[0].LastError)

	execute(t, setup, `DELETE FROM outbox.waiters`)
	waiter, answers := startWait(t, setup, pool, id)
	if seen := pool.Config().ConnConfig.Tracer.(*tracer); isDirect(setup, pool) {
		require.Eventually(t, func() bool { return seen.has("pg_current_snapshot") }, 20*time.Second, time.Millisecond,
			"no notification arrives")
	}
	outcome, err := store.Finish(ctx, outbox.Ending{Ref: ref(id), State: outflow.Delivered, BrokerMessageID: "b é",
		Attempts: 1})
	require.NoError(t, err)
	require.Equal(t, "b é", outcome.BrokerMessageID)
	require.Equal(t, "b é", requireAnswer(t, answers).BrokerMessageID)
	waiter.Close()
	again, err := store.Finish(ctx, outbox.Ending{Ref: ref(id), State: outflow.Dead, LastError: "late", Attempts: 1})
	require.NoError(t, err)
	require.Equal(t, outflow.Delivered, again.State)

	execute(t, setup, `UPDATE outbox.messages SET callback_due_at = now() - interval '1 minute'`)
	due, err := store.TakeCallbacks(ctx, 10, time.Minute)
	require.NoError(t, err)
	require.Len(t, due, 1)
	c, isDue, err := store.BeginCallback(ctx, ref(id), time.Minute)
	require.NoError(t, err)
	require.True(t, isDue)
	require.Len(t, c.Payload, 10_000)
	noted, err := store.NoteCallback(ctx, outbox.CallbackNote{Ref: ref(id), End: outflow.Delivered,
		State: outbox.CallbackFailed, LastError: awkwardError})
	require.NoError(t, err)
	require.True(t, noted)
	_, err = store.TableHealth(ctx, time.Minute)
	require.NoError(t, err)
}

func tourListener(t *testing.T, setup, pool *pgxpool.Pool, seen *tracer) {
	t.Helper()
	ctx, store, id := t.Context(), outboxdb.New(pool), uuid.New()
	require.NoError(t, store.KeepListener(ctx, outbox.Listener{ID: id, ByProducers: true}))
	require.NoError(t, store.KeepReader(ctx, id, time.Minute))
	rest, err := store.Rest(ctx, id)
	require.NoError(t, err)
	require.True(t, rest.Registered && rest.LogRead)
	require.NoError(t, store.PassOn(ctx, id, 0))
	require.False(t, value[bool](t, setup, `SELECT l.idle FROM outbox.listeners AS l`))
	require.NoError(t, store.Release(ctx, outbox.Leased{Ref: outbox.Ref{ID: uuid.New(), Generation: 1}}))
	require.Eventually(t, func() bool { return seen.has("SELECT outbox.hint()") }, time.Minute, time.Millisecond)
	require.NoError(t, store.DropListener(ctx, id))
	process := outbox.Process{
		ID: uuid.New(), Name: "outflow-starter", Scans: true, Trigger: "wal", TriggerProblem: awkwardError,
	}
	require.NoError(t, store.Announce(ctx, process))
	require.Contains(t, findings(t, pool)["trigger warn"].Text, "trigger wal does not work")
	require.NoError(t, store.Withdraw(ctx, process.ID))
}

func tourMissing(t *testing.T, setup, pool *pgxpool.Pool) {
	t.Helper()
	ctx, store := t.Context(), outboxdb.New(pool)
	execute(t, setup, `TRUNCATE outbox.messages, outbox.destinations`)
	ids := enqueue(t, setup, message("sqs://missing"), message("sns://news"))
	process := outbox.Process{ID: uuid.New(), Name: "outflow-starter", Host: "here", Schemes: []string{"sqs"},
		Scans: true}
	require.NoError(t, store.Announce(ctx, process))
	require.Equal(t, "here", value[string](t, setup, `SELECT host FROM outbox.processes`))
	require.Equal(t, ids[:1], idsOf(claim(t, store, graceful())))
	store.Observe("sqs://missing", ids[0], outbox.Observation{Err: errMissing, Missing: true})
	waitFor(t, setup, isMissing, "sqs://missing")
	waitFor(t, setup, isMissing, "sns:")
	putBack := outbox.PutBack{Ref: ref(ids[0]), LastError: awkwardError,
		Missing: &outbox.Missing{Grace: time.Minute, Attempts: 1}}
	_, err := store.PutBack(ctx, putBack)
	require.NoError(t, err)
	require.Equal(t, awkwardError, *stands(t, setup, ids[0]).LastError)
	waited(t, setup, time.Hour)
	_, err = store.PutBack(ctx, putBack)
	require.ErrorIs(t, err, outbox.ErrGraceOver)
	execute(t, setup, `UPDATE outbox.messages SET parked = false`)
	execute(t, setup, `UPDATE outbox.processes SET started_at = now() - interval '1 hour'`)
	require.Len(t, look(t, store, graceful()).Ended, 2)
	require.NoError(t, store.Withdraw(ctx, process.ID))
	require.Zero(t, value[int](t, setup, `SELECT count(*) FROM outbox.processes`))
}

func tourBreaker(t *testing.T, setup, pool *pgxpool.Pool) {
	t.Helper()
	ctx := t.Context()
	execute(t, setup, `TRUNCATE outbox.messages, outbox.destinations`)
	id := enqueue(t, setup, message("sqs://down"))[0]
	store := outboxdb.New(pool)
	for range 5 {
		fail(store, "sqs://down", errDown)
	}
	waitFor(t, setup, isOpen, "sqs://down")
	probeNow(t, setup)
	probes, err := store.TakeProbes(ctx)
	require.NoError(t, err)
	require.Len(t, probes, 1)
	require.Equal(t, id, probes[0].ID)
	require.Empty(t, claim(t, outboxdb.New(pool), outbox.ClaimRequest{}).Messages)
	inconclusive(store, "sqs://down", id)
	waitFor(t, setup, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE probe_until IS NULL)`)
	_, err = store.Renew(ctx, outbox.Renewal{Ref: ref(id), Lease: time.Hour, LastError: "503", Attempts: 1})
	require.NoError(t, err)
	acknowledge(store, "sqs://down")
	waitFor(t, setup, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE open_until IS NULL)`)
	other := outboxdb.New(pool)
	fail(other, "sqs://other", errDown)
	waitFor(t, setup, `
		SELECT EXISTS (SELECT FROM outbox.destinations WHERE destination = 'sqs://other' AND failures > 0)`)
	reject(other, "sqs://other")
	waitFor(t, setup, `
		SELECT EXISTS (SELECT FROM outbox.destinations WHERE destination = 'sqs://other' AND failures = 0)`)
	reached, err := outboxdb.New(pool).Known(ctx, "sqs://down")
	require.NoError(t, err)
	require.True(t, reached)
	other.CountEveryLateAnswer()
	for range 3 {
		cutShort(other, "sqs://slow")
	}
	waitFor(t, setup, `
		SELECT EXISTS (SELECT FROM outbox.destinations WHERE destination = 'sqs://slow' AND slow_until > now())`)
	recovered, err := store.TakeRecovered(ctx)
	require.NoError(t, err)
	require.Len(t, recovered, 1)
	retrying, err := store.Retrying(ctx, recovered[0], 10)
	require.NoError(t, err)
	require.Len(t, retrying, 1)
	require.NoError(t, store.Release(ctx, retrying[0]))
	require.True(t, value[bool](t, setup, `SELECT available_at <= now() FROM outbox.messages`))
	require.NoError(t, store.ForgetRecovered(ctx, recovered[0]))
	require.Zero(t, value[int](t, setup, `SELECT count(*) FROM outbox.destinations WHERE recovered_at IS NOT NULL`))
}

func tourPurge(t *testing.T, setup, pool *pgxpool.Pool) {
	t.Helper()
	ctx, store := t.Context(), outboxdb.New(pool)
	execute(t, setup, `TRUNCATE outbox.messages, outbox.audit, outbox.history`)
	for _, history := range []bool{false, true} {
		ended(t, setup, outflow.Delivered, "3 hours", 3)
		ended(t, setup, outflow.Delivered, "1 minute", 1)
		purged, err := store.PurgeMessages(ctx, outbox.Purge{State: outflow.Delivered, OlderThan: time.Hour,
			After: time.Time{}, Limit: 2, History: history})
		require.NoError(t, err)
		require.Equal(t, 2, purged.Rows)
		purged, err = outboxdb.New(pool).PurgeAs(ctx, outbox.Purge{State: outflow.Delivered, OlderThan: time.Hour,
			After: purged.UpTo, Limit: 10, History: history}, ada.Who, ada.Why)
		require.NoError(t, err)
		require.Equal(t, 1, purged.Rows)
	}
	require.Equal(t, 2, count(t, setup))
	require.Equal(t, 3, value[int](t, setup, `SELECT count(*) FROM outbox.history`))
	execute(t, setup, `UPDATE outbox.audit SET at = now() - interval '1 day';
		UPDATE outbox.destinations SET delivered_at = now() - interval '3 days', failing_since = NULL`)
	n, err := store.PurgeAudit(ctx, time.Hour, 100)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	_, err = store.PurgeDestinations(ctx, time.Hour, 100)
	require.NoError(t, err)
	_, err = store.PurgeKeys(ctx, time.Hour, 100)
	require.NoError(t, err)
}

func tourOperator(t *testing.T, setup, pool *pgxpool.Pool) {
	t.Helper()
	ctx, o, store := t.Context(), operator.New(pool, lostRuns{}, ""), outboxdb.New(pool)
	by := operator.Actor{Who: "ada é日", Why: "why \\ ' 日"}
	id := fresh(t, setup)
	ids := []uuid.UUID{id}
	end := func(state string) {
		execute(t, setup, `UPDATE outbox.messages SET head = false, follower = false, state = $1, finished_at = now(),
			last_error = $2 WHERE id = $3`, state, awkwardError, id)
	}
	one := func(answers []operator.Answer, err error) operator.Answer {
		t.Helper()
		require.NoError(t, err)
		require.Len(t, answers, 1)
		require.Equal(t, operator.Done, answers[0].Verdict, answers[0].Text)
		return answers[0]
	}
	execute(t, setup, `UPDATE outbox.messages SET expires_at = NULL`)
	at := time.Date(2031, 1, 2, 3, 4, 5, 6000, time.UTC)
	one(o.Reschedule(ctx, ids, at, 0, by))
	require.True(t, stands(t, setup, id).AvailableAt.Equal(at))
	one(o.Reschedule(ctx, ids, time.Time{}, 90*time.Minute, by))
	assert.InDelta(t, 5400, stands(t, setup, id).LeasedFor, 30)
	one(o.Redirect(ctx, ids, "sqs://other", by))
	require.Equal(t, "sqs://other", value[string](t, setup, `SELECT destination FROM outbox.messages WHERE id = $1`,
		id))
	left, err := store.ReleaseDeferred(ctx) // no producer has used its key there
	require.NoError(t, err)
	require.False(t, left)
	requests, err := store.RequestCancel(ctx, ids, by.Who, by.Why)
	require.NoError(t, err)
	require.True(t, requests[0].Done)
	execute(t, setup, `UPDATE outbox.messages SET available_at = now() - interval '1 s'`)
	one(o.Cancel(ctx, ids, time.Second, by)) // ends it, for it has no run
	one(o.Retry(ctx, ids, by))
	status, err := o.Message(ctx, id)
	require.NoError(t, err)
	require.Equal(t, awkward().Headers, status.Headers)
	execute(t, setup, `
		UPDATE outbox.messages SET claims = 1, started = true, retrying = true,
		       available_at = now() + interval '1 hour'`)
	require.Contains(t, one(o.Retry(ctx, ids, by)).Text, "it had no run")
	execute(t, setup, `UPDATE outbox.messages SET available_at = now() + interval '1 hour'`)
	require.Contains(t, one(operator.New(pool, willingRuns{}, "").Retry(ctx, ids, by)).Text, "its run was signalled")
	execute(t, setup, `UPDATE outbox.messages SET retrying = false`)
	end("dead")
	one(o.Redirect(ctx, ids, "sqs://third", by))
	end("dead")
	execute(t, setup, `UPDATE outbox.messages SET head = true WHERE state = 'dead'`)
	one(o.Skip(ctx, ids, by))
	one(o.Dismiss(ctx, ids, by))
	execute(t, setup, `UPDATE outbox.messages SET dismissed_at = NULL`)
	end("delivered")
	execute(t, setup, `UPDATE outbox.messages SET callback_state = 'failed'`)
	one(o.RetryCallbacks(ctx, ids, by))
	newID := *one(o.Resend(ctx, ids, by)).NewID
	copied, err := o.Show(ctx, newID, true)
	require.NoError(t, err)
	require.Equal(t, awkward().Payload, copied.Payload)
	require.Equal(t, by, operator.Actor{Who: copied.Audit[0].Who, Why: copied.Audit[0].Why})
	_, err = o.Send(ctx, awkward(), by)
	require.NoError(t, err)

	page, next, err := o.List(ctx, operator.ListFilter{Limit: 1, State: outflow.Delivered, Destination: "sqs://third",
		Type:  "order/placed",
		Since: operator.TimeBound{At: time.Now().Add(-time.Hour), Set: true}, Until: operator.TimeBound{Ago: 0,
			Set: true}})
	require.NoError(t, err)
	require.Len(t, page, 1)
	require.Equal(t, awkwardError, *page[0].LastError)
	require.Empty(t, next)
	page, next, err = o.List(ctx, operator.ListFilter{Limit: 1})
	require.NoError(t, err)
	_, _, err = o.List(ctx, operator.ListFilter{Limit: 1, After: next})
	require.NoError(t, err)
	require.Len(t, page, 1)
	end("dead")
	counts, _, err := o.Status(ctx, 10)
	require.NoError(t, err)
	require.NotEmpty(t, counts)
	running, err := o.Running(ctx)
	require.NoError(t, err)
	require.Empty(t, running)
	_, err = o.KnownDestinations(ctx, "sqs://orders")
	require.NoError(t, err)
	_, err = o.KnownTypes(ctx)
	require.NoError(t, err)
	found := findings(t, pool)
	if pool.Config().ConnConfig.User == setup.Config().ConnConfig.User {
		require.Contains(t, found["dead warn"].Text, "such as: "+strings.Join(strings.Fields(awkwardError), " "))
		for _, f := range found {
			require.NotContains(t, f.Text, "SQLSTATE", f.Check)
		}
	}
	require.Contains(t, found, "clock ok")

	rule := operator.CallbackRule{Destination: "sqs://orders", Type: "a", Callback: "https://example.com/'",
		WithPayload: true}
	_, err = o.SetCallbackRule(ctx, rule, by)
	require.NoError(t, err)
	rules, err := o.CallbackRules(ctx)
	require.NoError(t, err)
	require.Equal(t, []operator.CallbackRule{rule}, rules)
	removed, err := o.UnsetCallbackRule(ctx, rule.Destination, rule.Type, by)
	require.NoError(t, err)
	require.True(t, removed)

	tourRoutes(t, pool, o, by)
	tourStreamActs(t, setup, pool, by)
	require.Error(t, operator.Grants{Producers: []string{"nobody is called that"}}.CheckRoles(ctx, pool))
}

// tourRoutes sends by route, waits for the group, and looks at it.
func tourOrder(t *testing.T, setup, pool *pgxpool.Pool) {
	store := outboxdb.New(pool)
	ids := enqueue(t, setup, keyed("sqs://steps", `k\'1`, 3)...)
	expire(t, setup, ids[1])
	end(t, store, outflow.Delivered, ids[0])
	settleDeferred(t, store)
	assert.Equal(t, "expired", stands(t, setup, ids[1]).State)
	assert.Equal(t, "head", order(t, setup, ids[2]))
}

func tourRoutes(t *testing.T, pool *pgxpool.Pool, o *operator.Operator, by operator.Actor) {
	ctx := t.Context()
	hook := operator.Route{Type: "order/placed", Destination: "https://example.com/'"}
	for _, r := range []operator.Route{{Type: "order/placed", Destination: "sqs://orders"}, hook} {
		require.NoError(t, o.SetRoute(ctx, r, by))
	}
	m := awkward()
	m.ID, m.Destination = uuid.New(), outflow.ByRoute
	group, err := o.Send(ctx, m, by)
	require.NoError(t, err)
	found, err := o.UnsetRoute(ctx, hook, false, by)
	require.NoError(t, err)
	require.True(t, found)
	routes, err := o.Routes(ctx, "order/placed")
	require.NoError(t, err)
	require.Len(t, routes, 1)

	first := outflow.RoutedID(group, hook.Destination)
	messages, err := o.Messages(ctx, group)
	require.NoError(t, err)
	require.Equal(t, first, messages[0].ID)
	require.Equal(t, m.Headers, messages[1].Headers)
	shown, err := o.Show(ctx, first, true)
	require.NoError(t, err)
	require.Equal(t, m.Payload, shown.Payload)
	require.Equal(t, "sqs://orders", shown.Siblings[0].Destination)
	page, _, err := o.List(ctx, operator.ListFilter{Limit: 3, Group: group})
	require.NoError(t, err)
	require.Len(t, page, 2)

	w := wait.New(pool, wait.LogTo(slog.New(slog.DiscardHandler)))
	defer w.Close()
	deliver(t, pool, first, outflow.RoutedID(group, "sqs://orders"))
	outcomes, err := w.WaitAll(ctx, group)
	require.NoError(t, err)
	require.Len(t, outcomes, 2)
	require.Equal(t, hook.Destination, outcomes[0].Destination)
	require.Equal(t, outflow.Delivered, outcomes[1].State)
}
