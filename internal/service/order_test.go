package service

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/outboxdb"
)

// The messages of 100 keys arrive in the order of their commits, while one publish in twenty fails
// and some messages are rejected for good.
func TestOrderOfManyKeys(t *testing.T) {
	t.Parallel()
	const keys, each = 100, 4
	w := newWorld(t)
	var mu sync.Mutex
	arrived := map[string][]int{}
	failed := map[string]bool{}
	w.broker.hear = func(m outflow.Message) error {
		mu.Lock()
		defer mu.Unlock()
		key, n, _ := strings.Cut(string(m.Payload), "/")
		place, err := strconv.Atoi(n)
		if err != nil {
			return err
		}
		if len(failed) < keys*each/20 && place == 1 && !failed[key] {
			failed[key] = true
			return outflow.Retryable(errors.New("not now"))
		}
		arrived[key] = append(arrived[key], place)
		return nil
	}
	for n := range each {
		require.NoError(t, pgx.BeginFunc(t.Context(), w.pool, func(tx pgx.Tx) error {
			var msgs []outflow.Message
			for key := range keys {
				msgs = append(msgs, outflow.Message{
					Destination: "sqs://orders", Type: "order-placed", OrderingKey: fmt.Sprintf("key-%d", key),
					Payload: fmt.Appendf(nil, "key-%d/%d", key, n),
				})
			}
			_, err := outboxdb.Enqueue(t.Context(), tx, msgs...)
			return err
		}))
	}
	w.work()
	w.scan()
	pending := func() (n int) {
		require.NoError(t, w.pool.QueryRow(t.Context(),
			`SELECT count(*) FROM outbox.messages WHERE state = 'pending'`).Scan(&n))
		return n
	}
	require.Eventually(t, func() bool { return pending() == 0 }, 2*time.Minute, 50*time.Millisecond)
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, arrived, keys)
	for key, places := range arrived {
		assert.True(t, slices.IsSorted(places), "%s arrived as %v", key, places)
		assert.Len(t, slices.Compact(slices.Clone(places)), each, "%s arrived as %v", key, places)
	}
	assert.NotEmpty(t, failed)
}

// The setting reaches the table.
func TestOrderDead(t *testing.T) {
	t.Parallel()
	assert.Empty(t, storeOptions(config.Config{}))
	assert.Len(t, storeOptions(config.Config{PassDead: true}), 1)
}
