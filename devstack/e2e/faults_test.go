package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/devstack/faults"
)

// rate is the load of these tests, in messages a second: enough that a fault
// always meets some in flight, little enough for a laptop that builds meanwhile.
const rate = 30

// fault is one test's load, the programs under it and what was in flight.
type fault struct {
	*world
	load    *faults.Load
	members []*faults.Member
	names   []string
	met     int
}

// underLoad starts two starters, a worker and a load to two queues, and returns
// when deliveries flow.
func underLoad(t *testing.T, env ...string) *fault {
	t.Helper()
	w := newWorld(t)
	// The least there is: what a killed process held comes back when it runs out.
	w.env = append(append(w.env, "OUTFLOW_LEASE=30s"), env...)
	// About what SQS takes; without it a fault finds nothing in flight.
	w.AnswersIn(100 * time.Millisecond)
	f := &fault{world: w, names: []string{"orders", "letters"}}
	for _, name := range []string{faults.Worker, faults.Starter, faults.Starter} {
		f.supervise(name)
	}
	f.load = w.StartLoad(rate, "sqs://orders", "sqs://letters")
	t.Cleanup(f.load.Stop)
	w.eventually(30*time.Second, "deliveries flow", func() bool { return w.count("state = 'delivered'") > 3*rate })
	return f
}

func (f *fault) supervise(name string) *faults.Member {
	f.t.Helper()
	m, err := faults.Supervise(binaries, name, f.env)
	require.NoError(f.t, err)
	f.members = append(f.members, m)
	f.t.Cleanup(func() {
		require.NoError(f.t, m.Stop())
		if f.t.Failed() {
			f.t.Logf("%s said:\n%s", name, m.Said())
		}
	})
	return m
}

// meet notes what is in flight, just before a fault, once there is something.
func (f *fault) meet() {
	f.t.Helper()
	var n int
	f.eventually(10*time.Second, "something is in flight", func() bool {
		var err error
		n, err = f.InFlight(f.t.Context())
		return err == nil && n > 0
	})
	f.met += n
}

// flows waits until a message that was enqueued after now is delivered: the load
// goes on by itself.
func (f *fault) flows(within time.Duration) {
	f.t.Helper()
	began := time.Now()
	var since time.Time
	f.eventually(within, "the database answers", func() bool {
		return f.pool.QueryRow(f.t.Context(), "SELECT clock_timestamp()").Scan(&since) == nil
	})
	f.eventually(within, "the load goes on by itself", func() bool {
		var n int
		err := f.pool.QueryRow(f.t.Context(),
			"SELECT count(*) FROM outbox.messages WHERE state = 'delivered' AND enqueued_at > $1", since).Scan(&n)
		return err == nil && n > rate
	})
	f.t.Logf("flowing %s after the fault", time.Since(began).Round(10*time.Millisecond))
}

// settle stops the load, waits for the last message, and holds what the harness
// is for: nothing lost, no more duplicates than the faults excuse, and no process
// that gave up and was there again only by its supervisor.
func (f *fault) settle(within time.Duration, mayRepeat bool) {
	f.t.Helper()
	f.load.Stop()
	ctx, cancel := context.WithTimeout(f.t.Context(), within)
	defer cancel()
	drained, err := f.Drain(ctx)
	tally, tallyErr := f.load.Tally(f.t.Context(), f.names...)
	require.NoError(f.t, tallyErr)
	tally.Drain, tally.InFlight = drained, f.met
	f.t.Log(tally)
	require.NoError(f.t, err)
	require.Positive(f.t, tally.Enqueued)
	require.Zero(f.t, tally.Lost, "lost: %v", tally.LostIDs)
	if mayRepeat {
		require.LessOrEqual(f.t, tally.Duplicates, f.met, "only what was in flight may be published twice")
	} else {
		require.Zero(f.t, tally.Duplicates, "duplicates")
	}
	for _, m := range f.members {
		require.Empty(f.t, m.Ends())
	}
}

// Whoever has an acknowledgement remembers it until the mark is written: nothing
// that happens to Postgres makes a message go twice.
func TestPostgresRestartedUnderLoad(t *testing.T) {
	f := underLoad(t)
	f.meet()
	require.NoError(t, shared.Application.Crash())
	require.NoError(t, shared.Application.Start(t.Context()))
	f.flows(20 * time.Second)
	f.settle(time.Minute, false)
}

func TestTemporalKilledUnderLoad(t *testing.T) {
	f := underLoad(t)
	f.meet()
	require.NoError(t, shared.Temporal.Kill())
	require.NoError(t, shared.Temporal.Start(t.Context()))
	f.flows(30 * time.Second)
	f.settle(time.Minute, true)
}

func TestTemporalsPostgresRestartedUnderLoad(t *testing.T) {
	f := underLoad(t)
	f.meet()
	require.NoError(t, shared.EngineStore.Crash())
	require.NoError(t, shared.EngineStore.Start(t.Context()))
	f.flows(30 * time.Second)
	f.settle(time.Minute, true)
}

// A rolling deployment: nothing is lost, nothing is sent twice, and nothing
// waits for a task or a lease that a stopped process held.
func TestRollingRestarts(t *testing.T) {
	f := underLoad(t)
	for range 2 {
		for _, m := range f.members {
			require.NoError(t, m.Terminate(), "%s", m.Said())
			f.flows(10 * time.Second)
		}
	}
	f.settle(30*time.Second, false)
	const longest = 5 * time.Second
	var slowest time.Duration
	require.NoError(t, f.pool.QueryRow(t.Context(),
		"SELECT max(finished_at - enqueued_at) FROM outbox.messages").Scan(&slowest))
	t.Logf("the slowest delivery took %s from enqueue to mark", slowest)
	require.LessOrEqual(t, slowest, longest, "no delivery stalls during the rolling")
}
