package operator

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// dueOf counts so many due messages of a destination.
func dueOf(destination string, n int) PhaseCount {
	return PhaseCount{Destination: destination, Phase: "due", Messages: n}
}

// Which backlogs are worth a stream.
func TestBacklogs(t *testing.T) {
	t.Parallel()
	o := newActs(teststack.New(t))
	since, never, some := time.Now(), 0, 5
	of := func(state string) []Stream {
		return []Stream{{Destination: "sqs://a", State: state, Recent: true}}
	}
	const long = 10*60*usualPace + 1
	failing := BreakerStatus{Destination: "sqs://a", CoversFrom: "sqs://a", CoversBefore: "sqs://b", FailingSince: &since}
	slow := BreakerStatus{Destination: "sqs://a", CoversFrom: "sqs://a", CoversBefore: "sqs://b", SlowUntil: &since}
	for name, c := range map[string]struct {
		counts   []PhaseCount
		breakers []BreakerStatus
		streams  []Stream
		worth    bool
	}{
		"nothing was delivered":           {[]PhaseCount{dueOf("sqs://a", long)}, nil, nil, true},
		"ten minutes":                     {[]PhaseCount{dueOf("sqs://a", long-1)}, nil, nil, false},
		"it is not due":                   {[]PhaseCount{{Destination: "sqs://a", Phase: "delayed", Messages: long}}, nil, nil, false},
		"no streams there":                {[]PhaseCount{dueOf("https://a.example/in", long)}, nil, nil, false},
		"it fails":                        {[]PhaseCount{dueOf("sqs://a", long)}, []BreakerStatus{failing}, nil, false},
		"another fails":                   {[]PhaseCount{dueOf("sqs://b", long)}, []BreakerStatus{failing}, nil, true},
		"it is slow":                      {[]PhaseCount{dueOf("sqs://a", long)}, []BreakerStatus{slow}, nil, true},
		"a stream runs":                   {[]PhaseCount{dueOf("sqs://a", long)}, nil, of(StreamRuns), false},
		"a stream is paused":              {[]PhaseCount{dueOf("sqs://a", long)}, nil, of(string(outbox.StreamPaused)), false},
		"a stream could not go on":        {[]PhaseCount{dueOf("sqs://a", long)}, nil, of(string(outbox.StreamFailing)), false},
		"a stream drained an earlier one": {[]PhaseCount{dueOf("sqs://a", long)}, nil, of(string(outbox.StreamDrained)), true},
		"another's stream runs":           {[]PhaseCount{dueOf("sqs://b", long)}, nil, of(StreamRuns), true},
		"an operator wants none":          {[]PhaseCount{dueOf("sqs://a", long)}, nil, []Stream{{Destination: "sqs://a", State: StreamNone, Above: &never}}, false},
		"starters are to begin one":       {[]PhaseCount{dueOf("sqs://a", long)}, nil, []Stream{{Destination: "sqs://a", State: StreamNone, Above: &some}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			backlogs, err := o.Backlogs(t.Context(), c.counts, c.breakers, c.streams)
			require.NoError(t, err)
			if !c.worth {
				assert.Empty(t, backlogs)
				return
			}
			require.Len(t, backlogs, 1)
			assert.Equal(t, c.counts[0].Destination, backlogs[0].Destination)
			assert.Equal(t, long, backlogs[0].Due)
			assert.InDelta(t, usualPace, backlogs[0].PerSecond, 0.001)
			assert.InDelta(t, 600, backlogs[0].Seconds, 1)
		})
	}
}

// The pace is that of the destination's runs in the last minute, or since the first of them.
func TestBacklogsAtTheirPace(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	store := outboxdb.New(pool)
	deliver := func(destination string, n int, streamed bool) {
		ids := enqueue(t, pool, messages(destination, n)...)
		for _, id := range ids {
			_, err := store.Finish(t.Context(), outbox.Ending{Ref: ref(id), State: outflow.Delivered, Attempts: 1, Streamed: streamed})
			require.NoError(t, err)
		}
	}
	ended := func(destination, ago string) {
		execute(t, pool, `UPDATE outbox.messages SET finished_at = now() - $2::text::interval WHERE destination = $1`, destination, ago)
	}
	deliver("sqs://steady", 100, false)
	ended("sqs://steady", "50 seconds")
	deliver("sqs://new", 40, false)
	ended("sqs://new", "1 second")
	deliver("sqs://past", 40, false)
	ended("sqs://past", "61 seconds")
	deliver("sqs://streamed", 40, true)
	execute(t, pool, `UPDATE outbox.messages SET streamed = true WHERE destination = 'sqs://streamed'`)
	backlogs, err := o.Backlogs(t.Context(), []PhaseCount{
		dueOf("sqs://steady", 2_000), dueOf("sqs://new", 20_000), dueOf("sqs://past", 2_000), dueOf("sqs://streamed", 2_000),
		dueOf("sqs://few", 999),
	}, nil, nil)
	require.NoError(t, err)
	require.Len(t, backlogs, 2, "%v", backlogs)
	assert.Equal(t, "sqs://new", backlogs[0].Destination)
	assert.InDelta(t, 8, backlogs[0].PerSecond, 0.5, "at least five seconds")
	assert.Equal(t, "sqs://steady", backlogs[1].Destination)
	assert.InDelta(t, 2, backlogs[1].PerSecond, 0.2)
	assert.InDelta(t, 1_000, backlogs[1].Seconds, 100)

	// It is read along the index of final rows, whatever ended earlier.
	beginLoad(t, pool)
	execute(t, pool, `INSERT INTO outbox.messages (id, destination, type, payload, state, finished_at)
		SELECT gen_random_uuid(), 'sqs://steady', 'a', '{}', 'delivered', now() - interval '1 hour' FROM generate_series(1, 20000)`)
	execute(t, pool, `ANALYZE outbox.messages`)
	plan := teststack.Explain(t, pool, "force_custom_plan", pacesSQL, []string{"sqs://steady"}, paceSample)
	var indexes []string
	plan.Each(func(p teststack.Plan) {
		if p.Index != "" {
			indexes = append(indexes, p.Index)
		}
	})
	assert.Equal(t, []string{"messages_finished"}, indexes)
	assert.Less(t, plan.Buffers(), 200)
}
