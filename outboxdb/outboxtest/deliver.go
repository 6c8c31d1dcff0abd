package outboxtest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/testsuite"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/workflows"
)

const (
	// mostAttempts is when a broker that is down is taken for a mistake of the
	// test. Outflow itself would go on; the SDK's test environment gives up after
	// ten attempts of an activity, and the run would end as no real one does.
	mostAttempts = 10
	// idle is how long a delivery may stand still by the wall clock.
	idle = time.Minute
	// lease is long enough for the slowest test: the runs here end before it.
	lease = 10 * time.Minute
)

// Publisher publishes in the place of a broker. A nil error acknowledges the
// message; any other is retried, unless it is outflow.Permanent. A
// publish.Router is one, and PublisherFunc makes one of a function.
type Publisher interface {
	Publish(ctx context.Context, m outflow.Message) (brokerMessageID string, err error)
}

var _ Publisher = activities.Publisher(nil)

// PublisherFunc is a Publisher that acknowledges what the function takes.
type PublisherFunc func(m outflow.Message) error

// Publish calls f.
func (f PublisherFunc) Publish(_ context.Context, m outflow.Message) (string, error) {
	return "", f(m)
}

// Delivery is one message and how it ended.
type Delivery struct {
	// Message is what the publisher was given: with the canonical destination
	// and absolute times.
	Message outflow.Message
	// Outcome is what the row says: its State, Attempts, LastError.
	Outcome outflow.Outcome
}

// Deliver takes every committed message that is due to its end, one after the
// other in the order of their enqueuing, and returns them. It runs Outflow's own
// workflow and activities over the real table, in the test environment of
// Temporal's SDK: retries happen as they would, and take no time. What the
// publisher enqueues meanwhile is delivered too. Where a message asks for a
// callback, p is given that too, as a message of type outflow.CallbackType.
//
// p stands for the broker; nil acknowledges everything. One that refuses a
// message ten times, and not as outflow.Permanent, ends the test: Outflow
// would never give up. What is due later is left alone.
func Deliver(t testing.TB, pool *pgxpool.Pool, p Publisher) []Delivery {
	t.Helper()
	if p == nil {
		p = PublisherFunc(func(outflow.Message) error { return nil })
	}
	limited := &patient{publisher: p, attempts: map[uuid.UUID]int{}}
	var all []Delivery
	for {
		store := outboxdb.New(pool) // a new one looks at the whole table
		claimed, err := store.Claim(t.Context(), outbox.ClaimRequest{Lease: lease, MaxMessages: 1000, MaxBytes: 64 << 20, Allowance: 1000})
		if err != nil {
			t.Fatal(fmt.Errorf("outboxtest: %w", err))
		}
		if len(claimed.Messages) == 0 {
			return all
		}
		database, err := store.DatabaseID(t.Context())
		if err != nil {
			t.Fatal(fmt.Errorf("outboxtest: %w", err))
		}
		work := activities.New(store, limited)
		for _, m := range claimed.Messages {
			deliver(t, work, database, m.Ref())
			if limited.last != nil {
				t.Fatalf("outboxtest: %s was refused %d times: %v", brief(limited.refused), mostAttempts, limited.last)
			}
			record, err := store.Load(t.Context(), m.Ref())
			if err != nil {
				t.Fatal(fmt.Errorf("outboxtest: %w", err))
			}
			all = append(all, Delivery{Message: m.Message, Outcome: record.Outcome()})
		}
	}
}

// DeliverURL is Deliver for a test with database/sql: it opens a pool of its own on
// the database, such as "postgres://app@localhost:5432/shop_test", and closes it.
func DeliverURL(t testing.TB, databaseURL string, p Publisher) []Delivery {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), databaseURL)
	if err != nil {
		t.Fatal(fmt.Errorf("outboxtest: %w", err))
	}
	defer pool.Close()
	return Deliver(t, pool, p)
}

// patient passes messages on until one has been refused too often.
type patient struct {
	publisher Publisher
	attempts  map[uuid.UUID]int
	last      error // of the one that was
	refused   outflow.Message
}

func (p *patient) Publish(ctx context.Context, m outflow.Message) (string, error) {
	id, err := p.publisher.Publish(ctx, m)
	if p.attempts[m.ID]++; err != nil && !outflow.IsPermanent(err) && p.attempts[m.ID] >= mostAttempts {
		p.last, p.refused = err, m
		err = outflow.Permanent(err) // else the run would not end
	}
	return id, err
}

// deliver runs the workflow of one message to its end.
func deliver(t testing.TB, work *activities.Activities, database uuid.UUID, ref outbox.Ref) {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(quiet{})
	env := suite.NewTestWorkflowEnvironment()
	env.SetTestTimeout(idle)
	workflows.Register(env, work)
	env.ExecuteWorkflow(workflows.WorkflowDeliver, workflows.DeliverInput{
		Outbox: outflow.DefaultOutbox, Database: database, MessageID: ref.ID, Generation: ref.Generation,
	})
	if !env.IsWorkflowCompleted() {
		t.Fatalf("outboxtest: the delivery of message %s did not end", ref.ID)
	}
}

// quiet drops the SDK's log: the outcomes say how the deliveries went.
type quiet struct{}

func (quiet) Debug(string, ...any) {}
func (quiet) Info(string, ...any)  {}
func (quiet) Warn(string, ...any)  {}
func (quiet) Error(string, ...any) {}
