package trigger

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/testmetrics"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

// engine delivers what a scanner starts, without Temporal: the message ends delivered.
type engine struct {
	scanner.Client
	store *outboxdb.Store
	// broken says that starts fail.
	broken func() bool
	wg     *sync.WaitGroup
}

func (e *engine) ExecuteWorkflow(
	ctx context.Context, _ client.StartWorkflowOptions, _ any, args ...any,
) (client.WorkflowRun, error) {
	if e.broken != nil && e.broken() {
		return nil, fmt.Errorf("Temporal does not answer")
	}
	in, ok := args[0].(workflows.DeliverInput)
	if !ok {
		return nil, nil
	}
	e.wg.Go(func() {
		_, _ = e.store.Finish(context.WithoutCancel(ctx), outbox.Ending{
			Ref: outbox.Ref{ID: in.MessageID, Generation: in.Generation}, State: outflow.Delivered,
		})
	})
	return nil, nil
}

// starter is a scanner with a trigger of its own.
type starter struct {
	trigger *Trigger
	store   *outboxdb.Store
	reader  *metric.ManualReader
	stop    func()
}

// startScanner starts a scanner that would poll once an hour.
func startScanner(t testing.TB, kind Kind, pool *pgxpool.Pool, change func(*scanner.Options, *engine)) *starter {
	t.Helper()
	s := &starter{store: outboxdb.New(pool), reader: metric.NewManualReader()}
	s.trigger = New(kind, s.store, Options{Connect: OfPool(pool.Config()), Logger: slog.New(slog.DiscardHandler)})
	e := &engine{store: s.store, wg: &sync.WaitGroup{}}
	opts := scanner.Options{
		PollInterval: time.Hour, Trigger: s.trigger, Logger: slog.New(slog.DiscardHandler),
		MeterProvider: metric.NewMeterProvider(metric.WithReader(s.reader)),
	}
	if change != nil {
		change(&opts, e)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		assert.NoError(t, scanner.New(s.store, e, opts).Run(ctx))
	}()
	s.stop = sync.OnceFunc(func() { cancel(); <-ended; e.wg.Wait() })
	t.Cleanup(s.stop)
	return s
}

// awaitRest waits until the scanners wait for hints.
func awaitRest(t testing.TB, pool *pgxpool.Pool, starters int) {
	t.Helper()
	require.Eventually(t, func() bool {
		var idle int
		require.NoError(t, pool.QueryRow(t.Context(),
			`SELECT count(*) FROM outbox.listeners AS l WHERE l.idle AND l.expires_at > now()`).Scan(&idle))
		return idle == starters
	}, patience, 50*time.Millisecond)
	time.Sleep(7 * time.Second) // a scanner goes on polling for five
}

// claims counts the claims that no poll made.
func (s *starter) claims(t testing.TB) int64 {
	t.Helper()
	return testmetrics.Counted(t, s.reader, "outflow.claims", func(labels attribute.Set) bool {
		trigger, _ := labels.Value("trigger")
		return trigger.AsString() != "poll"
	})
}

// Ten starters at twenty messages a second: one of them claims each.
func TestAMessageCostsOneClaim(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			const fleet, messages = 10, 100
			var all []*starter
			for range fleet {
				all = append(all, startScanner(t, kind, pool, nil))
			}
			awaitRest(t, pool, fleet)
			count := func() (sum int64) {
				for _, s := range all {
					sum += s.claims(t)
				}
				return sum
			}
			before := count()
			for range messages {
				enqueue(t, pool, order("sqs://orders"))
				time.Sleep(time.Second / 20)
			}
			awaitDelivered(t, pool, messages)
			claims := count() - before
			t.Logf("%d claims that are no polls for %d messages", claims, messages)
			assert.LessOrEqual(t, claims, int64(messages*13/10))
			assert.Positive(t, claims)
		})
	}
}

func awaitDelivered(t testing.TB, pool *pgxpool.Pool, messages int) {
	t.Helper()
	require.Eventually(t, func() bool {
		var delivered int
		require.NoError(t, pool.QueryRow(t.Context(),
			`SELECT count(*) FROM outbox.messages AS m WHERE m.state = 'delivered'`).Scan(&delivered))
		return delivered == messages
	}, patience, 20*time.Millisecond)
}

// With a poll of an hour, everything that becomes due without a producer's commit is found on time.
func TestAnIdleFleetIsOnTime(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			startScanner(t, kind, pool, nil)
			startScanner(t, kind, pool, nil)
			awaitRest(t, pool, 2)
			ctx := t.Context()
			// Within the ten seconds after which an idle starter looks, and some.
			onTime := 30 * time.Second
			delivered := func(what string, id uuid.UUID, by time.Time) {
				t.Helper()
				require.Eventually(t, func() bool {
					var state string
					require.NoError(t, pool.QueryRow(ctx,
						`SELECT m.state FROM outbox.messages AS m WHERE m.id = $1`, id).Scan(&state))
					return state == "delivered"
				}, time.Until(by)+onTime, 20*time.Millisecond, what)
			}
			lease := func(id uuid.UUID, lasts string) {
				teststack.Execute(t, pool, `UPDATE outbox.messages SET due_at = now(), parked = true, claims = 1,
					started = true, available_at = now() + $2::text::interval WHERE id = $1`, id, lasts)
			}
			add := func(m outflow.Message) uuid.UUID {
				m.ID = uuid.Must(uuid.NewV7())
				enqueue(t, pool, m)
				return m.ID
			}
			m := order("sqs://orders")
			m.DueIn = 12 * time.Second
			delayed, due := add(m), time.Now().Add(m.DueIn)
			m = order("sqs://orders")
			m.DueIn = time.Hour
			rescheduled := add(m)
			delivered("a delayed message", delayed, due)

			teststack.Execute(t, pool, `UPDATE outbox.messages SET due_at = now(), available_at = now(), parked = true
				WHERE id = $1`, rescheduled)
			delivered("a message that became due with nobody told", rescheduled, time.Now())

			// A starter that died: the row is leased, and nobody has the run.
			leased := add(func() outflow.Message { m := order("sqs://orders"); m.DueIn = time.Hour; return m }())
			lease(leased, "15 seconds")
			delivered("a lease that ended", leased, time.Now().Add(15*time.Second))

			teststack.Execute(t, pool, `UPDATE outbox.messages SET callback = 'sqs://results', callback_state = 'due',
				callback_due_at = now() + interval '5 seconds' WHERE id = $1`, leased)
			require.Eventually(t, func() bool {
				var taken bool
				require.NoError(t, pool.QueryRow(ctx, `SELECT m.callback_due_at > now() + interval '20 seconds'
					FROM outbox.messages AS m WHERE m.id = $1`, leased).Scan(&taken))
				return taken
			}, onTime, 20*time.Millisecond, "a due callback has its run started")

			// A destination that fails: its message is the probe, once the breaker may be tried.
			failing := add(func() outflow.Message { m := order("sqs://failing"); m.DueIn = time.Hour; return m }())
			teststack.Execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since, failed_at,
				openings, open_until) VALUES ('sqs://failing', 5, now(), now(), 1, now() + interval '8 seconds')`)
			teststack.Execute(t, pool, `UPDATE outbox.messages SET due_at = now(), available_at = now(), parked = false
				WHERE id = $1`, failing)
			delivered("a probe", failing, time.Now().Add(8*time.Second))

			// What another process has claimed, and puts back.
			back := add(func() outflow.Message { m := order("sqs://orders"); m.DueIn = time.Hour; return m }())
			lease(back, "1 hour")
			ref := outbox.Ref{ID: back, Generation: 1}
			_, err := outboxdb.New(pool).PutBack(ctx, outbox.PutBack{Ref: ref, LastError: "no answer"})
			require.NoError(t, err)
			delivered("a message that was put back", back, time.Now().Add(2*time.Second))

			// A transaction that is older than every registration, and whose hint goes to nobody.
			tx, err := pool.Begin(ctx)
			require.NoError(t, err)
			_, err = tx.Exec(ctx, "SET LOCAL outflow.hint = off")
			require.NoError(t, err)
			late := order("sqs://orders")
			late.ID = uuid.Must(uuid.NewV7())
			_, err = outboxdb.Enqueue(ctx, tx, late)
			require.NoError(t, err)
			time.Sleep(2 * time.Second)
			require.NoError(t, tx.Commit(ctx))
			delivered("a late commit", late.ID, time.Now())

			// A key whose release is deferred.
			first, second := order("sqs://orders"), order("sqs://orders")
			first.OrderingKey, second.OrderingKey = "k", "k"
			first.DueIn = time.Hour
			head, follower := add(first), add(second)
			teststack.Execute(t, pool, `UPDATE outbox.messages SET state = 'cancelled', finished_at = now(),
				head = false, parked = false WHERE id = $1`, head)
			teststack.Execute(t, pool,
				`INSERT INTO outbox.deferred_releases (destination, ordering_key) VALUES ('sqs://orders', 'k')`)
			delivered("a deferred release", follower, time.Now())
		})
	}
}

// The chosen starter may die, be full, or fail its starts: the message is delivered all the same.
func TestTheChosenStarterFails(t *testing.T) {
	t.Run("starts fail", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		startScanner(t, Listen, pool, func(_ *scanner.Options, e *engine) { e.broken = func() bool { return true } })
		startScanner(t, Listen, pool, nil)
		awaitRest(t, pool, 2)
		for range 10 {
			enqueue(t, pool, order("sqs://orders"))
		}
		awaitDelivered(t, pool, 10)
	})
	t.Run("gone", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		startScanner(t, Listen, pool, nil)
		awaitRest(t, pool, 1)
		// Nine starters that were killed: their rows stand for a minute.
		teststack.Execute(t, pool, `INSERT INTO outbox.listeners (id, expires_at, idle, by_producers)
			SELECT gen_random_uuid(), now() + interval '1 minute', true, true FROM generate_series(1, 9)`)
		for range 10 {
			enqueue(t, pool, order("sqs://orders"))
		}
		awaitDelivered(t, pool, 10)
	})
	t.Run("at its allowance", func(t *testing.T) {
		t.Parallel()
		pool := teststack.New(t)
		hang := make(chan struct{})
		full := startScanner(t, Listen, pool, func(o *scanner.Options, e *engine) {
			o.PerDestination = 1
			e.broken = func() bool { <-hang; return true }
		})
		awaitRest(t, pool, 1)
		enqueue(t, pool, order("sqs://orders"))
		require.Eventually(t, func() bool {
			var leased int
			require.NoError(t, pool.QueryRow(t.Context(),
				`SELECT count(*) FROM outbox.messages AS m WHERE m.started`).Scan(&leased))
			return leased == 1
		}, patience, 20*time.Millisecond)
		startScanner(t, Listen, pool, nil)
		awaitRest(t, pool, 2)
		for range 10 {
			enqueue(t, pool, order("sqs://orders"))
		}
		awaitDelivered(t, pool, 10)
		close(hang)
		full.stop()
	})
}

// A backlog that one starter can't take wakes the others.
func TestABacklogWakesTheFleet(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			pool := teststack.New(t)
			var started [3]atomic.Int64
			for i := range started {
				startScanner(t, kind, pool, func(o *scanner.Options, e *engine) {
					o.InFlight, o.PerDestination = 4, 4
					e.broken = func() bool { started[i].Add(1); time.Sleep(200 * time.Millisecond); return false }
				})
			}
			awaitRest(t, pool, len(started))
			messages := make([]outflow.Message, 200)
			for i := range messages {
				messages[i] = order("sqs://orders")
			}
			enqueue(t, pool, messages...)
			awaitDelivered(t, pool, len(messages))
			for i := range started {
				assert.Positive(t, started[i].Load(), "starter %d had no part in it", i)
			}
		})
	}
}
