package outboxdb_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// A starter without the publisher chooses no probes of destinations whose messages another starter
// claims and sends: neither of those that fail nor of those that are missing.
func TestProbesAreLeftToWhoCanSendThem(t *testing.T) {
	t.Parallel()
	process := func(scans bool, schemes ...string) []outbox.Process {
		return []outbox.Process{{ID: uuid.New(), Schemes: schemes, Scans: scans}}
	}
	https, sqs := process(true, "https"), process(true, "sqs")
	for name, c := range map[string]struct {
		own, others []outbox.Process
		taken       int
	}{
		"nobody has the publisher":      {https, nil, 2},
		"a worker has it":               {https, process(false, "sqs"), 2},
		"a starter has it":              {https, sqs, 0},
		"a starter has another":         {https, process(true, "sns"), 2},
		"a starter does not say":        {https, process(true), 0},
		"this starter has it, too":      {process(true, "sqs"), sqs, 2},
		"this starter does not say":     {process(true), sqs, 2},
		"this starter has not said yet": {nil, sqs, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			for _, p := range c.others {
				require.NoError(t, outboxdb.New(pool).Announce(t.Context(), p))
			}
			store := opened(t, pool)
			for _, p := range c.own {
				require.NoError(t, store.Announce(t.Context(), p))
			}
			enqueue(t, pool, message("sqs://down"), message("sqs://missing"))
			miss(t, pool, store, "sqs://missing")
			probeNow(t, pool)
			probes, err := store.TakeProbes(t.Context())
			require.NoError(t, err)
			found, err := store.TakeFound(t.Context(), nil)
			require.NoError(t, err)
			require.Len(t, append(probes, found...), c.taken)
		})
	}
}

// A destination that a look-up has found is missing no more when its message fails, whoever's failure
// that is: its own, its target's, or its target's new destinations'.
func TestFoundDestinationThatFails(t *testing.T) {
	t.Parallel()
	answered := &outflow.Failure{Class: outflow.ClassUnavailable, Answered: true, Err: errors.New("busy")}
	for name, c := range map[string]struct {
		destination string
		err         error
		counts      string
	}{
		"a queue":           {"sqs://orders", errDown, "sqs://orders"},
		"the target":        {"rabbitmq://events/placed", errDown, "rabbitmq://events"},
		"a new destination": {"rabbitmq://events/placed", answered, "rabbitmq://events#new"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			store := outboxdb.New(pool)
			enqueue(t, pool, message(c.destination))
			miss(t, pool, store, c.destination)
			probeNow(t, pool)
			probes, err := store.TakeFound(t.Context(), func(context.Context, string) error { return nil })
			require.NoError(t, err)
			require.Len(t, probes, 1)
			fail(store, c.destination, c.err)
			waitFor(t, pool, `SELECT EXISTS (SELECT FROM outbox.destinations WHERE destination = $1 AND failures > 0)`,
				c.counts)
			waitFor(t, pool, `SELECT NOT EXISTS (SELECT FROM outbox.destinations WHERE missing_since IS NOT NULL)`)
		})
	}
}
