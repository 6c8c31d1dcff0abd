package outboxdb_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
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
	ids := enqueue(t, pool, message(hook(1)), message(hook(2)), message("https://example.org:8443/x"),
		message("https://example.org.uk/x"))
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

// Go and SQL have the same target of each destination: those of a task queue share one.
func TestTargets(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	for destination, target := range map[string]string{
		"sqs://orders?region=eu-west-1": "sqs://orders?region=eu-west-1", "https://example.org:1/a/b?c": "https://example.org:1",
		"http://localhost/": "http://localhost", "rabbitmq:///q": "rabbitmq://", "rabbitmq://a%2Fb/c": "rabbitmq://a%2Fb",
		"temporal://orders/Process":                           "temporal://orders",
		"temporal://orders/Cart?namespace=shop&signal=add%2F": "temporal://orders", "temporal://a%2Fb/C": "temporal://a%2Fb",
	} {
		require.Equal(t, target, outbox.TargetOf(destination))
		require.Equal(t, target, value[string](t, pool,
			`SELECT `+outboxdb.TargetOfSQL+` FROM (SELECT $1::text AS destination) AS m`, destination))
	}
}

// A breaker covers the destinations of its target, and the row of a scheme all of the scheme, but
// neither covers any other, however their names end.
func TestWhatARowCovers(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	for name, c := range map[string]struct{ covered, others []string }{
		"rabbitmq://": {[]string{"rabbitmq:///q"},
			[]string{"rabbitmq://orders/paid", "rabbitmq://a%2Fb/c"}},
		"rabbitmq://orders": {[]string{"rabbitmq://orders/paid"},
			[]string{"rabbitmq://orders2/a", "rabbitmq:///orders"}},
		"https://example.org/?to=app://": {[]string{"https://example.org/?to=app://"},
			[]string{"https://example.org/?to=b"}},
		"x-file://a://": {[]string{"x-file://a://"}, []string{"x-file://b"}},
		"sns:": {[]string{"sns://news", "sns://zebra"},
			[]string{"sqs://orders", "temporal://a/B"}},
		"x-file:":   {[]string{"x-file://a", "x-file://~"}, []string{"x-files://a", "x-fil://z"}},
		"rabbitmq:": {[]string{"rabbitmq:///q", "rabbitmq://orders/paid"}, []string{"sqs://q"}},
	} {
		execute(t, pool, `INSERT INTO outbox.destinations (destination) VALUES ($1)`, name)
		covers := func(destination string) bool {
			return value[bool](t, pool, `SELECT $2 >= covers_from AND $2 < covers_before
				FROM outbox.destinations WHERE destination = $1`, name, destination)
		}
		for _, destination := range c.covered {
			require.True(t, covers(destination), "%s covers %s", name, destination)
		}
		for _, destination := range c.others {
			require.False(t, covers(destination), "%s covers %s", name, destination)
		}
	}
}

// A lost connection closes a task queue for all of its workflows; what Temporal answers, such as a
// namespace's throttle, closes one destination.
func TestATaskQueueIsATarget(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	const throttled, other = "temporal://orders/Process?namespace=eu", "temporal://orders/Process?namespace=us"
	reach(t, store, throttled, other)
	for range 8 {
		fail(store, throttled, errAnswered)
	}
	waitFor(t, pool, isOpen, throttled)
	enqueue(t, pool, message(throttled))
	first := enqueue(t, pool, message(other))
	require.Equal(t, first, idsOf(claim(t, outboxdb.New(pool), request())))

	for range 8 {
		fail(store, other, errSilent)
	}
	waitFor(t, pool, isOpen, "temporal://orders")
	enqueue(t, pool, message(other), message("temporal://orders/Another"))
	elsewhere := enqueue(t, pool, message("temporal://ordersx/Process"))
	require.Equal(t, elsewhere, idsOf(claim(t, outboxdb.New(pool), request())), "another task queue")
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
	var failures int
	for n := range 12 {
		failures = fail(store, hook(n), errAnswered)
	}
	require.Equal(t, 12, failures, "they count together, so that most of them wait as rows")
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

// A host whose paths are used once each costs no row a path.
func TestPathsThatAreUsedOnceAreNotNoted(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	for n := range 50 {
		acknowledge(store, hook(n))
	}
	reach(t, store, "https://example.org/customer")
	waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations
	    WHERE destination = 'https://example.org/customer')`)
	require.Equal(t, 1, value[int](t, pool, `SELECT count(*) FROM outbox.destinations`))
}
