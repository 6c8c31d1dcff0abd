package operator

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// Thousands of destinations of one scheme hide none of another; those of one host are one.
func TestPendingTargets(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	beginLoad(t, pool)
	execute(t, pool, `
		INSERT INTO outbox.messages (id, destination, type, payload)
		SELECT gen_random_uuid(), d.d, 'a', '{}'
		  FROM (SELECT 'https://h' || n || '.example/x' AS d FROM generate_series(1, 3000) AS n
		        UNION ALL SELECT 'https://one.example/hooks/' || n FROM generate_series(1, 500) AS n
		        UNION ALL SELECT 'https://one.example/?n=' || n FROM generate_series(1, 20) AS n
		        UNION ALL SELECT 'https://one.example:8443/hooks' FROM generate_series(1, 2)
		        UNION ALL SELECT 'sqs://orders' FROM generate_series(1, 2)
		        UNION ALL SELECT 'temporal://orders/' || n FROM generate_series(1, 2) AS n
		        UNION ALL SELECT 'sns://later'
		        UNION ALL SELECT 'rabbitmq:///mail' UNION ALL SELECT 'rabbitmq:///orders'
		        UNION ALL SELECT 'rabbitmq://shop/a' UNION ALL SELECT 'rabbitmq://shop/b') AS d`)
	execute(t, pool, `UPDATE outbox.messages SET due_at = now() + interval '1 day' WHERE destination = 'sns://later'`)
	targets, err := newActs(pool).pendingTargets(t.Context(), 3)
	require.NoError(t, err)
	assert.Equal(t, []pendingTarget{
		{Scheme: "https", Destination: "https://one.example/?n=1", Messages: 520, OfScheme: 3002, DueInScheme: true},
		{Scheme: "https", Destination: "https://one.example:8443/hooks", Messages: 2, OfScheme: 3002, DueInScheme: true},
		{Scheme: "https", Destination: "https://h1.example/x", Messages: 1, OfScheme: 3002, DueInScheme: true},
		{Scheme: "rabbitmq", Destination: "rabbitmq://shop/a", Messages: 2, OfScheme: 3, DueInScheme: true},
		{Scheme: "rabbitmq", Destination: "rabbitmq:///mail", Messages: 1, OfScheme: 3, DueInScheme: true}, // a queue by its name
		{Scheme: "rabbitmq", Destination: "rabbitmq:///orders", Messages: 1, OfScheme: 3, DueInScheme: true},
		{Scheme: "sns", Destination: "sns://later", Messages: 1, OfScheme: 1},
		{Scheme: "sqs", Destination: "sqs://orders", Messages: 2, OfScheme: 1, DueInScheme: true},
		{Scheme: "temporal", Destination: "temporal://orders/1", Messages: 1, OfScheme: 2, DueInScheme: true}, // each is looked up
		{Scheme: "temporal", Destination: "temporal://orders/2", Messages: 1, OfScheme: 2, DueInScheme: true},
	}, targets)
}

// Messages that nobody has claimed are left out, delayed ones too.
func TestClaimed(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store, o := outboxdb.New(pool), newActs(pool)
	claimed := enqueue(t, pool, messages("sqs://a", 3)...)
	require.Len(t, claim(t, pool, request()).Messages, 3)
	_, err := store.Renew(t.Context(), outbox.Renewal{Ref: ref(claimed[0]), Lease: time.Hour})
	require.NoError(t, err)
	_, err = store.Finish(t.Context(), outbox.Ending{Ref: ref(claimed[1]), State: outflow.Delivered})
	require.NoError(t, err)
	late := message("sqs://a")
	late.DueAt = value[time.Time](t, pool, `SELECT now() + interval '1 hour'`)
	enqueue(t, pool, message("sqs://a"), late)
	refs, err := o.claimed(t.Context(), 10)
	require.NoError(t, err)
	var ids []uuid.UUID
	for _, r := range refs {
		ids = append(ids, r.ID)
	}
	assert.ElementsMatch(t, []uuid.UUID{claimed[0], claimed[2]}, ids)
}
