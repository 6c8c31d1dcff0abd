package activities

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"go.temporal.io/sdk/testsuite"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

// fake is a store and a publisher whose answers a test sets.
type fake struct {
	mu                  sync.Mutex
	record              outbox.Record
	rowErr              error
	outcome             outflow.Outcome
	endErr              error
	makeWayErr          error
	knownErr            error
	served              outbox.Served
	servedErr           error
	putErr              error
	consecutiveFailures int
	publish             func(ctx context.Context, m outflow.Message) (string, error)

	loads        []outbox.Ref
	again        []outbox.Ref
	observations []string // of destinations
	known        bool
	renewals     []outbox.Renewal
	loadErr      error // of a payload
	endings      []outbox.Ending
	madeWay      []outbox.Ref
	sent         int
	missing      []outbox.Missing // of PutBack

	callback    outbox.Callback
	notDue      bool
	beginErr    error
	noteErr     error
	refused     bool // NoteCallback finds another end on the row
	begun       []outbox.Ref
	notes       []outbox.CallbackNote
	database    uuid.UUID
	databaseErr error
	leases      []time.Duration
}

func (f *fake) Load(_ context.Context, ref outbox.Ref) (outbox.Record, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loads = append(f.loads, ref)
	return f.record, f.rowErr
}

// row is the load of an attempt.
func (f *fake) row(ctx context.Context) (outbox.Record, error) {
	return f.Load(ctx, outbox.Ref{ID: f.record.ID, Generation: 1})
}

func (f *fake) LoadAgain(_ context.Context, ref outbox.Ref) (outbox.Record, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.again = append(f.again, ref)
	return f.record, f.rowErr
}

func (f *fake) Observe(destination string, id uuid.UUID, o outbox.Observation) int {
	switch kind := o.Kind(); kind {
	case outbox.Acknowledged:
		if o.Took > outflow.FastPathCallTime {
			f.observed(destination + " took " + o.Took.String())
		}
		f.observed(destination + " acknowledged")
	case outbox.DestinationFailed:
		f.observed(destination + " failed: " + o.Err.Error())
		return f.consecutiveFailures
	case outbox.Inconclusive:
		if id == f.record.ID {
			f.observed(destination + " inconclusive")
		}
	default:
		f.observed(destination + " " + string(kind))
	}
	return 0
}

func (f *fake) PutBack(_ context.Context, p outbox.PutBack) (outflow.Outcome, error) {
	if p.NotSent {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.madeWay = append(f.madeWay, p.Ref)
		return outflow.Outcome{}, f.makeWayErr
	}
	if p.Missing != nil {
		f.mu.Lock()
		f.missing = append(f.missing, *p.Missing)
		f.mu.Unlock()
	}
	f.observed("put back: " + p.LastError)
	return outflow.Outcome{ID: p.ID, Generation: p.Generation, State: outflow.Pending}, f.putErr
}

func (f *fake) observed(observation string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.observations = append(f.observations, observation)
}

func (f *fake) Known(context.Context, string) (bool, error) { return f.known, f.knownErr }

func (f *fake) Served(context.Context, string) (outbox.Served, error) { return f.served, f.servedErr }

func (f *fake) Renew(_ context.Context, r outbox.Renewal) (outbox.Record, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renewals = append(f.renewals, r)
	return f.record, f.rowErr
}

func (f *fake) LoadPayload(context.Context, outbox.Record) ([]byte, error) {
	return []byte("large"), f.loadErr
}

func (f *fake) BeginCallback(_ context.Context, ref outbox.Ref, lease time.Duration) (outbox.Callback, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.begun, f.leases = append(f.begun, ref), append(f.leases, lease)
	return f.callback, !f.notDue, f.beginErr
}

func (f *fake) NoteCallback(_ context.Context, n outbox.CallbackNote) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.notes = append(f.notes, n)
	return !f.refused && f.noteErr == nil, f.noteErr
}

func (f *fake) Finish(_ context.Context, e outbox.Ending) (outflow.Outcome, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endings = append(f.endings, e)
	if f.outcome.State != "" {
		return f.outcome, f.endErr
	}
	return outflow.Outcome{ID: e.ID, Generation: e.Generation, State: e.State, BrokerMessageID: e.BrokerMessageID,
		LastError: e.LastError, Destination: f.record.Destination, Type: f.record.Type}, f.endErr
}

func (f *fake) Publish(ctx context.Context, m outflow.Message) (string, error) {
	f.mu.Lock()
	f.sent++
	publish := f.publish
	f.mu.Unlock()
	if publish != nil {
		return publish(ctx, m)
	}
	return "broker-1", nil
}

func newFake() (*fake, *Activities, outbox.Ref) {
	ref := newRef()
	f := &fake{record: outbox.Record{
		Message: outflow.Message{ID: ref.ID, Destination: "sqs://orders", Payload: []byte("{}")},
		State:   outflow.Pending, Generation: 1,
	}}
	return f, New(f, f), ref
}

func environment() (*testsuite.TestActivityEnvironment, *[]string) {
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestActivityEnvironment()
	env.SetTestTimeout(20 * time.Second)
	var beats []string
	env.SetOnActivityHeartbeatListener(func(_ *activityInfo, details encodedValues) {
		var note attemptNote
		if details.Get(&note) == nil {
			beats = append(beats, note.LastError)
		}
	})
	return env, &beats
}

// keepNotes keeps the notes that durable attempts leave.
func keepNotes(t *testing.T, env *testsuite.TestActivityEnvironment, notes *[]attemptNote) {
	env.SetOnActivityHeartbeatListener(func(_ *activityInfo, details encodedValues) {
		var note attemptNote
		assert.NoError(t, details.Get(&note))
		*notes = append(*notes, note)
	})
}

func refuses(context.Context, outflow.Message) (string, error) { return "", outflow.ErrNotAttempted }
func down(context.Context, outflow.Message) (string, error) {
	return "", outflow.Unavailable(errors.New("503"))
}

func (f *fake) DatabaseID(context.Context) (uuid.UUID, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.database, f.databaseErr
}
