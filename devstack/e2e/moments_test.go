package e2e

import (
	"strings"
	"sync/atomic"
	"syscall"
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

// moment is a SIGKILL at one step of a few messages' lives.
type moment struct {
	*world
	ids    []uuid.UUID
	victim *faults.Program
	// begin has the victim set out on the messages.
	begin func()
}

// messagesAtOnce are few enough for one claim and one request to SQS.
const messagesAtOnce = 5

// step is one of docs/guarantees.md.
type step struct {
	name string
	// reach brings the messages to the moment.
	reach func(m *moment)
	// heal ends what held them there, after the kill.
	heal      func(m *moment)
	mayRepeat bool
}

var (
	claimed = step{"claimed, no run yet", func(m *moment) {
		require.NoError(m.t, m.Temporal.Swallow())
		m.begin()
		m.reached("claimed", func() bool {
			return m.count("state = 'pending' AND claims = 1 AND available_at > now()") == messagesAtOnce
		})
	}, func(m *moment) { require.NoError(m.t, m.Temporal.Heal()) }, false}

	notSent = step{"in its run, not sent", func(m *moment) {
		sending := m.holdRequests(fakesqs.Fault{CutBefore: true, Delay: time.Minute})
		m.begin()
		m.reached("sending", sending)
	}, func(m *moment) { m.queues.Heal("") }, false}

	notAcknowledged = step{"sent, not acknowledged", func(m *moment) {
		m.AnswersIn(2 * time.Second) // half of them after it has the messages
		m.begin()
		m.reached("SQS has them", m.allArrived)
		require.Zero(m.t, m.marked())
	}, func(m *moment) { m.AnswersIn(0) }, true}

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
		_, err = lock.Exec(m.t.Context(), "SELECT FROM outbox.messages WHERE id = ANY ($1) FOR UPDATE", m.ids)
		require.NoError(m.t, err)
		m.reached("at the mark", func() bool {
			return m.count("EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')") > 0
		})
		require.NoError(m.t, m.Temporal.Swallow())
		require.NoError(m.t, lock.Rollback(m.t.Context()))
		m.reached("marked", func() bool { return m.marked() == len(m.ids) })
	}, notClosed.heal, false}
)

// TestKilledAtEveryMoment kills the process that has the messages, at each step
// of docs/guarantees.md in turn. They break their own world only, and so run side
// by side.
func TestKilledAtEveryMoment(t *testing.T) {
	for _, s := range []step{claimed, notSent, notAcknowledged, notMarked, notClosed} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			m := &moment{world: newWorld(t)}
			m.env = append(m.env, "OUTFLOW_LEASE=30s")
			m.victim = m.start(faults.Starter)
			m.begin = func() { m.enqueueAll(messagesAtOnce) }
			m.warmUp()
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
			m := &moment{world: newWorld(t)}
			m.queues.Inject(refusesEntries)
			starter := m.start(faults.Starter)
			m.enqueueAll(1) // several would come to the moment one after another
			m.reached("off the fast path", func() bool { return m.count("retrying") == 1 })
			m.stop(starter) // nobody has it now
			m.queues.Heal("")
			m.begin = func() {
				m.victim = m.start(faults.Worker)
				require.NoError(m.t, m.client.SignalWorkflow(t.Context(), m.workflowID(m.ids[0]), "", workflows.SignalTryNow, nil))
			}
			m.die(s)
		})
	}
}

// A payload that ends every process which sends it: it is given three lonely
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
	require.EqualValues(t, 3, kills.Load(), "tries")
	require.Zero(t, others.Load(), "messages in flight beside it when it killed")
	var reason string
	require.NoError(t, w.pool.QueryRow(t.Context(), "SELECT last_error FROM outbox.messages WHERE id = $1", killer).Scan(&reason))
	require.Contains(t, reason, "the process ended without a word 8 times while it had this message, the last 3 times this one alone")
	w.eventually(time.Minute, "all others are delivered", func() bool { return w.count("state = 'delivered'") == 50 })
	missing, duplicates := w.tally("orders", ids)
	require.Zero(t, missing)
	require.Zero(t, duplicates)
}

// die kills the victim at a step, has others go on, and holds what the guarantees
// say.
func (m *moment) die(s step) {
	m.t.Helper()
	s.reach(m)
	_ = m.victim.Signal(syscall.SIGKILL) // it may be dead
	<-m.victim.Done()
	s.heal(m)
	m.start(faults.Worker)
	m.start(faults.Starter)
	m.settle(s.mayRepeat)
}

func (m *moment) enqueueAll(n int) { m.ids = m.enqueue(n, to("sqs://orders")) }

// warmUp delivers one message, so that the process has every connection and knows
// the queue.
func (m *moment) warmUp() {
	m.enqueue(1, to("sqs://orders"))
	m.reached("warmed up", func() bool { return m.count("state = 'delivered'") == 1 })
}

// holdRequests has a fault meet every request that carries messages. It returns
// whether all of them are in such requests.
func (m *moment) holdRequests(f fakesqs.Fault) func() bool {
	asked := &atomic.Int64{}
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
	m.eventually(30*time.Second, what, holds)
}

func (m *moment) marked() int { return m.count("id = ANY ($1) AND state = 'delivered'", m.ids) }

// settle lets leases run out by hand and holds what the guarantees say.
func (m *moment) settle(mayRepeat bool) {
	m.t.Helper()
	for deadline := time.Now().Add(time.Minute); m.marked() < len(m.ids); time.Sleep(500 * time.Millisecond) {
		require.True(m.t, time.Now().Before(deadline), "not delivered")
		m.endLeases()
	}
	missing, duplicates := m.tally("orders", m.ids)
	m.t.Logf("enqueued %d, delivered %d, lost %d, duplicates %d", len(m.ids), len(m.ids)-missing, missing, duplicates)
	require.Zero(m.t, missing, "lost")
	if mayRepeat {
		require.LessOrEqual(m.t, duplicates, len(m.ids))
	} else {
		require.Zero(m.t, duplicates, "duplicates")
	}
	for _, id := range m.ids {
		m.eventually(30*time.Second, "its run ends", func() bool {
			d, err := m.client.DescribeWorkflowExecution(m.t.Context(), m.workflowID(id), "")
			return err == nil && d.GetWorkflowExecutionInfo().GetStatus() == enums.WORKFLOW_EXECUTION_STATUS_COMPLETED
		})
	}
}
