package outboxdb_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/migrate"
)

// Every statement works in each of pgx's execution modes, and through a pooler that
// gives each transaction another session, whatever the mode.
func TestEveryMode(t *testing.T) {
	t.Parallel()
	modes := map[string]pgx.QueryExecMode{
		"cache_statement": pgx.QueryExecModeCacheStatement, "cache_describe": pgx.QueryExecModeCacheDescribe,
		"describe_exec": pgx.QueryExecModeDescribeExec, "exec": pgx.QueryExecModeExec, "simple_protocol": pgx.QueryExecModeSimpleProtocol,
	}
	for name, mode := range modes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			tour(t, pool, another(t, pool, func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = mode }))
		})
	}
	t.Run("exec without a cache", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		tour(t, pool, another(t, pool, func(c *pgxpool.Config) {
			c.ConnConfig.DefaultQueryExecMode, c.ConnConfig.DescriptionCacheCapacity = pgx.QueryExecModeExec, 0
		}))
	})
	for _, name := range []string{"cache_statement", "exec", "simple_protocol"} {
		t.Run("pgbouncer, "+name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			config := teststack.PgBouncer(t, pool)
			tour(t, pool, another(t, pool, func(c *pgxpool.Config) {
				*c.ConnConfig = *config.ConnConfig.Copy()
				c.ConnConfig.DefaultQueryExecMode = modes[name]
			}))
		})
	}
}

// hostile are settings of a role or database that change what a statement means, how
// its parameters and results are written, or what is done besides.
var hostile = []string{
	`client_encoding = 'LATIN1'`, `standard_conforming_strings = off`, `"DateStyle" = 'SQL, DMY'`, `"IntervalStyle" = 'iso_8601'`,
	`"TimeZone" = 'Asia/Kathmandu'`, `bytea_output = 'escape'`, `extra_float_digits = -15`, `default_transaction_isolation = 'serializable'`,
	`row_security = off`, `idle_in_transaction_session_timeout = '30s'`, `plan_cache_mode = 'force_generic_plan'`, `jit = on`, `jit_above_cost = 0`,
	`array_nulls = off`, `transform_null_equals = on`, `lc_monetary = 'C'`, `search_path = 'nowhere'`, `statement_timeout = '30s'`, `lock_timeout = '20s'`,
	`enable_indexscan = off`, `check_function_bodies = off`, `escape_string_warning = on`, `backslash_quote = off`, `default_transaction_deferrable = on`,
	`quote_all_identifiers = on`, `xmlbinary = 'hex'`, `application_name = 'someone else'`,
}

// refusedByPgx names the settings with which pgx sends nothing by the simple protocol.
func refusedByPgx(setting string) bool {
	return strings.HasPrefix(setting, "client_encoding") || strings.HasPrefix(setting, "standard_conforming_strings")
}

// Every statement works for a role with all of these settings.
func TestHostileRole(t *testing.T) {
	t.Parallel()
	for name, mode := range map[string]pgx.QueryExecMode{
		"cache_statement": pgx.QueryExecModeCacheStatement, "exec": pgx.QueryExecModeExec, "simple_protocol": pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			role := newRole(t, pool)
			all := []string{role}
			require.NoError(t, operator.Grants{Producers: all, Dispatchers: all, Operators: all}.Apply(t.Context(), pool))
			execute(t, pool, `GRANT INSERT ON outbox.messages TO `+role)
			for _, setting := range hostile {
				if mode == pgx.QueryExecModeSimpleProtocol && refusedByPgx(setting) {
					continue
				}
				execute(t, pool, `ALTER ROLE `+role+` SET `+setting)
			}
			tour(t, pool, another(t, pool, func(c *pgxpool.Config) {
				c.ConnConfig.User, c.ConnConfig.Password, c.ConnConfig.DefaultQueryExecMode = role, role, mode
			}))
		})
	}
}

// tour sends every statement on pool and looks at what it answers; setup is another
// way into the same database.
func tour(t *testing.T, setup, pool *pgxpool.Pool) {
	t.Helper()
	watched, seen := traced(t, pool)
	tourProducer(t, setup, watched)
	tourDispatcher(t, setup, watched)
	tourTrouble(t, setup, watched)
	tourPurge(t, setup, watched)
	tourOperator(t, setup, watched)
	sent := seen.take()
	known := slices.Concat(outboxdb.Statements, operatorStatements(t, setup))
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
		assert.True(t, slices.ContainsFunc(sent, func(s string) bool { return strings.Contains(s, part) }), "the tour leaves %s out", part)
	}
}

// isDirect reports whether no pooler stands before pool's server.
func isDirect(setup, pool *pgxpool.Pool) bool {
	return pool.Config().ConnConfig.Port == setup.Config().ConnConfig.Port
}

// awkward is a message whose every value is written in another way by some setting.
func awkward() outflow.Message {
	return outflow.Message{
		Destination: "sqs://orders", Type: "order/placed", Payload: []byte{0, '\\', 0xff, '\'', 'x'}, ContentType: "text/plain",
		Headers:     map[string]string{"who": "日本 \\ ' \" é \U0001F600"},
		OrderingKey: `k\'1`, DueAt: time.Date(2020, 3, 4, 5, 6, 7, 89_000, time.UTC), ExpiresIn: 25*time.Hour + 1500*time.Microsecond,
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
	db := stdlib.OpenDBFromPool(pool)
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
		r := value[map[string]any](t, setup, `SELECT to_jsonb(m) || jsonb_build_object('payload', encode(m.payload, 'hex'), 'life', extract(epoch FROM m.expires_at - m.enqueued_at)) FROM outbox.messages AS m WHERE id = $1`, id)
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

const awkwardError = "503 日本 \\ ' é"

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
			return store.Renew(ctx, outbox.Renewal{Ref: ref(id), Lease: time.Minute, LastError: awkwardError, Attempts: 1})
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
		require.Eventually(t, func() bool { return seen.has("pg_current_snapshot") }, 20*time.Second, time.Millisecond, "no notification arrives")
	}
	outcome, err := store.Finish(ctx, outbox.Ending{Ref: ref(id), State: outflow.Delivered, BrokerMessageID: "b é", Attempts: 1})
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
	noted, err := store.NoteCallback(ctx, outbox.CallbackNote{Ref: ref(id), End: outflow.Delivered, State: outbox.CallbackFailed, LastError: awkwardError})
	require.NoError(t, err)
	require.True(t, noted)
	_, err = store.TableHealth(ctx, time.Minute)
	require.NoError(t, err)
}

func tourTrouble(t *testing.T, setup, pool *pgxpool.Pool) {
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
	waitFor(t, setup, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE destination = 'sqs://other' AND failures > 0)`)
	reject(other, "sqs://other")
	waitFor(t, setup, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE destination = 'sqs://other' AND failures = 0)`)
	reached, err := outboxdb.New(pool).Known(ctx, "sqs://down")
	require.NoError(t, err)
	require.True(t, reached)
	for range 3 {
		cutShort(other, "sqs://slow")
	}
	waitFor(t, setup, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE destination = 'sqs://slow' AND slow_until > now())`)
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
		purged, err := store.PurgeMessages(ctx, outbox.Purge{State: outflow.Delivered, OlderThan: time.Hour, After: time.Time{}, Limit: 2, History: history})
		require.NoError(t, err)
		require.Equal(t, 2, purged.Rows)
		purged, err = outboxdb.New(pool).PurgeAs(ctx, outbox.Purge{State: outflow.Delivered, OlderThan: time.Hour, After: purged.UpTo, Limit: 10, History: history}, ada.Who, ada.Why)
		require.NoError(t, err)
		require.Equal(t, 1, purged.Rows)
	}
	require.Equal(t, 2, count(t, setup))
	require.Equal(t, 3, value[int](t, setup, `SELECT count(*) FROM outbox.history`))
	execute(t, setup, `UPDATE outbox.audit SET at = now() - interval '1 day'; UPDATE outbox.destinations SET delivered_at = now() - interval '3 days', failing_since = NULL`)
	n, err := store.PurgeAudit(ctx, time.Hour, 100)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	_, err = store.PurgeDestinations(ctx, time.Hour, 100)
	require.NoError(t, err)
}

func tourOperator(t *testing.T, setup, pool *pgxpool.Pool) {
	t.Helper()
	ctx, o, store := t.Context(), operator.New(pool, lostRuns{}, ""), outboxdb.New(pool)
	by := operator.Actor{Who: "ada é日", Why: "why \\ ' 日"}
	id := fresh(t, setup)
	ids := []uuid.UUID{id}
	end := func(state string) {
		execute(t, setup, `UPDATE outbox.messages SET state = $1, finished_at = now(), last_error = $2 WHERE id = $3`, state, awkwardError, id)
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
	require.Equal(t, "sqs://other", value[string](t, setup, `SELECT destination FROM outbox.messages WHERE id = $1`, id))
	requests, err := store.RequestCancel(ctx, ids, by.Who, by.Why)
	require.NoError(t, err)
	require.True(t, requests[0].Done)
	execute(t, setup, `UPDATE outbox.messages SET available_at = now() - interval '1 s'`)
	one(o.Cancel(ctx, ids, time.Second, by)) // ends it, for it has no run
	one(o.Retry(ctx, ids, by))
	status, err := o.Message(ctx, id)
	require.NoError(t, err)
	require.Equal(t, awkward().Headers, status.Headers)
	execute(t, setup, `UPDATE outbox.messages SET claims = 1, started = true, retrying = true, available_at = now() + interval '1 hour'`)
	require.Contains(t, one(o.Retry(ctx, ids, by)).Text, "it had no run")
	execute(t, setup, `UPDATE outbox.messages SET available_at = now() + interval '1 hour'`)
	require.Contains(t, one(operator.New(pool, willingRuns{}, "").Retry(ctx, ids, by)).Text, "its run was signalled")
	execute(t, setup, `UPDATE outbox.messages SET retrying = false`)
	end("dead")
	one(o.Redirect(ctx, ids, "sqs://third", by))
	end("dead")
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

	page, next, err := o.List(ctx, operator.ListFilter{Limit: 1, State: outflow.Delivered, Destination: "sqs://third", Type: "order/placed",
		Since: operator.TimeBound{At: time.Now().Add(-time.Hour), Set: true}, Until: operator.TimeBound{Ago: 0, Set: true}})
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

	rule := operator.CallbackRule{Destination: "sqs://orders", Type: "a", Callback: "https://example.com/'", WithPayload: true}
	_, err = o.SetCallbackRule(ctx, rule, by)
	require.NoError(t, err)
	rules, err := o.CallbackRules(ctx)
	require.NoError(t, err)
	require.Equal(t, []operator.CallbackRule{rule}, rules)
	removed, err := o.UnsetCallbackRule(ctx, rule.Destination, rule.Type, by)
	require.NoError(t, err)
	require.True(t, removed)
	require.Error(t, operator.Grants{Producers: []string{"nobody is called that"}}.CheckRoles(ctx, pool))
}

// lostRuns is a Temporal that knows no run; in willingRuns there is one that accepts signals.
type (
	lostRuns    struct{}
	willingRuns struct{ lostRuns }
)

func (lostRuns) Describe(context.Context, string) (operator.Run, error) {
	return operator.Run{}, operator.ErrNoRun
}
func (lostRuns) Cancel(context.Context, string) error    { return operator.ErrNoRun }
func (lostRuns) TryNow(context.Context, string) error    { return operator.ErrNoRun }
func (willingRuns) TryNow(context.Context, string) error { return nil }

// A function whose patterns have backslashes is read with the caller's settings.
func TestBackslashesMeanWhatTheySay(t *testing.T) {
	t.Parallel()
	require.Empty(t, values[string](t, teststack.New(t), `
		SELECT p.oid::regprocedure::text FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
		 WHERE n.nspname IN ('outbox', 'inbox') AND p.prosqlbody IS NULL AND p.prosrc LIKE '%\\%'
		   AND 'standard_conforming_strings=on' <> ALL (coalesce(p.proconfig, '{}'))`))
}

// Two transactions that enqueue the same IDs, in opposite order, wait for each other
// and not in a circle.
func TestEnqueueTheSameInOppositeOrder(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	first := messages("sqs://a", 200)
	for i := range first {
		first[i].ID = uuid.New()
	}
	last := slices.Clone(first)
	slices.Reverse(last)
	for round := range 20 {
		execute(t, pool, `TRUNCATE outbox.messages`)
		var written atomic.Int64
		var producers sync.WaitGroup
		for _, msgs := range [][]outflow.Message{first, last} {
			producers.Go(func() {
				err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
					ids, err := outboxdb.EnqueueIfAbsent(t.Context(), tx, msgs...)
					written.Add(int64(len(ids)))
					return err
				})
				assert.NoError(t, err, "round %d", round)
			})
		}
		producers.Wait()
		require.EqualValues(t, 200, written.Load())
	}
	bySeq := values[uuid.UUID](t, pool, `SELECT id FROM outbox.messages ORDER BY seq`)
	require.Contains(t, [][]uuid.UUID{idsIn(first), idsIn(last)}, bySeq, "seq keeps the call's order")
}

func idsIn(msgs []outflow.Message) (ids []uuid.UUID) {
	for _, m := range msgs {
		ids = append(ids, m.ID)
	}
	return ids
}

// A row that the transaction's snapshot is too old for can't be told from one that is
// not there: Postgres ends the transaction.
func TestEnqueueIfAbsentUnderRepeatableRead(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	m := message("sqs://a")
	m.ID = uuid.New()
	tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	require.Zero(t, count(t, tx))
	enqueue(t, pool, m)
	_, err = outboxdb.EnqueueIfAbsent(t.Context(), tx, m)
	require.Equal(t, "40001", sqlState(err))
}

// Migrations go through a transaction pooler, any number of times and at once.
func TestMigrateThroughPgBouncer(t *testing.T) {
	t.Parallel()
	pool := teststack.NewEmpty(t)
	config := teststack.PgBouncer(t, pool)
	through := another(t, pool, func(c *pgxpool.Config) { *c.ConnConfig = *config.ConnConfig.Copy() })
	var applied atomic.Int64
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			done, err := migrate.Up(t.Context(), through)
			assert.NoError(t, err)
			applied.Add(int64(len(done)))
		})
	}
	all.Wait()
	require.EqualValues(t, len(migrationNames(t)), applied.Load(), "each once")
	for range 3 {
		done, err := migrate.Up(t.Context(), through)
		require.NoError(t, err)
		require.Empty(t, done)
	}
	undone, err := migrate.Down(t.Context(), through)
	require.NoError(t, err)
	require.NotNil(t, undone)
	_, err = migrate.Up(t.Context(), through)
	require.NoError(t, err)
	require.Zero(t, value[int](t, pool, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`), "no session keeps the lock")
}

// Migrations of a role with hostile settings make the same schema.
func TestMigrateAsAHostileRole(t *testing.T) {
	t.Parallel()
	schemaOf := func(pool *pgxpool.Pool) []string {
		return values[string](t, pool, `
			SELECT pg_get_functiondef(p.oid) FROM pg_proc AS p WHERE p.pronamespace = 'outbox'::regnamespace
			UNION ALL SELECT conrelid::regclass || conname || pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'outbox'::regnamespace
			UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'outbox' ORDER BY 1`)
	}
	pool := teststack.NewEmpty(t)
	role := newRole(t, pool)
	execute(t, pool, `GRANT CREATE ON DATABASE `+pool.Config().ConnConfig.Database+` TO `+role)
	for _, setting := range hostile {
		execute(t, pool, `ALTER ROLE `+role+` SET `+setting)
	}
	as := another(t, pool, func(c *pgxpool.Config) { c.ConnConfig.User, c.ConnConfig.Password = role, role })
	_, err := migrate.Up(t.Context(), as)
	require.NoError(t, err)
	require.Equal(t, schemaOf(teststack.New(t)), schemaOf(pool))
	status, err := migrate.Status(t.Context(), as)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), status[0].AppliedAt, time.Minute)
}

// A chunk that a timeout of the role ends is too slow: the purge makes the next smaller.
func TestPurgeUnderTimeouts(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	ended(t, pool, outflow.Delivered, "3 hours", 3)
	inTx(t, pool, func(tx pgx.Tx) {
		_, err := tx.Exec(t.Context(), `LOCK TABLE outbox.messages, outbox.audit, outbox.destinations IN ACCESS EXCLUSIVE MODE`)
		require.NoError(t, err)
		for _, setting := range []string{"statement_timeout", "lock_timeout"} {
			hasty := another(t, pool, func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams[setting] = "50ms" })
			store := outboxdb.New(hasty)
			_, err := store.PurgeMessages(t.Context(), outbox.Purge{State: outflow.Delivered, Limit: 10})
			require.ErrorIs(t, err, context.DeadlineExceeded, setting)
			require.ErrorContains(t, err, "canceling statement due to")
			_, err = outboxdb.New(hasty).PurgeAs(t.Context(), outbox.Purge{State: outflow.Delivered, Limit: 10, History: true}, ada.Who, ada.Why)
			require.ErrorIs(t, err, context.DeadlineExceeded, setting)
			_, err = store.PurgeAudit(t.Context(), time.Hour, 10)
			require.ErrorIs(t, err, context.DeadlineExceeded, setting)
			_, err = store.PurgeDestinations(t.Context(), time.Hour, 10)
			require.ErrorIs(t, err, context.DeadlineExceeded, setting)
		}
	})
}

// A database in another encoding takes what it can hold, and says what it can't: the
// words of an error never keep a message from its end.
func TestDatabaseEncodings(t *testing.T) {
	t.Parallel()
	for encoding, can := range map[string]string{"LATIN1": "caf\u00e9", "SQL_ASCII": "cafe", "EUC_JP": "日本"} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			outer := teststack.NewEmpty(t)
			name := outer.Config().ConnConfig.Database + "_" + strings.ToLower(encoding)
			execute(t, outer, `CREATE DATABASE `+name+` ENCODING '`+encoding+`' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0`)
			t.Cleanup(func() {
				_, err := outer.Exec(context.Background(), `DROP DATABASE `+name+` WITH (FORCE)`)
				require.NoError(t, err)
			})
			pool := another(t, outer, func(c *pgxpool.Config) { c.ConnConfig.Database = name })
			_, err := migrate.Up(t.Context(), pool)
			require.NoError(t, err)

			tx, err := pool.Begin(t.Context())
			require.NoError(t, err)
			defer func() { _ = tx.Rollback(context.Background()) }()
			m := message("sqs://a")
			m.Headers = map[string]string{"who": "\u20ac \U0001F600"}
			_, err = outboxdb.Enqueue(t.Context(), tx, m)
			require.ErrorContains(t, err, "the database's encoding lacks")
			require.NoError(t, tx.Rollback(t.Context()))

			m.Headers, m.Payload = map[string]string{"who": can}, []byte("日本 \u20ac")
			id := enqueue(t, pool, m)[0]
			store := outboxdb.New(pool)
			claimed := claim(t, store, request()).Messages
			require.Len(t, claimed, 1)
			require.Equal(t, m.Headers, claimed[0].Headers)
			require.Equal(t, m.Payload, claimed[0].Payload)
			outcome, err := store.Finish(t.Context(), outbox.Ending{Ref: ref(id), State: outflow.Dead, LastError: "日 \u20ac \U0001F600", Attempts: 1})
			require.NoError(t, err)
			require.Equal(t, `\u65e5 \u20ac \U0001f600`, outcome.LastError)
			require.Contains(t, findings(t, pool)["encoding warn"].Text, "the database's encoding is "+encoding)
		})
	}
}
