package outboxdb_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
)

// A process begins with a few messages of each destination, and with its whole
// allowance once it has seen some arrive; a failure takes it back.
func TestSlowStart(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	enqueue(t, pool, messages("sqs://a", 400)...)
	req := request()
	req.SlowStart, req.Allowance = true, 150
	take := func(open int) int {
		req.Open = map[string]int{"sqs://a": open}
		return len(claim(t, store, req).Messages)
	}
	require.Equal(t, 20, take(0))
	require.Zero(t, take(20))
	for range 20 {
		acknowledge(store, "sqs://a")
	}
	require.Equal(t, 100, take(0))
	for range 100 {
		acknowledge(store, "sqs://a")
	}
	require.Equal(t, 150, take(0), "never more than its allowance")
	fail(store, "sqs://a", errDown)
	require.Equal(t, 15, take(5))
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
	req.NewDestinations, req.MaxMessages = 20, 200
	got := byDestination(claim(t, store, req))
	require.Equal(t, 30, got["sqs://old"])
	delete(got, "sqs://old")
	require.Len(t, got, 20, "one each")
	req.NewDestinations = -1
	require.Empty(t, claim(t, store, req).Messages)

	for range 20 { // most of what is new fails: little of it is tried from then on
		fail(store, "sqs://new-1", errSilent)
	}
	req.NewDestinations = 20
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
	req.NewDestinations = 50
	require.Equal(t, healthy, idsOf(claim(t, store, req)))
}

// Nor do those of a host that has as many runs off the fast path as it may.
func TestNewDestinationsOfACappedHostHoldUpNoOther(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	execute(t, pool, `INSERT INTO outbox.messages (id, destination, type, payload, retrying, parked, started,
	    available_at)
		SELECT gen_random_uuid(), 'https://a.example.org/running/' || n, 'a', '{}', true, true, true,
		    now() + interval '1 hour' FROM generate_series(1, 200) AS n`)
	execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since)
		VALUES ('https://a.example.org', 1, now())`)
	var capped []outflow.Message
	for n := range 20 {
		capped = append(capped, message(fmt.Sprintf("https://a.example.org/%d", n)))
	}
	enqueue(t, pool, capped...)
	healthy := enqueue(t, pool, message("https://b.example.org/x"))
	req := request()
	req.NewDestinations = 2
	for range 1000 {
		if got := claim(t, store, req).Messages; len(got) > 0 {
			require.Equal(t, healthy[0], got[0].ID)
			return
		}
	}
	t.Fatal("a healthy host's message was never claimed")
}
