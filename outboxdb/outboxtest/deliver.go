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
	// maxAttempts bounds the failures of one message. Outflow itself would go on. The SDK's
	// test environment gives up after ten attempts of an activity, and the run would end as
	// no real run does.
	maxAttempts = 10
	// idleTimeout is how long a delivery may make no progress, by the wall clock.
	idleTimeout = time.Minute
	// lease is longer than the slowest test.
	lease = 10 * time.Minute
)

// Publisher takes the broker's place. A nil error acknowledges the message. A message with
// any other error is retried, unless the error is outflow.Permanent. A publish.Router is a
// Publisher, and so is a PublisherFunc.
type Publisher interface {
	Publish(ctx context.Context, m outflow.Message) (brokerMessageID string, err error)
}

var _ Publisher = activities.Publisher(nil)

// PublisherFunc is a Publisher that returns the function's error.
type PublisherFunc func(m outflow.Message) error

// Publish calls f.
func (f PublisherFunc) Publish(_ context.Context, m outflow.Message) (string, error) {
	return "", f(m)
}

// Delivery is one message and how it ended.
type Delivery struct {
	// Message is the publisher's argument, with the canonical destination and absolute times.
	Message outflow.Message
	// Outcome is the row's State, Attempts, LastError and so on.
	Outcome outflow.Outcome
}

// Deliver delivers every committed message that is due, one after the other in the order of
// their enqueuing, and returns them. It runs Outflow's own workflow and activities over the
// real table, in the test environment of Temporal's SDK: retries are made as in production,
// and take no time. Messages that the publisher enqueues meanwhile are delivered too.
// Messages that are due later are not, nor those behind one that is, or that ended dead, of their
// ordering key. Messages of an ordering key come in its order, each after others that are due.
//
// p takes the broker's place; nil acknowledges every message. The callback of a message goes
// to p too, as a message of type outflow.CallbackType. If p fails ten times for one message,
// and not with outflow.Permanent, Deliver ends the test: Outflow would never give up.
func Deliver(t testing.TB, pool *pgxpool.Pool, p Publisher) []Delivery {
	t.Helper()
	if p == nil {
		p = PublisherFunc(func(outflow.Message) error { return nil })
	}
	limited := &limitedPublisher{publisher: p, attempts: map[uuid.UUID]int{}}
	var all []Delivery
	for {
		store := outboxdb.New(pool) // a new Store reads the table from its start
		if _, err := store.ReleaseDeferred(t.Context()); err != nil {
			t.Fatal(fmt.Errorf("outboxtest: %w", err))
		}
		claimed, err := store.Claim(t.Context(),
			outbox.ClaimRequest{Lease: lease, MaxMessages: 1000, MaxBytes: 64 << 20, Allowance: 1000})
		if err != nil {
			t.Fatal(fmt.Errorf("outboxtest: %w", err))
		}
		if len(claimed.Messages)+len(claimed.Ended) == 0 {
			return all
		}
		database, err := store.DatabaseID(t.Context())
		if err != nil {
			t.Fatal(fmt.Errorf("outboxtest: %w", err))
		}
		work := activities.New(store, limited, activities.WithMissingGrace(0)) // a test does not wait
		in := workflows.DeliverInput{Outbox: outflow.DefaultOutbox, Database: database}
		for _, o := range claimed.Ended { // expired behind others of its ordering key
			in.MessageID, in.Generation = o.ID, o.Generation
			if o.CallbackDue {
				run(t, work, in.MessageID, workflows.WorkflowCallback, workflows.CallbackInput(in))
			}
			record, err := store.Load(t.Context(), outbox.Ref{ID: o.ID, Generation: o.Generation})
			if err != nil {
				t.Fatal(fmt.Errorf("outboxtest: %w", err))
			}
			all = append(all, Delivery{Message: record.Message, Outcome: record.Outcome()})
		}
		for _, m := range claimed.Messages {
			in.MessageID, in.Generation = m.ID, m.Generation
			run(t, work, in.MessageID, workflows.WorkflowDeliver, in)
			if limited.last != nil {
				t.Fatalf("outboxtest: %s failed %d times: %v", describe(limited.failed), maxAttempts, limited.last)
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

// limitedPublisher publishes until a message has failed maxAttempts times.
type limitedPublisher struct {
	publisher Publisher
	attempts  map[uuid.UUID]int
	last      error // the last error of failed
	failed    outflow.Message
}

func (p *limitedPublisher) Publish(ctx context.Context, m outflow.Message) (string, error) {
	id, err := p.publisher.Publish(ctx, m)
	if p.attempts[m.ID]++; err != nil && !outflow.IsPermanent(err) && p.attempts[m.ID] >= maxAttempts {
		p.last, p.failed = err, m
		err = outflow.Permanent(err) // ends the run
	}
	return id, err
}

// run runs a workflow of a message until it ends.
func run(t testing.TB, work *activities.Activities, id uuid.UUID, workflow string, in any) {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(discardLogger{})
	env := suite.NewTestWorkflowEnvironment()
	env.SetTestTimeout(idleTimeout)
	workflows.Register(env, work)
	env.ExecuteWorkflow(workflow, in)
	if !env.IsWorkflowCompleted() {
		t.Fatalf("outboxtest: %s of message %s did not end", workflow, id)
	}
}

// discardLogger drops the SDK's log: the outcomes show how the deliveries ended.
type discardLogger struct{}

func (discardLogger) Debug(string, ...any) {}
func (discardLogger) Info(string, ...any)  {}
func (discardLogger) Warn(string, ...any)  {}
func (discardLogger) Error(string, ...any) {}
