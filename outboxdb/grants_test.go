package outboxdb_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/migrate"
)

// rightsOf lists everything that a role may do in the schema.
func rightsOf(t *testing.T, pool *pgxpool.Pool, role string) []string {
	t.Helper()
	return values[string](t, pool, `
		SELECT c.relname || ': ' || p FROM pg_class AS c, unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) AS p
		 WHERE relnamespace = 'outbox'::regnamespace AND relkind IN ('r', 'v', 'm', 'p') AND has_table_privilege($1, c.oid, p)
		UNION ALL
		SELECT c.relname || '.' || a.attname || ': ' || p FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid, unnest('{SELECT,INSERT,UPDATE,REFERENCES}'::text[]) AS p
		 WHERE relnamespace = 'outbox'::regnamespace AND relkind IN ('r', 'v', 'm', 'p') AND attnum > 0 AND NOT attisdropped
		   AND has_column_privilege($1, c.oid, attnum, p) AND NOT has_table_privilege($1, c.oid, p)
		UNION ALL
		SELECT c.relname || ': ' || p FROM pg_class AS c, unnest('{SELECT,USAGE,UPDATE}'::text[]) AS p
		 WHERE relnamespace = 'outbox'::regnamespace AND relkind = 'S' AND has_sequence_privilege($1, c.oid, p)
		UNION ALL
		SELECT DISTINCT proname || '()' FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace AND has_function_privilege($1, oid, 'EXECUTE')
		UNION ALL
		SELECT 'schema: ' || p FROM unnest('{USAGE,CREATE}'::text[]) AS p WHERE has_schema_privilege($1, 'outbox', p)
		ORDER BY 1`, role)
}

// granted gives a new role rights, twice, and returns a pool of its sessions.
func granted(t *testing.T, pool *pgxpool.Pool, kind func(role string) operator.Grants) (as *pgxpool.Pool, role string) {
	t.Helper()
	role = newRole(t, pool)
	g := kind(role)
	require.NoError(t, g.CheckRoles(t.Context(), pool))
	require.NoError(t, g.Apply(t.Context(), pool))
	before := rightsOf(t, pool, role)
	require.NoError(t, g.Apply(t.Context(), pool), "a second time")
	require.Equal(t, before, rightsOf(t, pool, role))
	as = withRole(t, pool, role)
	require.Equal(t, role, value[string](t, as, `SELECT current_user::text`))
	return as, role
}

// requireDenied requires that Postgres refuses each statement for want of rights.
func requireDenied(t *testing.T, as *pgxpool.Pool, statements ...string) {
	t.Helper()
	for _, statement := range statements {
		_, err := as.Exec(t.Context(), statement)
		require.Equal(t, "42501", sqlState(err), "%s: %v", statement, err)
	}
}

// writePast goes around the enqueue functions.
const writePast = `INSERT INTO outbox.messages (id, destination, type, payload) VALUES (gen_random_uuid(), 'sqs://q', 'a', 'x')`

// ownersAct are what no role may do.
var ownersAct = []string{
	`TRUNCATE outbox.messages`, `TRUNCATE outbox.destinations`, `TRUNCATE outbox.audit`, `TRUNCATE outbox.history`, `TRUNCATE outbox.callback_rules`, `TRUNCATE outbox.routes`,
	`DROP TABLE outbox.messages`, `ALTER TABLE outbox.messages ADD mine int`, `CREATE INDEX ON outbox.messages (type)`,
	`CREATE TABLE outbox.mine ()`, `DROP FUNCTION outbox.new_id()`, `DROP SCHEMA outbox CASCADE`, `ALTER TABLE outbox.messages DISABLE TRIGGER ALL`,
	`CREATE FUNCTION outbox.mine() RETURNS int LANGUAGE sql RETURN 1`,
}

var producerMay = []string{"drop_waiter()", "enqueue()", "enqueue_batch()", "group_outcomes()", "keep_waiter()",
	"outcomes()", "schema: USAGE"}

// requireWaits has a role wait for an end that somebody else writes.
func requireWaits(t *testing.T, pool, as *pgxpool.Pool) {
	t.Helper()
	id := enqueue(t, pool, message("sqs://orders"))[0]
	w, answers := startWait(t, pool, as, id)
	deliver(t, pool, id)
	require.Equal(t, outflow.Delivered, requireAnswer(t, answers).State)
	w.Close()
	require.Zero(t, value[int](t, pool, `SELECT count(*) FROM outbox.waiters`))
	execute(t, pool, `DELETE FROM outbox.messages WHERE id = $1`, id)
	requireDenied(t, as, `INSERT INTO outbox.waiters VALUES (gen_random_uuid(), now())`, `DELETE FROM outbox.waiters`,
		`UPDATE outbox.waiters SET expires_at = 'infinity'`)
}

func TestProducerRights(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	as, role := granted(t, pool, func(role string) operator.Grants { return operator.Grants{Producers: []string{role}} })
	require.Equal(t, producerMay, rightsOf(t, pool, role))

	enqueue(t, as, messages("sqs://orders", 3)...)
	value[uuid.UUID](t, as, `SELECT outbox.enqueue('sqs://orders', 'a', 'literal')`)
	value[uuid.UUID](t, as, `SELECT outbox.enqueue('sqs://orders', 'a', 'text'::text)`)
	value[uuid.UUID](t, as, `SELECT outbox.enqueue('sqs://orders', 'a', 'bytes'::bytea)`)
	require.Equal(t, 6, count(t, pool))
	setRule(t, operator.New(pool, nil, ""),
		operator.CallbackRule{Destination: "sqs://orders", Callback: "sqs://replies"})
	require.Equal(t, "sqs://replies", asks(t, pool, enqueue(t, as, message("sqs://orders"))[0]),
		"rules are for who can't read them")
	setRoute(t, operator.New(pool, nil, ""), "user-registered", "sqs://one", "sqs://two")
	group := enqueue(t, as, message(outflow.ByRoute))[0]
	require.Equal(t, 2, value[int](t, as, `SELECT count(*) FROM outbox.group_outcomes(ARRAY[$1::uuid])`, group),
		"routes are for who can't read them")
	msgs := withIDs(1)
	enqueue(t, as, msgs...)
	inTx(t, as, func(tx pgx.Tx) {
		ids, err := outboxdb.EnqueueIfAbsent(t.Context(), tx, msgs...)
		require.NoError(t, err)
		require.Empty(t, ids)
	})
	requireWaits(t, pool, as)
	requireDenied(t, as, ownersAct...)
	requireDenied(t, as, `SELECT FROM outbox.waiters`, `SELECT outbox.notify_waiters(ARRAY[gen_random_uuid()])`,
		`SELECT FROM outbox.listeners`, `SELECT outbox.hint()`)
	requireDenied(t, as,
		writePast, `SELECT FROM outbox.messages`, `DELETE FROM outbox.messages`, `UPDATE outbox.messages SET state = 'dead'`,
		`SELECT FROM outbox.destinations`, `SELECT FROM outbox.audit`, `SELECT FROM outbox.history`, `SELECT outbox.new_id()`,
		`SELECT FROM outbox.callback_rules`, `INSERT INTO outbox.callback_rules (callback) VALUES ('sqs://mine')`, `UPDATE outbox.callback_rules SET callback = 'sqs://mine'`,
		`DELETE FROM outbox.callback_rules`,
		`SELECT FROM outbox.routes`, `INSERT INTO outbox.routes VALUES ('sqs://mine', 'a')`, `UPDATE outbox.routes SET destination = 'sqs://mine'`,
		`DELETE FROM outbox.routes`, `SELECT outbox.routes_of('[]')`, `SELECT outbox.has_group(gen_random_uuid())`,
		`SELECT outbox.routed_id(gen_random_uuid(), 'sqs://mine')`,
	)
}

// purgeInto is how a purge moves final rows.
const purgeInto = `
WITH gone AS (DELETE FROM outbox.messages WHERE finished_at IS NOT NULL RETURNING *)
INSERT INTO outbox.history SELECT gone.*, now() FROM gone`

func TestDispatcherRights(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	as, role := granted(t, pool, func(role string) operator.Grants { return operator.Grants{Dispatchers: []string{role}} })
	require.Equal(t, []string{
		"audit: DELETE", "audit: SELECT", "deferred_releases: SELECT",
		"destinations: DELETE", "destinations: INSERT", "destinations: SELECT", "destinations: UPDATE",
		"drop_waiter()", "group_outcomes()", "hint()", "history: INSERT", "identity: INSERT", "identity: SELECT", "is_destination()", "keep_waiter()",
		"listeners: DELETE", "listeners: INSERT", "listeners: SELECT", "listeners: UPDATE",
		"messages.attempts: UPDATE", "messages.available_at: UPDATE", "messages.broker_message_id: UPDATE",
		"messages.callback_attempts: UPDATE", "messages.callback_due_at: UPDATE", "messages.callback_error: UPDATE", "messages.callback_state: UPDATE",
		"messages.claims: UPDATE", "messages.dismissed_at: UPDATE", "messages.finished_at: UPDATE", "messages.follower: UPDATE",
		"messages.head: UPDATE", "messages.last_error: UPDATE", "messages.parked: UPDATE", "messages.retrying: UPDATE", "messages.started: UPDATE", "messages.state: UPDATE", "messages.streamed: UPDATE",
		"messages: DELETE", "messages: SELECT",
		"notify_waiters()", "outcomes()",
		"pages: DELETE", "pages: INSERT", "pages: SELECT", "pages: UPDATE",
		"processes: DELETE", "processes: INSERT", "processes: SELECT", "processes: UPDATE",
		"promote()", "purge_keys()", "schema: USAGE", "settle()",
		"streams: DELETE", "streams: INSERT", "streams: SELECT", "streams: UPDATE",
	}, rightsOf(t, pool, role))

	store := outboxdb.New(as)
	require.NoError(t, store.Ping(t.Context()))
	execute(t, pool, `TRUNCATE outbox.identity`)
	_, err := store.DatabaseID(t.Context())
	require.NoError(t, err)
	enqueue(t, pool, messages("rabbitmq://events/%20", 4)...)
	m := claim(t, store, request()).Messages
	require.Len(t, m, 4)
	require.NoError(t, store.GiveBack(t.Context(), m[0], outbox.NotStarted))
	require.NoError(t, store.GiveBack(t.Context(), m[1], outbox.RunOpen))
	require.NoError(t, makeWay(t.Context(), store, m[1].Ref()))
	_, err = store.Renew(t.Context(), outbox.Renewal{Ref: m[2].Ref(), Lease: time.Minute})
	require.NoError(t, err)
	_, err = store.Finish(t.Context(), outbox.Ending{Ref: m[3].Ref(), State: outflow.Delivered})
	require.NoError(t, err)
	_, err = store.Load(t.Context(), m[3].Ref())
	require.NoError(t, err)
	_, err = outboxdb.New(as).Load(t.Context(), m[3].Ref()) // from the table
	require.NoError(t, err)
	_, err = store.Pending(t.Context())
	require.NoError(t, err)

	_, err = store.LoadAgain(t.Context(), m[0].Ref())
	require.NoError(t, err)
	_, err = store.ClaimIsolated(t.Context(), time.Minute)
	require.NoError(t, err)
	require.NoError(t, store.Release(t.Context(), outbox.Leased{Ref: m[0].Ref(), LeasedUntil: m[0].LeasedUntil}))
	for range 5 {
		fail(store, "sqs://a", errDown)
	}
	waitFor(t, pool, isOpen, "sqs://a")
	probeNow(t, pool)
	_, err = store.TakeProbes(t.Context())
	require.NoError(t, err)
	_, err = store.Retrying(t.Context(), outbox.Recovered{Destination: "sqs://a"}, 10)
	require.NoError(t, err)
	acknowledge(store, "sqs://a")
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE recovered_at IS NOT NULL)`)
	recovered, err := store.TakeRecovered(t.Context())
	require.NoError(t, err)
	require.NoError(t, store.ForgetRecovered(t.Context(), recovered[0]))
	_, err = store.Known(t.Context(), "sqs://b")
	require.NoError(t, err)
	process := outbox.Process{ID: uuid.New(), Name: "starter", Schemes: []string{"sqs"}, Scans: true}
	require.NoError(t, store.Announce(t.Context(), process))
	require.NoError(t, store.Announce(t.Context(), process), "again")
	_, err = store.Served(t.Context(), "sqs://b")
	require.NoError(t, err)
	require.NoError(t, store.Withdraw(t.Context(), process.ID))

	purged, err := store.PurgeMessages(t.Context(), outbox.Purge{State: outflow.Delivered, Limit: 10, History: true})
	require.NoError(t, err)
	require.Equal(t, 1, purged.Rows)
	_, err = store.PurgeMessages(t.Context(), outbox.Purge{State: outflow.Dead, Limit: 10})
	require.NoError(t, err)
	_, err = store.PurgeAudit(t.Context(), time.Hour, 10)
	require.NoError(t, err)
	_, err = store.PurgeKeys(t.Context(), time.Hour, 10)
	require.NoError(t, err)
	_, err = store.PurgeDestinations(t.Context(), time.Hour, 10)
	require.NoError(t, err)
	_, err = store.TableHealth(t.Context(), time.Hour)
	require.NoError(t, err)
	require.Equal(t, 3, count(t, pool))
	requireWaits(t, pool, as)
	execute(t, pool, `INSERT INTO outbox.audit (act, who) VALUES ('retry', 'Ada')`)
	execute(t, as, `DELETE FROM outbox.audit WHERE at <= now()`)
	require.Zero(t, value[int](t, pool, `SELECT count(*) FROM outbox.audit`))

	requireDenied(t, as, ownersAct...)
	for _, column := range []string{"id", "destination", "type", "payload", "content_type", "headers", "callback",
		"due_at", "expires_at", "generation", "cancel_requested"} {
		requireDenied(t, as, `UPDATE outbox.messages SET `+column+` = `+column)
	}
	requireDenied(t, as, writePast, `SELECT outbox.enqueue('sqs://orders', 'a', 'x')`, `SELECT FROM outbox.history`,
		`DELETE FROM outbox.history`,
		`INSERT INTO outbox.audit (act, who) VALUES ('retry', 'nobody')`, `UPDATE outbox.audit SET who = 'nobody'`,
		`SELECT FROM outbox.callback_rules`, `INSERT INTO outbox.callback_rules (callback) VALUES ('sqs://mine')`, `DELETE FROM outbox.callback_rules`,
		`SELECT FROM outbox.routes`, `INSERT INTO outbox.routes VALUES ('sqs://mine', 'a')`, `DELETE FROM outbox.routes`)
}

func TestOperatorRights(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	as, role := granted(t, pool, func(role string) operator.Grants { return operator.Grants{Operators: []string{role}} })
	require.Equal(t, []string{
		"audit.act: INSERT", "audit.destination: INSERT", "audit.detail: INSERT", "audit.generation: INSERT", "audit.message_id: INSERT",
		"audit.who: INSERT", "audit.why: INSERT", "audit: SELECT", "callback_rules: DELETE", "callback_rules: INSERT", "callback_rules: SELECT", "callback_rules: UPDATE", "canonical_destination()",
		"deferred_releases: SELECT", "destinations: SELECT", "display_destination()", "drop_waiter()", "enqueue()", "enqueue_batch()", "group_outcomes()", "hint()",
		"history: INSERT", "history: SELECT", "identity: SELECT", "is_destination()", "keep_waiter()", "keys: SELECT", "listeners: SELECT",
		"messages: DELETE", "messages: INSERT", "messages: SELECT", "messages: UPDATE",
		"notify_waiters()", "outcomes()", "pages: SELECT", "processes: SELECT",
		"promote()", "release_moved()", "routes: DELETE", "routes: INSERT", "routes: SELECT", "routes: UPDATE",
		"schema: USAGE", "streams: DELETE", "streams: INSERT", "streams: SELECT", "streams: UPDATE", "waiters: SELECT",
	}, slices.DeleteFunc(rightsOf(t, pool, role), func(right string) bool {
		return right == "migrations: SELECT" ||
			right == "migrations_id_seq: SELECT"
	}))

	require.NoError(t, outboxdb.New(as).Ping(t.Context()))
	status, err := migrate.Status(t.Context(), as)
	require.NoError(t, err)
	require.NotEmpty(t, status)
	requireWaits(t, pool, as)
	id := enqueue(t, as, message("sqs://orders"))[0]
	_, err = outboxdb.New(as).RequestCancel(t.Context(), []uuid.UUID{id}, ada.Who, ada.Why)
	require.NoError(t, err)
	execute(t, as, `DELETE FROM outbox.messages`)
	execute(t, pool, `DELETE FROM outbox.audit`)
	enqueue(t, as, messages("sqs://orders", 2)...)
	execute(t, as, `UPDATE outbox.messages SET state = 'cancelled', finished_at = now()`)
	execute(t, as, `UPDATE outbox.messages SET state = 'pending', finished_at = NULL, generation = generation + 1,
		destination = outbox.canonical_destination('arn:aws:sqs:eu-west-1:123456789012:other') WHERE id = (SELECT id FROM outbox.messages LIMIT 1 FOR UPDATE)`)
	execute(t, as, `INSERT INTO outbox.audit (act, who) VALUES ('redirect', current_user)`)
	require.Equal(t, 1, value[int](t, as, `SELECT count(*) FROM outbox.audit`))
	require.Equal(t, value[string](t, as, `SELECT session_user::text`),
		value[string](t, as, `SELECT login FROM outbox.audit`), "not the role that was set")
	execute(t, as, purgeInto)
	require.Equal(t, 1, value[int](t, as, `SELECT count(*) FROM outbox.history`))
	require.Zero(t, value[int](t, as, `SELECT count(*) FROM outbox.destinations`))
	o := operator.New(as, nil, "")
	setRule(t, o, operator.CallbackRule{Type: "a", Callback: "sqs://replies"})
	setRule(t, o, operator.CallbackRule{Type: "a", Callback: "none"})
	rules, err := o.CallbackRules(t.Context())
	require.NoError(t, err)
	require.Len(t, rules, 1)
	found, err := o.UnsetCallbackRule(t.Context(), "", "a", ada)
	require.NoError(t, err)
	require.True(t, found)
	setRoute(t, o, "a", "sqs://one", "sqs://two")
	found, err = o.UnsetRoute(t.Context(), operator.Route{Type: "a", Destination: "sqs://one"}, false, ada)
	require.NoError(t, err)
	require.True(t, found)
	routes, err := o.Routes(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, []operator.Route{{Type: "a", Destination: "sqs://two"}}, routes)

	requireDenied(t, as, ownersAct...)
	requireDenied(t, as, `INSERT INTO outbox.audit (act, who, login) VALUES ('retry', 'Ada', 'Bob')`,
		`INSERT INTO outbox.audit (act, who, at) VALUES ('retry', 'Ada', now())`)
	requireDenied(t, as, `UPDATE outbox.audit SET who = 'nobody'`, `DELETE FROM outbox.audit`,
		`DELETE FROM outbox.history`,
		`UPDATE outbox.history SET type = 'x'`, `DELETE FROM outbox.destinations`)
}

// A role's name is data, whatever it looks like.
func TestGrantsToAnOddName(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	odd := `a"b; DROP TABLE outbox.messages; --` + pool.Config().ConnConfig.Database
	execute(t, pool, `CREATE ROLE `+pgx.Identifier{odd}.Sanitize())
	t.Cleanup(func() {
		_, err := pool.Exec(context.Background(),
			`DROP OWNED BY `+pgx.Identifier{odd}.Sanitize()+`; DROP ROLE `+pgx.Identifier{odd}.Sanitize())
		require.NoError(t, err)
	})
	g := operator.Grants{Producers: []string{odd}}
	require.NoError(t, g.CheckRoles(t.Context(), pool))
	require.NoError(t, g.Apply(t.Context(), pool))
	require.Equal(t, producerMay, rightsOf(t, pool, odd))
}

func TestGrantsToNobody(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	role := newRole(t, pool)
	long := role
	for len(long) < 70 {
		long += "x"
	}
	g := operator.Grants{Producers: []string{"nobody_a", role}, Operators: []string{"PUBLIC", long, "nobody_a"}}
	err := g.CheckRoles(t.Context(), pool)
	require.EqualError(t, err, `there is no role "PUBLIC": create it first, with the login and password that you want
there is no role "nobody_a": create it first, with the login and password that you want
there is no role "`+long+`": create it first, with the login and password that you want`)
	require.ErrorContains(t, operator.Grants{Producers: []string{"a\x00b"}}.CheckRoles(t.Context(), pool),
		`wants names of Postgres roles (got "a\x00b")`)

	require.ErrorContains(t, g.Apply(t.Context(), pool), `role "nobody_a" does not exist`)
	require.Empty(t, rightsOf(t, pool, role), "nobody got anything")
}

// Who may not pass a right on gets no error of Postgres, only a warning.
func TestGrantsBySomebodyElse(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	as, role := granted(t, pool, func(role string) operator.Grants { return operator.Grants{Operators: []string{role}} })
	another := role + "_2"
	execute(t, pool, `CREATE ROLE `+another)
	t.Cleanup(func() {
		_, err := pool.Exec(context.Background(), `DROP ROLE `+another)
		require.NoError(t, err)
	})
	err := operator.Grants{Producers: []string{another}}.Apply(t.Context(), as)
	require.ErrorContains(t, err, `GRANT USAGE ON SCHEMA outbox TO "`+another+`": no privileges were granted for "outbox": run it as the owner of the outbox`)
	require.Empty(t, rightsOf(t, pool, another))
}
