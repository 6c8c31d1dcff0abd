package outboxdb_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// A failing destination has so many messages off the fast path and no more; the
// others wait as rows.
func TestCapOfAFailingDestination(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	enqueue(t, pool, messages("sqs://down", 195)...)
	execute(t, pool, `UPDATE outbox.messages SET retrying = true, available_at = now() + interval '5 minutes'`)
	enqueue(t, pool, messages("sqs://down", 50)...)
	fail(store, "sqs://down", errDown)
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE failing_since IS NOT NULL)`)
	require.Len(t, claim(t, store, request()).Messages, 5, "up to 200")
	execute(t, pool, `UPDATE outbox.messages SET retrying = true WHERE claims = 1`)
	require.Empty(t, claim(t, store, request()).Messages)

	acknowledge(store, "sqs://down")
	waitFor(t, pool, `SELECT NOT EXISTS (SELECT FROM outbox.destinations WHERE failing_since IS NOT NULL)`)
	require.Len(t, claim(t, store, request()).Messages, 45, "a success lifts the cap at once")
}

// The runs of as many messages as the cap allows are lost together (a namespace is
// lost, somebody terminates them all) while the breaker is not open: then nobody
// probes, and only a claim finds them.
func TestCapCountsNoLostRuns(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	enqueue(t, pool, messages("sqs://down", 210)...)
	execute(t, pool, `UPDATE outbox.messages SET retrying = true, available_at = now() - interval '1 second'`)
	fail(store, "sqs://down", errDown)
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE failing_since IS NOT NULL)`)
	require.NotEmpty(t, claim(t, store, request()).Messages)
}

// As many messages as the cap allows fail for reasons of their own, and the
// destination failed once: nobody else would ever be sent to it.
func TestCapIsLiftedWhereTheBreakerDoesNotOpen(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	enqueue(t, pool, messages("sqs://odd", 200)...)
	execute(t, pool, `UPDATE outbox.messages SET retrying = true, available_at = now() + interval '5 minutes'`)
	enqueue(t, pool, messages("sqs://odd", 3)...)
	fail(store, "sqs://odd", errDown)
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE failing_since IS NOT NULL)`)
	require.Empty(t, claim(t, store, request()).Messages)
	execute(t, pool, `UPDATE outbox.destinations SET failing_since = now() - interval '11 minutes'`)
	require.Len(t, claim(t, store, request()).Messages, 3)
}

// All destinations of a target together have one cap on their runs off the fast path.
func TestTheCapIsTheTargets(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	execute(t, pool, `INSERT INTO outbox.messages (id, destination, type, payload, retrying, parked, started,
	    available_at)
		SELECT gen_random_uuid(), 'https://example.org/running/' || n, 'a', '{}', true, true, true,
		    now() + interval '1 hour' FROM generate_series(1, 190) AS n`)
	var due []outflow.Message
	for n := range 30 {
		due = append(due, message(hook(n)))
	}
	due = append(due, messages("https://example.com/x", 30)...)
	enqueue(t, pool, due...)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since)
		VALUES ('https://example.org', 1, now())`)
	got := map[string]int{}
	req := request()
	req.Allowance = 30
	for d, n := range byDestination(claim(t, store, req)) {
		got[outbox.TargetOf(d)] += n
	}
	require.Equal(t, map[string]int{"https://example.org": 10, "https://example.com": 30}, got)
}

// A path that failed once is not stopped by another's runs: one of its messages is tried.
func TestAnotherPathsRunsStopNoMessage(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	execute(t, pool, `INSERT INTO outbox.messages (id, destination, type, payload, retrying, parked, started,
	    available_at)
		SELECT gen_random_uuid(), 'https://example.org/failing', 'a', '{}', true, true, true, now() + interval '1 hour'
		    FROM generate_series(1, 200) AS n`)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, delivered_at, failures, failing_since)
		VALUES ('https://example.org/failing', now(), 1, now()), ('https://example.org/works', now(), 1, now())`)
	enqueue(t, pool, messages("https://example.org/failing", 5)...)
	enqueue(t, pool, messages("https://example.org/works", 5)...)
	claimed := claim(t, outboxdb.New(pool), request())
	require.Equal(t, map[string]int{"https://example.org/works": 1}, byDestination(claimed))
	execute(t, pool, `UPDATE outbox.messages SET retrying = true WHERE id = $1`, claimed.Messages[0].ID)
	require.Empty(t, claim(t, outboxdb.New(pool), request()).Messages, "it has a run of its own now")

	execute(t, pool, `UPDATE outbox.messages SET retrying = false WHERE id = $1`, claimed.Messages[0].ID)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since)
		VALUES ('https://example.org', 1, now())`)
	require.Empty(t, claim(t, outboxdb.New(pool), request()).Messages, "its host fails, too")
}
