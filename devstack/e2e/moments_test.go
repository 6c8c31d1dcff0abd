package e2e

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/devstack/faults"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
	"github.com/outflowhq/outflow/workflows"
)

// moment is a SIGKILL at one step of a few messages' lives, beside a load to
// another queue.
type moment struct {
	*world
	ids    []uuid.UUID
	load   *faults.Load
	victim *faults.Program
	// begin has the victim set out on the messages.
	begin func()
}

const (
	// messagesAtOnce are few enough for one claim and one request to SQS.
	messagesAtOnce = 5
	// loadBeside is the load's rate.
	loadBeside = 10
	// afterTask and afterLease bound the repair on a busy machine: by the timeout of
	// a workflow task or of a durable attempt, both 10 s, and by the least lease, 30 s.
	afterTask  = 45 * time.Second
	afterLease = 75 * time.Second
)

// step is one of docs/guarantees.md.
type step struct {
	name string
	// reach brings the messages to the moment.
	reach func(m *moment)
	// heal ends what held them there, after the kill.
	heal      func(m *moment)
	mayRepeat bool
}

// lease is OUTFLOW_LEASE: so long that it recovers nothing, but where nothing else
// would.
func (s step) lease() (setting string, repairedWithin time.Duration) {
	if s.name == claimed.name {
		return "OUTFLOW_LEASE=30s", afterLease
	}
	return "OUTFLOW_LEASE=1h", afterTask
}

var (
	claimed = step{"claimed, no run yet", func(m *moment) {
		require.NoError(m.t, m.Temporal.Swallow())
		m.begin()
		m.reached("claimed", func() bool {
			return m.count("id = ANY ($1) AND state = 'pending' AND claims = 1 AND available_at > now()",
				m.ids) == messagesAtOnce
		})
	}, func(m *moment) { require.NoError(m.t, m.Temporal.Heal()) }, false}

	notSent = step{"in its run, not sent", func(m *moment) {
		sending := m.holdRequests(fakesqs.Fault{CutBefore: true, Delay: time.Minute})
		m.begin()
		m.reached("sending", sending)
	}, func(m *moment) { m.queues.Heal("") }, false}

	notAcknowledged = step{"sent, not acknowledged", func(m *moment) {
		m.AnswersLate("orders", 2*time.Second)
		m.begin()
		m.reached("SQS has them", m.allArrived)
		require.Zero(m.t, m.marked())
	}, func(m *moment) { m.AnswersLate("orders", 0) }, true}

	notMarked = step{"acknowledged, not marked", func(m *moment) {
		sending := m.holdRequests(fakesqs.Fault{Delay: time.Second})
		m.begin()
		m.reached("sending", sending)
		require.NoError(m.t, m.Postgres.Swallow())
		m.reached("SQS has them", m.allArrived)
		require.Zero(m.t, m.marked())
	}, func(m *moment) {
		m.queues.Heal("")
		require.NoError(m.t, m.Postgres.Heal())
	}, true}

	// The fast path is one workflow task, so Temporal may be away from the publish on.
	notClosed = step{"marked, run not closed", func(m *moment) {
		sending := m.holdRequests(fakesqs.Fault{Delay: time.Second})
		m.begin()
		m.reached("sending", sending)
		require.NoError(m.t, m.Temporal.Swallow())
		m.reached("marked", func() bool { return m.marked() == len(m.ids) })
	}, func(m *moment) {
		m.queues.Heal("")
		require.NoError(m.t, m.Temporal.Heal())
	}, false}

	// A durable attempt's answer reaches Temporal before the mark: that waits for a
	// lock meanwhile.
	notClosedDurably = step{"marked, run not closed", func(m *moment) {
		sending := m.holdRequests(fakesqs.Fault{Delay: time.Second})
		m.begin()
		m.reached("sending", sending)
		lock, err := m.pool.Begin(m.t.Context())
		require.NoError(m.t, err)
		defer func() { _ = lock.Rollback(m.t.Context()) }()
		_, err = m.pool.Exec(m.t.Context(), slowMarks)
		require.NoError(m.t, err)
		_, err = lock.Exec(m.t.Context(), "SELECT pg_advisory_xact_lock(1)")
		require.NoError(m.t, err)
		m.reached("at the mark", func() bool {
			return m.count("EXISTS (SELECT FROM pg_stat_activity WHERE $1::int = ANY (pg_blocking_pids(pid)))",
				lock.Conn().PgConn().PID()) > 0
		})
		require.NoError(m.t, m.Temporal.Swallow())
		require.NoError(m.t, lock.Rollback(m.t.Context()))
		m.reached("marked", func() bool { return m.marked() == len(m.ids) })
	}, notClosed.heal, false}
)

// slowMarks has each mark of the victim's messages wait for a lock. A lock of the row
// itself would be passed over.
const slowMarks = `
CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NEW; END $$;
CREATE TRIGGER slow BEFORE UPDATE ON outbox.messages FOR EACH ROW
    WHEN (NEW.destination = 'sqs://orders' AND OLD.state = 'pending' AND NEW.state = 'delivered') EXECUTE FUNCTION public.slow()`

// TestKilledAtEveryMoment kills the process that has the messages, at each step
// of docs/guarantees.md in turn. They break their own world only, and so run side
// by side.
func TestKilledAtEveryMoment(t *testing.T) {
	for _, s := range []step{claimed, notSent, notAcknowledged, notMarked, notClosed} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			m := &moment{world: newWorld(t)}
			lease, _ := s.lease()
			m.env = append(m.env, lease)
			m.victim = m.start(faults.Starter)
			m.begin = func() { m.enqueueAll(messagesAtOnce) }
			m.warmUp()
			m.startLoad()
			m.die(s)
		})
	}
}

// TestWorkerKilledAtEveryMoment does the same to a worker that makes a durable
// attempt.
func TestWorkerKilledAtEveryMoment(t *testing.T) {
	for _, s := range []step{notSent, notAcknowledged, notMarked, notClosedDurably} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			m := offTheFastPath(t)
			m.begin = func() { m.takeUp(faults.Worker) }
			// A starter that serves another task queue delivers the load, and has no part
			// in the message.
			m.startIn(append(m.env, "OUTFLOW_TASK_QUEUE="+m.name+"-beside"), faults.Starter)
			m.startLoad()
			m.die(s)
		})
	}
}

// A payload that ends every process which sends it: it is given three isolated
// tries, ends dead with the reason, and takes nobody with it.
func TestPayloadThatKillsItsProcess(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var kills, others atomic.Int64
	killer := w.enqueue(1, func(int) outflow.Message {
		return outflow.Message{Destination: "sqs://orders", Type: "killer", Payload: []byte("a killer")}
	})[0]
	// Five deaths among others are behind it.
	_, err := w.pool.Exec(t.Context(), "UPDATE outbox.messages SET claims = 5 WHERE id = $1", killer)
	require.NoError(t, err)

	var members []*faults.Member
	met := make(chan struct{}, 100)
	w.queues.Inject(fakesqs.Fault{CutBefore: true, Delay: time.Minute, When: func(r fakesqs.Request) bool {
		for _, e := range r.Entries {
			if strings.Contains(e.MessageBody, "a killer") {
				met <- struct{}{}
				return true
			}
		}
		return false
	}})
	ids := w.enqueue(50, to("sqs://orders"))
	for _, name := range []string{faults.Starter, faults.Worker} {
		m, err := faults.Supervise(binaries, name, append(w.env, "OUTFLOW_LEASE=30s"))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, m.Stop()) })
		members = append(members, m)
	}
	dead := func() bool { return w.count("id = $1 AND state = 'dead'", killer) == 1 }
	for deadline := time.Now().Add(3 * time.Minute); !dead(); {
		require.True(t, time.Now().Before(deadline), "it did not end")
		select {
		case <-met:
			others.Add(int64(w.count("id <> $1 AND state = 'pending' AND available_at > now()", killer)))
			kills.Add(1)
			for _, m := range members {
				require.NoError(t, m.Kill())
			}
		case <-time.After(500 * time.Millisecond):
			w.endLeases() // nobody has a minute
		}
	}
	died := time.Now()
	require.EqualValues(t, 3, kills.Load(), "tries")
	require.Zero(t, others.Load(), "messages in flight beside it when it killed")
	var reason string
	require.NoError(t, w.pool.QueryRow(t.Context(), "SELECT last_error FROM outbox.messages WHERE id = $1",
		killer).Scan(&reason))
	require.Contains(t, reason, "the process crashed 8 times while publishing this message, the last 3 times with nothing else in flight")
	w.eventually(time.Minute, "all others are delivered", func() bool { return w.count("state = 'delivered'") == 50 })
	lost, duplicates := w.report("orders", ids, died)
	require.Zero(t, lost)
	require.Zero(t, duplicates)
	for _, m := range members {
		require.Empty(t, m.Ends())
	}
}

// die kills the victim at a step, has others go on, and holds what the guarantees
// say.
func (m *moment) die(s step) {
	m.t.Helper()
	s.reach(m)
	m.kill(m.victim)
	killed := time.Now()
	met := m.count("destination = 'sqs://letters' AND state = 'pending' AND (retrying OR available_at > now())")
	s.heal(m)
	m.start(faults.Worker)
	m.start(faults.Starter)
	m.settle(s, killed)
	m.settleLoad(met)
}

// offTheFastPath is a message that waits for a durable attempt, and nobody who
// would make one.
func offTheFastPath(t *testing.T) *moment {
	m := &moment{world: newWorld(t)}
	m.env = append(m.env, "OUTFLOW_LEASE=1h", "OUTFLOW_LOG_LEVEL=info")
	m.queues.Inject(refusesEntries)
	starter := m.start(faults.Starter)
	m.enqueueAll(1) // several would come to a moment one after another
	m.reached("off the fast path", func() bool { return m.count("retrying") == 1 })
	m.stop(starter)
	m.queues.Heal("")
	return m
}

// takeUp starts a program as the victim, and has it make the durable attempt now.
func (m *moment) takeUp(program string) {
	m.t.Helper()
	m.victim = m.start(program)
	require.NoError(m.t, m.client.SignalWorkflow(m.t.Context(), m.workflowID(m.ids[0]), "", workflows.SignalTryNow,
		nil))
}

// startLoad begins the load, and returns when it flows.
func (m *moment) startLoad() {
	m.t.Helper()
	m.AnswersIn(100 * time.Millisecond) // about what SQS takes: some of it is in flight at a kill
	m.load = m.StartLoad(loadBeside, "sqs://letters")
	m.t.Cleanup(m.load.Stop)
	m.reached("the load flows", func() bool { return m.count("destination = 'sqs://letters' AND state = 'delivered'") > loadBeside })
}

func (m *moment) enqueueAll(n int) { m.ids = m.enqueue(n, to("sqs://orders")) }

// warmUp delivers one message, so that the process has every connection and knows
// the queue.
func (m *moment) warmUp() {
	m.enqueueAll(1)
	m.reached("warmed up", func() bool { return m.marked() == 1 })
}

// holdRequests has a fault meet every request that carries the messages. It
// returns whether all of them are in such requests.
func (m *moment) holdRequests(f fakesqs.Fault) func() bool {
	asked := &atomic.Int64{}
	f.Queue = "orders"
	f.When = func(r fakesqs.Request) bool {
		asked.Add(int64(len(r.Entries)))
		return len(r.Entries) > 0
	}
	m.queues.Inject(f)
	return func() bool { return asked.Load() >= int64(len(m.ids)) }
}

func (m *moment) allArrived() bool {
	missing, _ := m.tally("orders", m.ids)
	return missing == 0
}

func (m *moment) reached(what string, holds func() bool) {
	m.t.Helper()
	m.eventually(time.Minute, what, holds) // a task that a stopping worker was handed comes again after timing.HeartbeatTimeout
}

func (m *moment) marked() int { return m.count("id = ANY ($1) AND state = 'delivered'", m.ids) }

// closed reports whether every message's run has ended.
func (m *moment) closed() bool {
	for _, id := range m.ids {
		d, err := m.client.DescribeWorkflowExecution(m.t.Context(), m.workflowID(id), "")
		if err != nil || d.GetWorkflowExecutionInfo().GetStatus() != enums.WORKFLOW_EXECUTION_STATUS_COMPLETED {
			return false
		}
	}
	return true
}

// settle holds what the guarantees say, the time until the repair, too: nobody ends
// a lease.
func (m *moment) settle(s step, killed time.Time) {
	m.t.Helper()
	_, within := s.lease()
	m.eventually(time.Until(killed.Add(within)), "delivered, and every run closed", func() bool {
		return m.marked() == len(m.ids) && m.closed()
	})
	lost, duplicates := m.report("orders", m.ids, killed)
	require.Zero(m.t, lost, "lost")
	if s.mayRepeat {
		require.LessOrEqual(m.t, duplicates, len(m.ids))
	} else {
		require.Zero(m.t, duplicates, "duplicates")
	}
}

// settleLoad holds that nothing of the load is lost, and that nothing of it came
// twice but what was in flight at the kill.
func (m *moment) settleLoad(met int) {
	m.t.Helper()
	m.load.Stop()
	m.endLeases() // what the victim had claimed and not started would wait for an hour
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	drained, err := m.Drain(ctx)
	tally, tallyErr := m.load.Tally(m.t.Context(), "letters")
	require.NoError(m.t, tallyErr)
	tally.Drain, tally.InFlight = drained, met
	m.t.Logf("the load beside it: %s", tally)
	require.NoError(m.t, err)
	require.Zero(m.t, tally.Lost, "lost: %v", tally.LostIDs)
	require.LessOrEqual(m.t, tally.Duplicates, met, "duplicates")
}
