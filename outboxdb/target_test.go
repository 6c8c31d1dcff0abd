package outboxdb_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// errAnswered is what a path answers, errSilent what the connection to its host says.
var (
	errAnswered = &outflow.Failure{Class: outflow.ClassUnavailable, Answered: true, Err: errors.New("HTTP status 500")}
	errSilent   = outflow.Unavailable(errors.New("no connection in time"))
)

func hook(n int) string { return fmt.Sprintf("https://example.org/hooks/%d", n) }

// reach notes that messages have reached destinations, in a process of its own.
func reach(t *testing.T, s *outboxdb.Store, destinations ...string) {
	t.Helper()
	for _, d := range destinations {
		acknowledge(s, d)
		acknowledge(s, d) // of many paths, those are noted that are used again
	}
}

// Where there is no answer, the whole host is closed: its destinations share one breaker
// and one probe.
func TestAHostThatIsSilentIsClosedForAllItsPaths(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	for n := range 5 {
		fail(store, hook(n), errSilent) // each path once
	}
	waitFor(t, pool, isOpen, "https://example.org")
	ids := enqueue(t, pool, message(hook(1)), message(hook(2)), message("https://example.org:8443/x"), message("https://example.org.uk/x"))
	require.ElementsMatch(t, ids[2:], idsOf(claim(t, store, request())), "other ports and hosts are other targets")
	probeNow(t, pool)
	probes, err := store.TakeProbes(t.Context())
	require.NoError(t, err)
	require.Len(t, probes, 1)
	require.Equal(t, []uuid.UUID{probes[0].ID}, idsOf(claim(t, store, request())))
	acknowledge(store, probes[0].Destination)
	waitFor(t, pool, `SELECT NOT EXISTS (SELECT FROM outbox.destinations WHERE open_until IS NOT NULL)`)
	require.Len(t, claim(t, store, request()).Messages, 1)
}

// What a path answers is its own: a host may be the gateway of a thousand customers.
func TestAPathThatAnswers500ClosesNoOther(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	reach(t, store, hook(1), hook(2))
	for range 8 {
		fail(store, hook(1), errAnswered)
	}
	waitFor(t, pool, isOpen, hook(1))
	enqueue(t, pool, messages(hook(1), 3)...)
	others := enqueue(t, pool, message(hook(2)), message(hook(3)))
	require.ElementsMatch(t, others, idsOf(claim(t, store, request())))
	elsewhere := outboxdb.New(pool)
	others = enqueue(t, pool, message(hook(2)))
	require.Equal(t, others, idsOf(claim(t, elsewhere, request())), "as every other process sees it")
	r, err := elsewhere.Renew(t.Context(), outbox.Renewal{Ref: ref(others[0]), Lease: time.Minute})
	require.NoError(t, err)
	require.False(t, r.HeldBack)
}

// A message's ID in the path makes each destination new. Those that fail are held back
// together, and close nothing to the destinations that work.
func TestNewPathsThatFailAreHeldBackTogether(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	reach(t, store, "https://example.org/customer")
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE delivered_at IS NOT NULL)`)
	var inARow int
	for n := range 12 {
		inARow = fail(store, hook(n), errAnswered)
	}
	require.Equal(t, 12, inARow, "they count together, so that most of them wait as rows")
	waitFor(t, pool, isOpen, "https://example.org#new")
	for n := range 100 {
		enqueue(t, pool, message(hook(1000+n)))
	}
	customer := enqueue(t, pool, message("https://example.org/customer"))
	elsewhere := outboxdb.New(pool)
	require.Equal(t, customer, idsOf(claim(t, elsewhere, request())))

	probeNow(t, pool)
	probes, err := elsewhere.TakeProbes(t.Context())
	require.NoError(t, err)
	require.Len(t, probes, 1)
	require.NotEqual(t, "https://example.org/customer", probes[0].Destination)
	held, err := store.Renew(t.Context(), outbox.Renewal{Ref: ref(customer[0]), Lease: time.Minute})
	require.NoError(t, err)
	require.False(t, held.HeldBack, "what has been reached is not new")
	require.Equal(t, []uuid.UUID{probes[0].ID}, idsOf(claim(t, elsewhere, request())))
	acknowledge(elsewhere, probes[0].Destination)
	waitFor(t, pool, `SELECT NOT EXISTS (SELECT FROM outbox.destinations WHERE open_until IS NOT NULL)`)
	require.Eventually(t, func() bool {
		claim(t, elsewhere, request())
		return value[int](t, pool, `SELECT count(*) FROM outbox.messages WHERE started`) == 101
	}, 10*time.Second, time.Millisecond)
}

// All destinations of a target together have one cap on their runs off the fast path.
func TestTheCapIsTheTargets(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	execute(t, pool, `INSERT INTO outbox.messages (id, destination, type, payload, retrying, parked, started, available_at)
		SELECT gen_random_uuid(), 'https://example.org/running/' || n, 'a', '{}', true, true, true, now() + interval '1 hour' FROM generate_series(1, 190) AS n`)
	var due []outflow.Message
	for n := range 30 {
		due = append(due, message(hook(n)))
	}
	due = append(due, messages("https://example.com/x", 30)...)
	enqueue(t, pool, due...)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since) VALUES ('https://example.org', 1, now())`)
	got := map[string]int{}
	req := request()
	req.Allowance = 30
	for d, n := range byDestination(claim(t, store, req)) {
		got[outbox.TargetOf(d)] += n
	}
	require.Equal(t, map[string]int{"https://example.org": 10, "https://example.com": 30}, got)
}

// A path that failed once is not stopped by another's runs: one of its messages is tried.
func TestAnotherPathsRunsStopNobody(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	execute(t, pool, `INSERT INTO outbox.messages (id, destination, type, payload, retrying, parked, started, available_at)
		SELECT gen_random_uuid(), 'https://example.org/failing', 'a', '{}', true, true, true, now() + interval '1 hour' FROM generate_series(1, 200) AS n`)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, delivered_at, failures, failing_since)
		VALUES ('https://example.org/failing', now(), 1, now()), ('https://example.org/works', now(), 1, now())`)
	enqueue(t, pool, messages("https://example.org/failing", 5)...)
	enqueue(t, pool, messages("https://example.org/works", 5)...)
	claimed := claim(t, outboxdb.New(pool), request())
	require.Equal(t, map[string]int{"https://example.org/works": 1}, byDestination(claimed))
	execute(t, pool, `UPDATE outbox.messages SET retrying = true WHERE id = $1`, claimed.Messages[0].ID)
	require.Empty(t, claim(t, outboxdb.New(pool), request()).Messages, "it has a run of its own now")

	execute(t, pool, `UPDATE outbox.messages SET retrying = false WHERE id = $1`, claimed.Messages[0].ID)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since) VALUES ('https://example.org', 1, now())`)
	require.Empty(t, claim(t, outboxdb.New(pool), request()).Messages, "its host fails, too")
}

// A hundred thousand messages that are not due yet, each to a destination of its own,
// cost a look at the table nothing.
func TestWhatIsNotDueCostsNothing(t *testing.T) {
	t.Parallel()
	pool := another(t, teststack.New(t), utc)
	healthy := enqueue(t, pool, message("sqs://zealous"))
	look := func() int {
		walk := explain(t, pool, "force_generic_plan", outboxdb.StatementDueDestinations, "", outboxdb.WalkDestinations, 32, []string{}, []string{})
		unpark := explain(t, pool, "force_generic_plan", outboxdb.StatementUnpark, "100 years", 1000, 250, 1000)
		require.EqualValues(t, 1, walk.Rows)
		require.EqualValues(t, 1, unpark.Rows)
		return walk.buffers() + unpark.buffers()
	}
	before := look()
	delayed := make([]outflow.Message, 5000)
	for i := range delayed {
		delayed[i] = outflow.Message{Destination: fmt.Sprintf("https://host-%d.example.org/hooks/%d", i, i), Type: "a", Payload: []byte("{}"), DueIn: time.Hour}
	}
	enqueue(t, pool, delayed...)
	require.Less(t, look(), before+10)
	require.Equal(t, healthy, idsOf(claim(t, outboxdb.New(pool), request())))

	// Their time comes, for all at once: each is claimed.
	execute(t, pool, `UPDATE outbox.messages SET due_at = now(), available_at = now() WHERE state = 'pending' AND destination LIKE 'https:%'`)
	store := outboxdb.New(pool)
	seen := 0
	for range 500 {
		if seen += len(claim(t, store, request()).Messages); seen == len(delayed) {
			return
		}
	}
	t.Fatalf("%d of %d were claimed", seen, len(delayed))
}

// Every statement that puts a row off parks it, and when its time comes it is claimed.
func TestParkedRowsComeBack(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store, o := outboxdb.New(pool), operator.New(pool, nil, "")
	parked := func(id uuid.UUID) bool {
		return value[bool](t, pool, `SELECT parked FROM outbox.messages WHERE id = $1`, id)
	}
	for name, putOff := range map[string]func(id uuid.UUID){
		"claim": func(uuid.UUID) { require.Len(t, claim(t, store, request()).Messages, 1) },
		"renew": func(id uuid.UUID) {
			_, err := store.Renew(t.Context(), outbox.Renewal{Ref: ref(id), Lease: time.Hour})
			require.NoError(t, err)
		},
		"put back": func(id uuid.UUID) {
			_, err := store.PutBack(t.Context(), ref(id), "503")
			require.NoError(t, err)
		},
		"reschedule": func(id uuid.UUID) {
			_, err := o.Reschedule(t.Context(), []uuid.UUID{id}, time.Time{}, time.Hour, ada)
			require.NoError(t, err)
		},
		"hold back": func(uuid.UUID) {
			req := request()
			req.Refuse = func(string) error { return errors.New("the host is not allowed") }
			require.Empty(t, claim(t, store, req).Messages)
		},
	} {
		id := enqueue(t, pool, message("sqs://a"))[0]
		putOff(id)
		require.True(t, parked(id), name)
		require.Empty(t, claim(t, store, request()).Messages, name)
		execute(t, pool, `UPDATE outbox.messages SET available_at = now() WHERE id = $1`, id)
		require.Equal(t, []uuid.UUID{id}, idsOf(claim(t, store, request())), name)
		execute(t, pool, `DELETE FROM outbox.messages`)
	}
}

// What a process can't send to waits as a row that says why, and is no claim; another
// process may be able to. An operator's cancel ends it at once.
func TestRefusedDestinationsWaitAsRows(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	refused := enqueue(t, pool, messages("https://not-allowed.example.org/x", 3)...)
	enqueue(t, pool, message("sqs://a"))
	req := request()
	req.Refuse = func(d string) error {
		if d == "sqs://a" {
			return nil
		}
		return errors.New("the host is not allowed")
	}
	got := claim(t, store, req)
	require.Equal(t, map[string]int{"sqs://a": 1}, byDestination(got))
	require.Len(t, got.Refused, 1)
	require.NoError(t, got.Problem)
	s := stands(t, pool, refused[0])
	require.Equal(t, "the host is not allowed", *s.LastError)
	require.Zero(t, s.Claims)
	require.InDelta(t, 60, s.LeasedFor, 5)
	require.Empty(t, claim(t, store, req).Refused, "they are not due for a minute")

	cancelled, err := outboxdb.New(pool).RequestCancel(t.Context(), refused[:1], ada.Who, ada.Why)
	require.NoError(t, err)
	require.Equal(t, outflow.Cancelled, cancelled[0].State, "nobody has it")
	execute(t, pool, `UPDATE outbox.messages SET available_at = now() WHERE id = ANY ($1)`, refused)
	require.ElementsMatch(t, refused[1:], idsOf(claim(t, outboxdb.New(pool), request())))
}

// A message that waits as a row, because its destination is refused, ends when its time is
// over, and where somebody cancels it though a run of it may be open. Its producer is told.
func TestRefusedDestinationsMessagesEnd(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	req := request()
	req.Refuse = func(string) error { return errors.New("the host is not allowed") }
	short, withdrawn := message("https://not-allowed.example.org/x"), message("https://not-allowed.example.org/y")
	short.ExpiresIn, short.Callback = time.Minute, "sqs://replies"
	ids := enqueue(t, pool, short, withdrawn, message("https://not-allowed.example.org/x"))
	require.Empty(t, claim(t, store, req).Messages)
	require.Less(t, stands(t, pool, ids[0]).LeasedFor, 60.0, "not beyond its time")

	execute(t, pool, `UPDATE outbox.messages SET expires_at = now() WHERE id = $1`, ids[0])
	execute(t, pool, `UPDATE outbox.messages SET cancel_requested = true WHERE id = $1`, ids[1])
	execute(t, pool, `UPDATE outbox.messages SET available_at = now()`)
	again := outboxdb.New(pool)
	got := claim(t, again, req)
	require.NoError(t, got.Problem)
	require.Empty(t, got.Messages)
	require.Equal(t, []string{"expired", "cancelled", "pending"},
		values[string](t, pool, `SELECT state FROM outbox.messages ORDER BY seq`))
	require.Equal(t, "the host is not allowed", *stands(t, pool, ids[0]).LastError)
	require.True(t, value[bool](t, pool, `SELECT callback_state = 'due' FROM outbox.messages WHERE id = $1`, ids[0]))
}

// Destinations that no message has reached yet share what there is for them; those that
// have been reached are claimed beside them.
func TestNewDestinationsShareTheirPart(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	reach(t, store, "sqs://old")
	var msgs []outflow.Message
	for n := range 50 {
		msgs = append(msgs, messages(fmt.Sprintf("sqs://new-%d", n), 10)...)
	}
	msgs = append(msgs, messages("sqs://old", 30)...)
	enqueue(t, pool, msgs...)
	req := request()
	req.Newcomers, req.MaxMessages = 20, 200
	got := byDestination(claim(t, store, req))
	require.Equal(t, 30, got["sqs://old"])
	delete(got, "sqs://old")
	require.Len(t, got, 20, "one each")
	req.Newcomers = -1
	require.Empty(t, claim(t, store, req).Messages)

	for range 20 { // most of what is new fails: little of it is tried from then on
		fail(store, "sqs://new-1", errSilent)
	}
	req.Newcomers = 20
	require.LessOrEqual(t, len(claim(t, store, req).Messages), 2)
	enqueue(t, pool, messages("sqs://old", 5)...)
	require.Equal(t, 5, byDestination(claim(t, store, req))["sqs://old"])
}

// New destinations behind an open breaker take no place of another host's, even where
// few new ones are claimed at once.
func TestNewDestinationsOfAClosedHostHoldUpNoOther(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	for n := range 12 {
		fail(store, fmt.Sprintf("https://a.example.org/%d", n), errAnswered)
	}
	waitFor(t, pool, isOpen, "https://a.example.org#new")
	var behind []outflow.Message
	for n := range 100 {
		behind = append(behind, message(fmt.Sprintf("https://a.example.org/%d", n)))
	}
	enqueue(t, pool, behind...)
	healthy := enqueue(t, pool, message("https://b.example.org/x"))
	req := request()
	req.Newcomers = 50
	require.Equal(t, healthy, idsOf(claim(t, store, req)))
}

// Nor do those of a host that has as many runs off the fast path as it may.
func TestNewDestinationsOfACappedHostHoldUpNoOther(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	execute(t, pool, `INSERT INTO outbox.messages (id, destination, type, payload, retrying, parked, started, available_at)
		SELECT gen_random_uuid(), 'https://a.example.org/running/' || n, 'a', '{}', true, true, true, now() + interval '1 hour' FROM generate_series(1, 200) AS n`)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since) VALUES ('https://a.example.org', 1, now())`)
	var capped []outflow.Message
	for n := range 20 {
		capped = append(capped, message(fmt.Sprintf("https://a.example.org/%d", n)))
	}
	enqueue(t, pool, capped...)
	healthy := enqueue(t, pool, message("https://b.example.org/x"))
	req := request()
	req.Newcomers = 2
	for range 1000 {
		if got := claim(t, store, req).Messages; len(got) > 0 {
			require.Equal(t, healthy[0], got[0].ID)
			return
		}
	}
	t.Fatal("a healthy host's message was never claimed")
}

// A breaker with nothing behind it closes.
func TestAbandonedBreakersClose(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	enqueue(t, pool, message("sqs://waited-for"))
	execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since, openings, open_until)
		VALUES ('sqs://abandoned', 9, now(), 1, now() - interval '3 minutes'), ('sqs://waited-for', 9, now(), 1, now() - interval '3 minutes'),
		       ('sqs://recent', 9, now(), 1, now())`)
	_, err := outboxdb.New(pool).TakeProbes(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"sqs://recent", "sqs://waited-for"},
		values[string](t, pool, `SELECT destination FROM outbox.destinations WHERE open_until IS NOT NULL ORDER BY 1`))
}

// The breaker of a host's new paths has nothing to do with runs of paths that messages have
// reached: they don't keep it open, and are not told when it closes.
func TestTheBreakerOfNewPathsLeavesTheOthersAlone(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	retrying := func(destination string) uuid.UUID {
		return row(t, pool, `destination = '`+destination+`', retrying = true, available_at = now() + interval '5 minutes'`)
	}
	retrying("https://example.org/customer")
	execute(t, pool, `INSERT INTO outbox.destinations (destination, delivered_at) VALUES ('https://example.org/customer', now())`)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since, recovered_at) VALUES ('https://example.org#new', 0, NULL, now())`)
	recovered, err := store.TakeRecovered(t.Context())
	require.NoError(t, err)
	require.Len(t, recovered, 1)
	fresh := retrying("https://example.org/new")
	told, err := store.Retrying(t.Context(), recovered[0], 10)
	require.NoError(t, err)
	require.Len(t, told, 1)
	require.Equal(t, fresh, told[0].ID)

	open := `UPDATE outbox.destinations SET recovered_at = NULL, probe_until = NULL, failures = 5, failing_since = now(), openings = 1,
		open_until = now() - interval '3 minutes' WHERE destination = 'https://example.org#new'`
	execute(t, pool, open)
	_, err = outboxdb.New(pool).TakeProbes(t.Context())
	require.NoError(t, err)
	require.True(t, value[bool](t, pool, isOpen, "https://example.org#new"), "a new path's message waits")
	execute(t, pool, `DELETE FROM outbox.messages WHERE id = $1`, fresh)
	execute(t, pool, open)
	_, err = outboxdb.New(pool).TakeProbes(t.Context())
	require.NoError(t, err)
	require.False(t, value[bool](t, pool, isOpen, "https://example.org#new"))
}

// Failures that opened no breaker, and behind which nothing waits any more, are forgotten.
func TestStaleFailuresAreForgotten(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	enqueue(t, pool, message("sqs://waited-for"))
	execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since)
		VALUES ('https://example.org#new', 2, now() - interval '11 minutes'), ('sqs://waited-for', 2, now() - interval '11 minutes'), ('sqs://recent', 2, now())`)
	store := outboxdb.New(pool)
	require.True(t, claim(t, store, request()).BreakerActive)
	execute(t, pool, `UPDATE outbox.messages SET parked = false`)
	_, err := store.TakeProbes(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{"sqs://recent", "sqs://waited-for"},
		values[string](t, pool, `SELECT destination FROM outbox.destinations WHERE failing_since IS NOT NULL ORDER BY 1`))
}

// Where abandoned breakers can't be closed, the others are probed all the same.
func TestProbesGoOnWhereAbandonedBreakersStay(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	slow := &slow{these: func(data pgx.TraceQueryStartData) bool { return data.SQL == outboxdb.StatementCloseAbandoned }}
	slow.on.Store(true)
	opened(t, pool)
	id := enqueue(t, pool, message("sqs://down"))[0]
	probeNow(t, pool)
	probes, err := slow.store(t, pool).TakeProbes(t.Context())
	require.ErrorContains(t, err, "closing breakers with nothing behind them")
	require.Len(t, probes, 1)
	require.Equal(t, id, probes[0].ID)
}

// A host whose paths are used once each costs no row a path.
func TestPathsThatAreUsedOnceAreNotNoted(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	for n := range 50 {
		acknowledge(store, hook(n))
	}
	reach(t, store, "https://example.org/customer")
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE destination = 'https://example.org/customer')`)
	require.Equal(t, 1, value[int](t, pool, `SELECT count(*) FROM outbox.destinations`))
}
