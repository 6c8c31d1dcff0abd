package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/devstack/faults"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// A durable publish under way at an orderly stop has its answer first: were it
// dropped, another process would publish again after ten seconds.
func TestStopDuringADurablePublish(t *testing.T) {
	for _, program := range []string{faults.Worker, faults.Starter} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			m := offTheFastPath(t)
			m.AnswersLate("orders", 1500*time.Millisecond) // a call has 2.5 s
			m.takeUp(program)
			m.reached("SQS has it", m.allArrived)
			require.Zero(t, m.marked())
			m.stop(m.victim)

			stopped := time.Now()
			m.start(faults.Worker)
			m.reached("delivered", func() bool { return m.marked() == 1 })
			lost, duplicates := m.report("orders", m.ids, stopped)
			require.Zero(t, lost)
			require.Zero(t, duplicates)
		})
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	for program, keepBusy := range map[string]func(*testing.T) *moment{
		// Starts that get no answer keep a stopping starter waiting for seconds.
		faults.Starter: func(t *testing.T) *moment {
			m := &moment{world: newWorld(t)}
			m.env = append(m.env, "OUTFLOW_LOG_LEVEL=info")
			m.victim = m.start(faults.Starter)
			m.reached("it scans", func() bool { return strings.Contains(m.victim.Output.String(), "scanning") })
			require.NoError(t, m.Temporal.Swallow())
			m.enqueueAll(20)
			m.reached("starts are under way", func() bool { return m.count("available_at > now()") > 0 })
			return m
		},
		// A worker waits for its attempt, and then for Temporal to take the answer.
		faults.Worker: func(t *testing.T) *moment {
			m := offTheFastPath(t)
			sending := m.holdRequests(fakesqs.Fault{CutBefore: true, Delay: time.Minute})
			m.takeUp(faults.Worker)
			m.reached("sending", sending)
			require.NoError(t, m.Temporal.Swallow())
			return m
		},
	} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			m := keepBusy(t)
			p := m.victim
			require.NoError(t, p.Signal(syscall.SIGTERM))
			m.eventually(5*time.Second, "it is stopping",
				func() bool { return strings.Contains(p.Output.String(), "stopping") })
			select {
			case <-p.Done():
				t.Fatal("it has ended already: the second signal proves nothing")
			case <-time.After(500 * time.Millisecond):
			}
			require.NoError(t, p.Signal(syscall.SIGTERM))
			require.Error(t, p.Err(), "ended by the signal")
		})
	}
}
