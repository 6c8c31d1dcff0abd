package outboxdb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/database"
	"github.com/outflowhq/outflow/outbox"
)

// Operator reads and changes messages for people. Every change goes together
// with its row in outbox.audit. Its acts touch the table alone; package control
// adds what a message's run has to be told. It is safe for concurrent use.
type Operator struct {
	pool *database.Pool
}

// NewOperator returns an Operator over pool.
func NewOperator(pool *pgxpool.Pool) *Operator { return &Operator{pool: database.New(pool)} }

// By says who acts, and why.
type By struct {
	Who string // not empty
	Why string
}

// Standing is how a message stands, without its payload.
type Standing struct {
	ID           uuid.UUID         `db:"id" json:"id"`
	Destination  string            `db:"destination" json:"destination"`
	Type         string            `db:"type" json:"type"`
	PayloadBytes int               `db:"payload_bytes" json:"payloadBytes"`
	ContentType  string            `db:"content_type" json:"contentType"`
	Headers      map[string]string `db:"headers" json:"headers,omitempty"`
	OrderingKey  *string           `db:"ordering_key" json:"orderingKey,omitempty"`
	// CallbackState is nil where no callback is due or was.
	Callback      *string               `db:"callback" json:"callback,omitempty"`
	CallbackState *outbox.CallbackState `db:"callback_state" json:"callbackState,omitempty"`
	// CallbackPayload says that the callback carries the payload, too.
	CallbackPayload bool `db:"callback_payload" json:"callbackPayload,omitempty"`
	// CallbackAttempts and CallbackError are those of the callback itself.
	CallbackAttempts int           `db:"callback_attempts" json:"callbackAttempts,omitempty"`
	CallbackError    *string       `db:"callback_error" json:"callbackError,omitempty"`
	State            outflow.State `db:"state" json:"state"`
	// Phase is the state; for a pending message due, delayed, leased, waiting or
	// retrying, for a dead one that an operator let go dismissed.
	Phase           string     `db:"phase" json:"phase"`
	Generation      int        `db:"generation" json:"generation"`
	Claims          int        `db:"claims" json:"claims"`
	Attempts        int        `db:"attempts" json:"attempts"`
	Retrying        bool       `db:"retrying" json:"retrying"`
	CancelRequested bool       `db:"cancel_requested" json:"cancelRequested"`
	EnqueuedAt      time.Time  `db:"enqueued_at" json:"enqueuedAt"`
	DueAt           time.Time  `db:"due_at" json:"dueAt"`
	AvailableAt     time.Time  `db:"available_at" json:"availableAt"`
	ExpiresAt       *time.Time `db:"expires_at" json:"expiresAt,omitempty"`
	FinishedAt      *time.Time `db:"finished_at" json:"finishedAt,omitempty"`
	DismissedAt     *time.Time `db:"dismissed_at" json:"dismissedAt,omitempty"`
	BrokerMessageID *string    `db:"broker_message_id" json:"brokerMessageId,omitempty"`
	LastError       *string    `db:"last_error" json:"lastError,omitempty"`
	// Available says that the message is pending and no lease holds it.
	Available bool `db:"available" json:"-"`
	// Untouched says that it is pending and was never claimed.
	Untouched bool `db:"untouched" json:"-"`
}

// Ref returns the reference of the message's generation.
func (s Standing) Ref() outbox.Ref { return outbox.Ref{ID: s.ID, Generation: s.Generation} }

// Change is what an act made of one message.
type Change struct {
	// Standing is the message as the act found it; only its ID where there is none.
	Standing
	// Found says that there is such a message, Done that the act changed it.
	Found bool `db:"-"`
	Done  bool `db:"done"`
	// The rest is what it is now.
	NewState       outflow.State `db:"new_state"`
	NewGeneration  int           `db:"new_generation"`
	NewDestination string        `db:"new_destination"`
	NewAvailableAt time.Time     `db:"new_available_at"`
}

// act runs an act's statement and answers for each of ids, in order.
func (o *Operator) act(ctx context.Context, doing, statement string, ids []uuid.UUID, by By, args ...any) ([]Change, error) {
	rows, err := o.pool.Query(ctx, statement, append([]any{ids, by.Who, by.Why}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("%s %d messages: %w", doing, len(ids), err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[Change])
	if err != nil {
		return nil, fmt.Errorf("%s %d messages: %w", doing, len(ids), err)
	}
	changes := make([]Change, len(ids))
	for i, id := range ids {
		changes[i].ID = id
		if at := slices.IndexFunc(found, func(c Change) bool { return c.ID == id }); at >= 0 {
			changes[i] = found[at]
			changes[i].Found = true
		}
	}
	return changes, nil
}

// Retry starts dead, expired and cancelled messages anew, dismissed ones too, due
// now, with the next generation. Their attempts and last errors stay; an expiry that has passed goes.
func (o *Operator) Retry(ctx context.Context, ids []uuid.UUID, by By) ([]Change, error) {
	return o.act(ctx, "retrying", retryMessages, ids, by, nil)
}

// RetryTo is Retry to another destination, in canonical form.
func (o *Operator) RetryTo(ctx context.Context, ids []uuid.UUID, destination string, by By) ([]Change, error) {
	return o.act(ctx, "redirecting", retryMessages, ids, by, destination)
}

// Redirect gives pending messages another destination, in canonical form, and
// the next generation. One that was claimed before becomes claimable when its old
// run yields, or after ten seconds.
func (o *Operator) Redirect(ctx context.Context, ids []uuid.UUID, destination string, by By) ([]Change, error) {
	return o.act(ctx, "redirecting", redirectMessages, ids, by, destination)
}

// Reschedule makes pending messages due at a time, or where that is zero in a
// duration from now, with the next generation. One that would then be due after
// its expiry is left as it is.
func (o *Operator) Reschedule(ctx context.Context, ids []uuid.UUID, at time.Time, in time.Duration, by By) ([]Change, error) {
	return o.act(ctx, "rescheduling", rescheduleMessages, ids, by, orNull(at), in)
}

// RequestCancel ends messages that were never claimed, and requests the cancel
// of the other pending ones.
func (o *Operator) RequestCancel(ctx context.Context, ids []uuid.UUID, by By) ([]Change, error) {
	return o.act(ctx, "cancelling", requestCancel, ids, by)
}

// EndCancelled ends a message whose cancel was requested and which has no open
// run. It does nothing while a lease holds the message, or where it has another
// generation by now.
func (o *Operator) EndCancelled(ctx context.Context, ref outbox.Ref, by By) (Change, error) {
	changes, err := o.act(ctx, "cancelling", endCancelled, []uuid.UUID{ref.ID}, by, ref.Generation)
	if err != nil {
		return Change{}, err
	}
	return changes[0], nil
}

// RetryCallbacks makes failed callbacks due, for a scanner to start their runs
// soon. Their attempts and last errors stay.
func (o *Operator) RetryCallbacks(ctx context.Context, ids []uuid.UUID, by By) ([]Change, error) {
	return o.act(ctx, "retrying the callbacks of", retryCallbacks, ids, by)
}

// Release makes a message claimable that has no open run, unless its lease or
// generation has changed since it was looked at.
func (o *Operator) Release(ctx context.Context, ref outbox.Ref, leasedUntil time.Time, by By) (Change, error) {
	changes, err := o.act(ctx, "releasing", releaseMessages, []uuid.UUID{ref.ID}, by, ref.Generation, leasedUntil)
	if err != nil {
		return Change{}, err
	}
	return changes[0], nil
}

// NoteTold notes that the run of a message was told to try now: that changes
// nothing in the row. The note is of the message as it stood then, wherever its run
// has taken it since.
func (o *Operator) NoteTold(ctx context.Context, m Standing, by By) error {
	if _, err := o.pool.Exec(ctx, noteTold, m.ID, m.Destination, m.Generation, by.Who, by.Why); err != nil {
		return fmt.Errorf("noting that the run of message %s was told to try now: %w", m.ID, err)
	}
	return nil
}

// Resend copies a delivered message under a new ID, due now, and returns that ID.
func (o *Operator) Resend(ctx context.Context, id uuid.UUID, by By) (Change, uuid.UUID, error) {
	newID, err := uuid.NewV7()
	if err != nil {
		return Change{}, uuid.Nil, fmt.Errorf("making a message ID: %w", err)
	}
	changes, err := o.act(ctx, "resending", resendMessages, []uuid.UUID{id}, by, []uuid.UUID{newID})
	if err != nil {
		return Change{}, uuid.Nil, err
	}
	return changes[0], newID, nil
}

// Send enqueues one message, in a transaction of its own, and returns its ID.
func (o *Operator) Send(ctx context.Context, m outflow.Message, by By) (uuid.UUID, error) {
	var id uuid.UUID
	err := pgx.BeginFunc(ctx, o.pool, func(tx pgx.Tx) error {
		ids, err := Enqueue(ctx, tx, m)
		if err != nil {
			return err
		}
		id = ids[0]
		_, err = tx.Exec(ctx, noteSent, id, by.Who, by.Why)
		return err
	})
	if err != nil {
		return uuid.Nil, fmt.Errorf("sending a message: %w", err)
	}
	return id, nil
}

// Show returns how a message stands, or outflow.ErrNotFound.
func (o *Operator) Show(ctx context.Context, id uuid.UUID) (Standing, error) {
	rows, err := o.pool.Query(ctx, showMessage, id)
	if err != nil {
		return Standing{}, fmt.Errorf("looking at message %s: %w", id, err)
	}
	standing, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Standing])
	if errors.Is(err, pgx.ErrNoRows) {
		err = outflow.ErrNotFound
	}
	if err != nil {
		return Standing{}, fmt.Errorf("looking at message %s: %w", id, err)
	}
	return standing, nil
}

// Payload returns a message's payload, or outflow.ErrNotFound.
func (o *Operator) Payload(ctx context.Context, id uuid.UUID) ([]byte, error) {
	var payload []byte
	err := o.pool.QueryRow(ctx, messagePayload, id).Scan(&payload)
	if errors.Is(err, pgx.ErrNoRows) {
		err = outflow.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("reading the payload of message %s: %w", id, err)
	}
	return payload, nil
}

// AuditEntry is one thing that an operator did to a message.
type AuditEntry struct {
	At          time.Time `db:"at" json:"at"`
	Act         string    `db:"act" json:"act"`
	Generation  *int      `db:"generation" json:"generation,omitempty"`
	Destination *string   `db:"destination" json:"destination,omitempty"`
	Who         string    `db:"who" json:"who"`
	// Login is the role that the connection had logged in as: the database says it.
	Login  string          `db:"login" json:"login"`
	Why    string          `db:"why" json:"why,omitempty"`
	Detail json.RawMessage `db:"detail" json:"detail,omitempty"`
}

// Audit returns what operators did to a message, oldest first. It outlives the
// message.
func (o *Operator) Audit(ctx context.Context, id uuid.UUID) ([]AuditEntry, error) {
	rows, err := o.pool.Query(ctx, auditOf, id)
	if err != nil {
		return nil, fmt.Errorf("reading the audit of message %s: %w", id, err)
	}
	entries, err := pgx.CollectRows(rows, pgx.RowToStructByName[AuditEntry])
	if err != nil {
		return nil, fmt.Errorf("reading the audit of message %s: %w", id, err)
	}
	return entries, nil
}
