package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"

	"github.com/outflowhq/outflow/devstack/faults"
)

// Starters choose who probes behind an open breaker. Where none is left, a worker's
// own attempts find out that the queue works again.
func TestWorkersGoOnWithoutAStarter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.queues.Inject(fakesqs503("orders"))
	const n = 6 // one claim takes them all, and five open the breaker
	ids := w.enqueue(n, to("sqs://orders"))
	w.start(faults.Worker)
	starters := []*faults.Program{w.start(faults.Starter), w.start(faults.Starter)}
	w.eventually(time.Minute, "all retry behind the open breaker",
		func() bool { return w.breakerIsOpen() && w.count("retrying") == n })
	for _, p := range starters {
		w.kill(p)
	}
	require.Equal(t, n, w.count("retrying"), "nothing is delivered yet")
	w.queues.Heal("")

	// A probe that was chosen may hold the breaker for 20 s, and then ten must pass; an
	// attempt that is held back comes again after 72 s at most.
	healed := time.Now()
	w.eventually(150*time.Second, "the worker delivers", func() bool { return w.count("state = 'delivered'") == n })
	lost, duplicates := w.report("orders", ids, healed)
	require.Zero(t, lost)
	require.Zero(t, duplicates)
}

// Messages wait for their next attempts while a part dies: the same runs go on, and
// what no attempt had sent is sent once.
func TestRetryingOutlivesWhatDies(t *testing.T) {
	const n = 5
	for name, die := range map[string]func(*moment){
		"the application's Postgres": func(m *moment) {
			require.NoError(m.t, shared.Application.Crash())
			require.NoError(m.t, shared.Application.Start(m.t.Context()))
			m.pool.Reset() // its connections are dead, too
		},
		"Temporal": func(m *moment) {
			require.NoError(m.t, shared.Temporal.Kill())
			require.NoError(m.t, shared.Temporal.Start(m.t.Context()))
		},
		"the worker": func(m *moment) {
			m.reached("between attempts", m.betweenAttempts)
			m.kill(m.victim)
			m.victim = m.start(faults.Worker)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := &moment{world: newWorld(t)}
			m.queues.Inject(refusesEntries)
			starter := m.start(faults.Starter)
			m.enqueueAll(n)
			m.reached("off the fast path", func() bool { return m.count("retrying") == n })
			m.stop(starter)
			m.victim = m.start(faults.Worker)
			m.reached("the worker has made attempts", func() bool { return m.count("retrying AND attempts >= 3") == n })
			die(m)
			require.Equal(t, n, m.count("retrying"))
			m.queues.Heal("")

			healed := time.Now()
			m.eventually(90*time.Second, "all delivered", func() bool { return m.marked() == n })
			lost, duplicates := m.report("orders", m.ids, healed)
			require.Zero(t, lost)
			require.Zero(t, duplicates)
			for _, id := range m.ids {
				require.Len(t, m.runs(id.String()), 1, "the message had one run")
			}
			select {
			case <-m.victim.Done():
				t.Fatal("the worker has ended by itself")
			default:
			}
		})
	}
}

// betweenAttempts reports whether no attempt is under way.
func (m *moment) betweenAttempts() bool {
	for _, id := range m.ids {
		d, err := m.client.DescribeWorkflowExecution(m.t.Context(), m.workflowID(id), "")
		if err != nil || len(d.PendingActivities) != 1 ||
			d.PendingActivities[0].State != enums.PENDING_ACTIVITY_STATE_SCHEDULED {
			return false
		}
	}
	return true
}
