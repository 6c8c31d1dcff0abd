package scanner_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/scanner"
)

// Destinations that are missing are one line a minute, however many and however often they are seen.
func TestMissingDestinationsAreLoggedOnceAMinute(t *testing.T) {
	const line = "messages wait as rows: their destinations do not exist, or nobody publishes to their scheme"
	inWorld(t, scanner.Options{MissingGrace: time.Hour}, func(w *world) {
		w.table.missing = map[string]string{}
		for n := range 1000 {
			destination := fmt.Sprintf("sqs://missing-%d", n)
			w.table.missing[destination] = destination + ": no such queue (create the queue)"
		}
	}, func(w *world) {
		pass(59 * time.Second)
		lines := w.logs.fieldsOf(line)
		require.Len(t, lines, 1)
		assert.Equal(t, "1000", lines[0]["destinations"])
		assert.Equal(t, "1h0m0s", lines[0]["end_dead_after"])
		assert.Contains(t, lines[0]["reasons"], "no such queue (create the queue)", "what to do")
		pass(time.Minute)
		assert.Equal(t, 2, w.logs.count(line))
	})
}

// Messages that a claim ended are summed up: one line now, and what comes later within a minute.
func TestMessagesThatWaitedTooLongAreLogged(t *testing.T) {
	const line = "messages ended dead: their destinations did not exist, or nobody published to their scheme, for too long"
	ended := func(state outflow.State, n int) (all []outflow.Outcome) {
		for range n {
			all = append(all, outflow.Outcome{State: state, Destination: "sqs://missing", LastError: "no such queue"})
		}
		return all
	}
	inWorld(t, scanner.Options{}, func(w *world) {
		w.table.ended = append(ended(outflow.Dead, 1000), ended(outflow.Expired, 3)...)
	}, func(w *world) {
		pass(time.Second)
		lines := w.logs.fieldsOf(line)
		require.Len(t, lines, 1)
		assert.Equal(t, map[string]string{"destinations": "1", "messages": "1000", "reasons": "[no such queue]"},
			lines[0])
		for range 5 {
			w.table.set(func(t *table) { t.ended = ended(outflow.Dead, 10) })
			pass(5 * time.Second)
		}
		require.Len(t, w.logs.fieldsOf(line), 1)
		pass(time.Minute)
		lines = w.logs.fieldsOf(line)
		require.Len(t, lines, 2)
		assert.Equal(t, "50", lines[1]["messages"])
	})
}

// Runs that were signalled because their destination is missing have another line than those of one
// that has recovered; most have no such runs, and no line.
func TestRunsOfMissingDestinationsHaveTheirLine(t *testing.T) {
	const missing = "a destination does not exist: its retrying runs were signalled, and their messages wait as rows"
	for runs, lines := range map[int]int{0: 0, 3: 1} {
		inWorld(t, scanner.Options{}, func(w *world) {
			w.table.recovered = []outbox.Recovered{{Destination: "sqs://missing", Missing: true}}
			w.table.breakerActive = true
			for range runs {
				w.table.retrying = append(w.table.retrying,
					outbox.Leased{Ref: outbox.Ref{ID: uuid.New(), Generation: 1}})
			}
		}, func(w *world) {
			pass(10 * time.Second)
			assert.Equal(t, lines, w.logs.count(missing))
			assert.Zero(t, w.logs.count("a destination has recovered: its retrying runs were signalled"))
			assert.Len(t, w.engine.seen().signals, runs)
		})
	}
}

// The scanner hands its grace and its look to the table, and says what it publishes to for as long as
// it runs.
func TestWhatTheScannerSaysOfItself(t *testing.T) {
	for given, want := range map[time.Duration]time.Duration{0: 10 * time.Minute, -1: 0, time.Hour: time.Hour} {
		inWorld(t, scanner.Options{
			MissingGrace: given, Schemes: []string{"sqs", "https"},
			Check: func(context.Context, string) error { return nil },
		}, func(w *world) { w.table.breakerActive = true }, func(w *world) {
			pass(time.Minute)
			w.table.set(func(table *table) {
				assert.Equal(t, want, table.claims[0].request.MissingGrace)
				assert.True(t, table.looks)
				require.Len(t, table.announced, 5, "at the start, and every 15 seconds")
				p := table.announced[0]
				assert.Equal(t, []string{"http", "https", "sqs"}, p.Schemes)
				assert.True(t, p.Scans)
				assert.NotEmpty(t, p.Name)
				assert.Equal(t, p, table.announced[4])
				assert.Empty(t, table.withdrawn)
			})
			w.stop()
			w.table.set(func(table *table) { assert.Len(t, table.withdrawn, 1) })
		})
	}
	inWorld(t, scanner.Options{}, nil, func(w *world) {
		pass(time.Second)
		w.table.set(func(table *table) {
			assert.Nil(t, table.announced[0].Schemes, "it does not say")
			assert.False(t, table.looks)
		})
		assert.Zero(t, w.logs.count(noSchemes))
	})
	inWorld(t, scanner.Options{Refuse: func(string) error { return nil }}, nil, func(w *world) {
		pass(time.Second)
		assert.Equal(t, 1, w.logs.count(noSchemes))
	})
}

const noSchemes = "Options.Refuse is set and Options.Schemes is not: " +
	"messages to a scheme that no process publishes to wait without an end"
