package outboxtest_test

import (
	"errors"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb/outboxtest"
)

func placed() outflow.Message {
	return outflow.Message{Destination: outflow.ByRoute, Type: "order-placed", Payload: []byte(`{"id": 7}`)}
}

func TestRequireEnqueuedByRoute(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	tx := begin(t, pool)
	outboxtest.SetRoutes(t, tx, "order-placed", "sqs://orders", "arn:aws:sqs:eu-west-1:123456789012:audit")
	mail := outflow.Message{Destination: "sqs://mail", Type: "welcome", Payload: []byte("x")}
	ids := enqueue(t, tx, placed(), mail)
	group := placed()
	group.ID = ids[0]
	other := placed()
	other.Payload = []byte(`{"id": 8}`)
	for name, c := range map[string]struct {
		want []outflow.Message
		text []string // empty: the assertion holds
	}{
		"as one": {[]outflow.Message{mail, group}, nil},
		"by destination": {[]outflow.Message{{Destination: "sqs://orders"}, mail,
			{ID: outflow.RoutedID(ids[0], "sqs://audit?account=123456789012&region=eu-west-1")}}, nil},
		"another payload": {[]outflow.Message{mail, other},
			[]string{`missing:     order-placed to routes: {"id": 8}`, `closest is order-placed to routes: {"id": 7}`}},
		"twice": {[]outflow.Message{mail, group, group}, []string{"wants 3 messages, of 2 that were enqueued"}},
	} {
		t.Run(name, func(t *testing.T) {
			text := textOf(t, func(t testing.TB) { outboxtest.RequireEnqueued(t, tx, c.want...) })
			if len(c.text) == 0 {
				require.Empty(t, text)
			}
			for _, part := range c.text {
				require.Contains(t, text, part)
			}
		})
	}
}

func TestSetRoutes(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	routes := func() []string {
		return teststack.Values[string](t, pool, `SELECT type || ' ' || destination FROM outbox.routes ORDER BY 1`)
	}
	outboxtest.SetRoutes(t, pool, "a", "sqs://one", "sqs://two")
	outboxtest.SetRoutes(t, pool, "b", outflow.RouteToNowhere)
	outboxtest.SetRoutes(t, pool, "a", "sqs://two", "sqs://three")
	assert.Equal(t, []string{"a sqs://three", "a sqs://two", "b none"}, routes())
	for _, db := range teststack.OpenSQL(t, pool) {
		outboxtest.SetRoutesSQL(t, db, "a")
		outboxtest.SetRoutesSQL(t, db, "c", "sqs://c")
	}
	assert.Equal(t, []string{"b none", "c sqs://c"}, routes())
	outboxtest.SetRoutes(t, begin(t, pool), "c")
	assert.Equal(t, []string{"b none", "c sqs://c"}, routes(), "that was rolled back, or will be")
	text := textOf(t, func(t testing.TB) { outboxtest.SetRoutes(t, pool, "a", "nonsense") })
	assert.Contains(t, text, "outboxtest: setting routes: ")
	assert.Contains(t, text, "routes_destination")
}

// Of a group in which one message fails, the others are sent once.
func TestOnlyWhatFailedIsTriedAgain(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	outboxtest.SetRoutes(t, pool, "order-placed", "sqs://up", "sqs://shaky", "sqs://missing")
	group := commit(t, pool, placed())[0]
	sent := map[string][]uuid.UUID{}
	deliveries := outboxtest.Deliver(t, pool, outboxtest.PublisherFunc(func(m outflow.Message) error {
		sent[m.Destination] = append(sent[m.Destination], m.ID)
		switch {
		case m.Destination == "sqs://missing":
			return outflow.Permanent(errors.New("no such queue"))
		case m.Destination == "sqs://shaky" && len(sent[m.Destination]) < 4:
			return outflow.Unavailable(errors.New("503"))
		}
		return nil
	}))
	require.Len(t, deliveries, 3)
	for destination, times := range map[string]int{"sqs://up": 1, "sqs://shaky": 4, "sqs://missing": 1} {
		require.Len(t, sent[destination], times, destination)
		for _, id := range sent[destination] {
			require.Equal(t, outflow.RoutedID(group, destination), id, "each attempt has the same ID")
		}
	}
	ends := map[string]outflow.State{}
	for _, d := range deliveries {
		ends[d.Message.Destination] = d.Outcome.State
	}
	require.Equal(t, map[string]outflow.State{"sqs://up": outflow.Delivered, "sqs://shaky": outflow.Delivered,
		"sqs://missing": outflow.Dead}, ends)
}
