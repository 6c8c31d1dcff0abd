// Package activities holds what a delivery does outside of its workflow: read the row, publish,
// write the end.
//
// The invariant: a message is handed to its publisher only after its row was read as pending with
// the run's own generation. Within a process one call at a time publishes a (message, generation),
// and its acknowledgement is remembered until the end is written. So a run that Temporal lets start
// over finds its own acknowledgement, and sends nothing.
package activities

import (
	"context"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/log"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/metrics"
	"github.com/outflowhq/outflow/internal/tracing"
	"github.com/outflowhq/outflow/outbox"
)

// Store is the table as the activities use it; outboxdb.Store is one. Every method is safe for
// concurrent use. Renew and Finish write only to a row of the given generation, and otherwise
// return the row as it stands.
type Store interface {
	// Load, LoadAgain and Renew leave out a large payload (Record.MissingBytes). LoadPayload loads
	// it.
	Load(ctx context.Context, ref outbox.Ref) (outbox.Record, error)
	// LoadAgain is Load after a crash of the process that had the run's task. It counts the crash.
	LoadAgain(ctx context.Context, ref outbox.Ref) (outbox.Record, error)
	Renew(ctx context.Context, r outbox.Renewal) (outbox.Record, error)
	LoadPayload(ctx context.Context, r outbox.Record) ([]byte, error)
	Finish(ctx context.Context, e outbox.Ending) (outflow.Outcome, error)
	// PutBack leaves a message to a later claim, without a run meanwhile.
	PutBack(ctx context.Context, p outbox.PutBack) (outflow.Outcome, error)

	Destinations
	Callbacks
	Identity
}

// Destinations are the circuit breakers of destinations. Every method is safe for concurrent use.
type Destinations interface {
	// Observe notes how an attempt to publish the message id ended. Renew then holds back what goes
	// to a destination whose breaker is open. It returns how many attempts in this process have
	// failed since the destination's last success.
	Observe(destination string, id uuid.UUID, o outbox.Observation) (consecutiveFailures int)
	// Known reports whether a message has ever reached the destination.
	Known(ctx context.Context, destination string) (bool, error)
	// Served says which running processes publish to a destination's scheme.
	Served(ctx context.Context, destination string) (outbox.Served, error)
}

// Publisher sends one message to its broker; publish.Router is one. A nil error says that the
// broker acknowledged the message. Errors carry an outflow.Class.
type Publisher interface {
	Publish(ctx context.Context, m outflow.Message) (brokerMessageID string, err error)
}

// Activities is the set that a worker registers. One serves a whole process.
type Activities struct {
	store     Store
	publisher Publisher
	sender    CallbackSender
	owner     *ownership
	flights   *flights
	payloads  *payloads
	tracer    tracing.Tracer
	metrics   *metrics.Recorder
	grace     time.Duration // see WithMissingGrace
	// log is nil for the worker's own.
	log   log.Logger
	ends  endLog
	turns turnLog
}

// New returns the activities over a store and a publisher.
func New(store Store, publisher Publisher, options ...Option) *Activities {
	a := &Activities{
		store: store, publisher: publisher, sender: PublishCallbacks(publisher),
		owner: &ownership{identity: store}, flights: newFlights(), payloads: newPayloads(),
		grace: outflow.DefaultMissingGrace,
	}
	for _, option := range options {
		option(a)
	}
	if a.metrics == nil {
		a.metrics = metrics.New(nil)
	}
	return a
}

// Verdict is the result of an attempt to publish that did not fail.
type Verdict string

// The verdicts. All but Published mean that this attempt sent nothing.
const (
	Published  Verdict = "published"  // the broker acknowledged it
	Ended      Verdict = "ended"      // the row is final already
	Superseded Verdict = "superseded" // the row has a later generation
	Overdue    Verdict = "overdue"    // the expiry has passed
	Withdrawn  Verdict = "withdrawn"  // an operator asked to cancel it
	// SetAside: the message is left to a later claim. It is quarantined, or one of many for a
	// destination that fails, or it waits for a destination that does not exist.
	SetAside Verdict = "set aside"
)

// PublishInput is the input of Publish.
type PublishInput struct {
	Owner
	MessageID  uuid.UUID `json:"messageId"`
	Generation int       `json:"generation"`
	// LastError and Attempts are what the first durable attempt notes on the row: the failure of
	// the fast path, and 1. Both are empty where the fast path sent nothing.
	LastError string `json:"lastError,omitempty"`
	Attempts  int    `json:"attempts,omitempty"`
	// Wait is how long nothing is sent after the fast path's failure. The first durable attempt
	// only begins this wait.
	Wait time.Duration `json:"wait,omitempty"`
	// Again: the run's first workflow task was lost. Its process may have crashed.
	Again bool `json:"again,omitempty"`
}

// PublishResult is the result of Publish.
type PublishResult struct {
	Verdict         Verdict `json:"verdict"`
	BrokerMessageID string  `json:"brokerMessageId,omitempty"`
	// Outcome is the row's, where it was read.
	Outcome outflow.Outcome `json:"outcome,omitzero"`
	// Attempts are publish attempts that the row does not count: the durable attempt joined one
	// that was under way in this process, and did not renew the row.
	Attempts int `json:"attempts,omitempty"`
}

// Publish makes one attempt. As a local activity it loads the row. As a regular activity (a durable
// attempt) it also renews the row's lease past its next attempt. Its errors are Temporal's,
// translated from their outflow.Class.
func (a *Activities) Publish(ctx context.Context, in PublishInput) (PublishResult, error) {
	info := activity.GetInfo(ctx)
	if err := a.owner.check(ctx, in.Owner); err != nil {
		if !info.IsLocalActivity {
			passOn(ctx, in, info.Attempt)
		}
		return PublishResult{}, translate(err, info.Attempt)
	}
	ref := outbox.Ref{ID: in.MessageID, Generation: in.Generation}
	if !info.IsLocalActivity {
		return a.publishDurably(ctx, ref, in, info)
	}
	load := a.store.Load
	if in.Again {
		load = a.store.LoadAgain
	}
	result, _, err := a.flights.do(ctx, ref, func(ctx context.Context) (PublishResult, error) {
		return a.publishOnce(ctx, attempt{
			ref: ref, fastPath: true, crashed: in.Again, trace: traceOf(info),
			load: func(ctx context.Context) (outbox.Record, error) { return load(ctx, ref) },
		})
	})
	if err != nil {
		return PublishResult{}, translate(err, info.Attempt)
	}
	return result, nil
}
