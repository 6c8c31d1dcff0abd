package activities

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/testsuite"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
)

// shelf is a table with so many old rows of each kind, whose statements take
// their time on its own clock.
type shelf struct {
	clock     *manual
	rows      map[outflow.State]int
	dismissed map[outflow.State]int
	audit     int
	idle      int
	keys      int
	perRow    time.Duration
	fail      func(chunk int) error
	chunks    []outbox.Purge
	order     []string
	health    outbox.TableHealth
	healthIs  error
	working   time.Duration
	database  uuid.UUID
}

var _ Maintenance = (*shelf)(nil)

func (s *shelf) work(name string, stored, limit int) (int, error) {
	n := min(stored, limit)
	s.order = append(s.order, name)
	s.clock.now = s.clock.now.Add(time.Duration(n) * s.perRow)
	s.working += time.Duration(n) * s.perRow
	if s.fail != nil {
		if err := s.fail(len(s.order)); err != nil {
			return 0, err
		}
	}
	return n, nil
}

func (s *shelf) PurgeMessages(_ context.Context, p outbox.Purge) (outbox.Purged, error) {
	s.chunks = append(s.chunks, p)
	rows, name := s.rows, string(p.State)
	if p.Dismissed {
		rows, name = s.dismissed, "dismissed"
	}
	n, err := s.work(name, rows[p.State], p.Limit)
	if err != nil {
		return outbox.Purged{}, err
	}
	rows[p.State] -= n
	return outbox.Purged{Rows: n, UpTo: p.After.Add(time.Duration(n))}, nil
}

func (s *shelf) PurgeAudit(_ context.Context, olderThan time.Duration, limit int) (int, error) {
	n, err := s.work(fmt.Sprintf("audit %s", olderThan), s.audit, limit)
	s.audit -= n
	return n, err
}

func (s *shelf) PurgeKeys(_ context.Context, idle time.Duration, limit int) (int, error) {
	n, err := s.work(fmt.Sprintf("keys %s", idle), s.keys, limit)
	s.keys -= n
	return n, err
}

func (s *shelf) PurgeDestinations(_ context.Context, idle time.Duration, limit int) (int, error) {
	n, err := s.work(fmt.Sprintf("destinations %s", idle), s.idle, limit)
	s.idle -= n
	return n, err
}

func (s *shelf) TableHealth(_ context.Context, heldFor time.Duration) (outbox.TableHealth, error) {
	s.order = append(s.order, "health "+heldFor.String())
	return s.health, s.healthIs
}

func (s *shelf) DatabaseID(context.Context) (uuid.UUID, error) { return s.database, nil }

// manual is a clock on which waiting takes no time.
type manual struct {
	now    time.Time
	rested time.Duration
	stuck  bool
}

func (m *manual) Now() time.Time { return m.now }

func (m *manual) After(d time.Duration) <-chan time.Time {
	if m.stuck {
		return nil
	}
	m.now = m.now.Add(d)
	m.rested += d
	c := make(chan time.Time, 1)
	c <- m.now
	return c
}

var keepAll = outflow.Retention{Delivered: outflow.Keep(time.Hour), Dead: outflow.Keep(2 * time.Hour),
	Expired: outflow.Keep(3 * time.Hour), Cancelled: outflow.Keep(4 * time.Hour)}

func newShelf() *shelf {
	return &shelf{clock: &manual{now: time.Unix(0, 0)}, perRow: 20 * time.Microsecond, rows: map[outflow.State]int{},
		dismissed: map[outflow.State]int{}}
}

func (s *shelf) purge(t *testing.T, r outflow.Retention,
	change ...func(*testsuite.TestActivityEnvironment)) (PurgeResult, error) {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestActivityEnvironment()
	for _, c := range change {
		c(env)
	}
	a := &MaintenanceActivities{store: s, owner: &ownership{identity: s}, clock: s.clock}
	env.RegisterActivityWithOptions(a.Purge, activity.RegisterOptions{Name: "Purge"})
	value, err := env.ExecuteActivity("Purge", PurgeInput{Retention: r})
	if err != nil {
		return PurgeResult{}, err
	}
	var result PurgeResult
	require.NoError(t, value.Get(&result))
	return result, nil
}

func TestPurgeTakesAllThereIs(t *testing.T) {
	s := newShelf()
	s.rows = map[outflow.State]int{outflow.Delivered: 4500, outflow.Dead: 3, outflow.Expired: 1000,
		outflow.Cancelled: 1}
	s.dismissed[outflow.Dead] = 1002
	s.audit, s.idle, s.keys = 1001, 7, 5
	result, err := s.purge(t, keepAll)
	require.NoError(t, err)
	assert.Equal(t, PurgeResult{Delivered: 4500, Dead: 1005, Expired: 1000, Cancelled: 1, Audit: 1001,
		Destinations: 7, Keys: 5}, result)
	assert.Equal(t, []string{"audit 8760h0m0s", "destinations 720h0m0s", "keys 24h0m0s", "cancelled", "expired",
		"dismissed", "dead", "delivered",
		"audit 8760h0m0s", "expired", "dismissed", "delivered", "delivered", "delivered", "delivered"},
		s.order, "a chunk of each in turn")
	ages := map[outflow.State]time.Duration{}
	after := map[outflow.State]time.Time{}
	for _, p := range s.chunks {
		state := p.State
		if p.Dismissed {
			state = "dismissed"
		}
		ages[state] = p.OlderThan
		assert.Equal(t, after[state], p.After, "each chunk begins where the last one stopped")
		after[state] = p.After.Add(time.Duration(min(p.Limit, 1000)))
		assert.LessOrEqual(t, p.Limit, maxChunkRows)
		assert.False(t, p.History)
	}
	assert.Equal(t, map[outflow.State]time.Duration{outflow.Delivered: time.Hour, outflow.Dead: 2 * time.Hour,
		outflow.Expired:   3 * time.Hour,
		outflow.Cancelled: 4 * time.Hour, "dismissed": 4 * time.Hour}, ages)
}

func TestPurgeKeepsForEver(t *testing.T) {
	s := newShelf()
	s.rows = map[outflow.State]int{outflow.Delivered: 10, outflow.Dead: 10}
	result, err := s.purge(t, outflow.Retention{Delivered: outflow.Keep(time.Hour), History: true})
	require.NoError(t, err)
	assert.Equal(t, PurgeResult{Delivered: 10, Moved: 10}, result)
	require.Len(t, s.chunks, 1)
	assert.True(t, s.chunks[0].History)

	s = newShelf()
	_, err = s.purge(t, outflow.Retention{})
	require.NoError(t, err)
	assert.Empty(t, s.chunks, "what nobody has set deletes nothing")
}

// Deliveries have nine tenths of the time, and a purge its bound.
func TestPurgeRests(t *testing.T) {
	for _, perRow := range []time.Duration{time.Microsecond, 20 * time.Microsecond, 200 * time.Microsecond,
		10 * time.Millisecond} {
		t.Run(perRow.String(), func(t *testing.T) {
			s := newShelf()
			s.perRow = perRow
			s.rows[outflow.Delivered] = 1 << 40
			began := s.clock.now
			result, err := s.purge(t, keepAll)
			require.NoError(t, err)
			assert.True(t, result.More)
			took := s.clock.now.Sub(began)
			t.Logf("%d rows in %s, %s of it at work", result.Delivered, took, s.working)
			assert.LessOrEqual(t, s.working, took/purgeShare)
			assert.GreaterOrEqual(t, took, timing.Purge)
			assert.Less(t, took, timing.Purge+30*time.Second, "one chunk and its rest more")
			last := s.chunks[len(s.chunks)-1].Limit
			assert.LessOrEqual(t, time.Duration(last)*perRow, slowChunk, "chunks have become small enough")
		})
	}
}

func TestPurgeMakesRefusedChunksSmaller(t *testing.T) {
	s := newShelf()
	s.rows[outflow.Delivered] = 300
	s.fail = func(int) error {
		if p := len(s.chunks); p > 0 && s.chunks[p-1].Limit > 10 {
			return fmt.Errorf("purging: %w", context.DeadlineExceeded)
		}
		return nil
	}
	s.perRow = 10 * time.Millisecond // what is refused is not tried again
	result, err := s.purge(t, keepAll)
	require.NoError(t, err)
	assert.Equal(t, 300, result.Delivered)

	s = newShelf()
	s.rows[outflow.Delivered] = 300
	s.fail = func(int) error { return context.DeadlineExceeded }
	_, err = s.purge(t, keepAll)
	require.ErrorContains(t, err, "after 0 delivered", "a chunk of one row that can't be deleted is an error")
	assert.Less(t, len(s.order), 20)
}

func TestPurgeGoesOnCounting(t *testing.T) {
	s := newShelf()
	s.rows[outflow.Delivered] = 5000
	s.fail = func(chunk int) error {
		if chunk == 9 {
			return errors.New("connection lost")
		}
		return nil
	}
	_, err := s.purge(t, keepAll)
	require.ErrorContains(t, err, "after 1000 delivered, 0 dead, 0 expired and 0 cancelled messages: connection lost")

	s.fail = nil
	result, err := s.purge(t, keepAll, func(env *testsuite.TestActivityEnvironment) {
		env.SetHeartbeatDetails(PurgeResult{Delivered: 1000, More: true})
	})
	require.NoError(t, err)
	assert.Equal(t, PurgeResult{Delivered: 5000}, result)
}

func TestPurgeStopsWithItsWorker(t *testing.T) {
	s := newShelf()
	s.rows[outflow.Delivered] = 5000
	s.clock.stuck = true // it would rest forever
	stop := make(chan struct{})
	close(stop)
	_, err := s.purge(t, keepAll, func(env *testsuite.TestActivityEnvironment) { env.SetWorkerStopChannel(stop) })
	require.ErrorContains(t, err, "the worker stops")
}

func TestTableHealthWarns(t *testing.T) {
	s := newShelf()
	s.health = outbox.TableHealth{DeadRows: 7,
		Held: []outbox.HeldSnapshot{{Holder: "session", PID: 42, Name: "report", Seconds: 3600}}}
	var logged bytes.Buffer
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(sdklog.NewStructuredLogger(slog.New(slog.NewTextHandler(&logged, nil))))
	env := suite.NewTestActivityEnvironment()
	a := NewMaintenance(s)
	env.RegisterActivityWithOptions(a.TableHealth, activity.RegisterOptions{Name: "TableHealth"})
	value, err := env.ExecuteActivity("TableHealth", HealthInput{})
	require.NoError(t, err)
	var health outbox.TableHealth
	require.NoError(t, value.Get(&health))
	assert.Equal(t, s.health, health)
	assert.Equal(t, []string{"health 15m0s"}, s.order)
	for _, part := range []string{"level=WARN", "pid=42", "application=report", "seconds=3600",
		"pg_terminate_backend(42)"} {
		assert.Contains(t, logged.String(), part)
	}
	s.healthIs = errors.New("connection lost")
	_, err = env.ExecuteActivity("TableHealth", HealthInput{})
	require.ErrorContains(t, err, "connection lost")
}
