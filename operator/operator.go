package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/database"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/workflows"
)

// Operator acts on messages and their runs. It is safe for concurrent use and needs no closing; the
// pool and Temporal's client stay the caller's.
type Operator struct {
	pool   *database.Pool
	store  *outboxdb.Store // for the end of a row and the purge
	runs   Runs
	outbox string
}

// New returns an Operator over pool. The name of the outbox is the first part of every workflow ID,
// as the starters have it; empty means outflow.DefaultOutbox. Without runs (nil), acts that need
// Temporal answer that it can't be asked.
func New(pool *pgxpool.Pool, r Runs, outboxName string) *Operator {
	if r == nil {
		r = runs(noRuns)
	}
	return &Operator{
		pool: database.New(pool), store: outboxdb.New(pool), runs: r,
		outbox: cmp.Or(outboxName, outflow.DefaultOutbox),
	}
}

// Actor says who acts, and why. The audit keeps both.
type Actor struct {
	Who string // not empty
	Why string
}

func (o *Operator) workflowID(id uuid.UUID) string { return workflows.DeliverID(o.outbox, id) }

// statusColumns are a row m without its payload. The lengths in the table's header are enough for
// payload_bytes.
const statusColumns = `
	m.id, m.destination, m.type, octet_length(m.payload) AS payload_bytes, m.content_type, m.headers, m.ordering_key,
	m.group_id,
	m.callback, m.callback_state, m.callback_payload, m.callback_attempts, m.callback_error,
	m.state, ` + outboxdb.PhaseSQL + ` AS phase, m.generation, m.claims, m.attempts, m.retrying, m.cancel_requested,
	m.enqueued_at, m.due_at, m.available_at, m.expires_at, m.finished_at, m.dismissed_at,
	m.broker_message_id, m.last_error,
	CASE WHEN m.finished_at IS NULL THEN ` + outboxdb.MissingOfSQL + ` END AS missing,
	` + outboxdb.UntouchedSQL + ` AS untouched,
	m.finished_at IS NULL AND m.available_at <= now() AS available, m.head, m.follower,
	m.streamed, ` + outboxdb.InPageSQL + ` AS in_page`

// MessageStatus is how a message stands, without its payload.
type MessageStatus struct {
	ID           uuid.UUID         `db:"id" json:"id"`
	Destination  string            `db:"destination" json:"destination"`
	Type         string            `db:"type" json:"type"`
	PayloadBytes int               `db:"payload_bytes" json:"payloadBytes"`
	ContentType  string            `db:"content_type" json:"contentType"`
	Headers      map[string]string `db:"headers" json:"headers,omitempty"`
	OrderingKey  *string           `db:"ordering_key" json:"orderingKey,omitempty"`
	// GroupID is that of an enqueue by route, which wrote other messages beside this one.
	GroupID *uuid.UUID `db:"group_id" json:"groupId,omitempty"`
	// CallbackState is nil where no callback is due or was.
	Callback      *string               `db:"callback" json:"callback,omitempty"`
	CallbackState *outbox.CallbackState `db:"callback_state" json:"callbackState,omitempty"`
	// CallbackPayload says that the callback carries the payload too.
	CallbackPayload bool `db:"callback_payload" json:"callbackPayload,omitempty"`
	// CallbackAttempts and CallbackError are those of the callback itself.
	CallbackAttempts int           `db:"callback_attempts" json:"callbackAttempts,omitempty"`
	CallbackError    *string       `db:"callback_error" json:"callbackError,omitempty"`
	State            outflow.State `db:"state" json:"state"`
	// Phase refines the state: due, delayed, leased, waiting or retrying for a pending message,
	// dismissed for a dead one that an operator dismissed, else the state.
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
	// Missing is why the pending message waits: its destination does not exist, or no running process
	// publishes to its scheme. nil where neither is known.
	Missing *string `db:"missing" json:"missing,omitempty"`
	// Available says that the message is pending and no lease holds it.
	Available bool `db:"available" json:"-"`
	// Untouched says that it is pending and was never claimed.
	Untouched bool `db:"untouched" json:"-"`
	// Head says that the message is the first of its ordering key: pending, or dead and blocking the
	// others. Follower says that it waits for the head; its AvailableAt is then the end of 9999.
	Head     bool `db:"head" json:"head,omitempty"`
	Follower bool `db:"follower" json:"follower,omitempty"`
	// Streamed says that a stream claimed the message last, and no run of its own was started since.
	// InPage says that the stream has it in hand right now; its AvailableAt is then a day away.
	Streamed bool `db:"streamed" json:"streamed,omitempty"`
	InPage   bool `db:"in_page" json:"inPage,omitempty"`
}

// Ref returns the reference of the message's generation.
func (s MessageStatus) Ref() outbox.Ref { return outbox.Ref{ID: s.ID, Generation: s.Generation} }

const messageSQL = `SELECT ` + statusColumns + ` FROM outbox.messages AS m WHERE m.id = $1`

// Message returns how a message stands, or outflow.ErrNotFound.
func (o *Operator) Message(ctx context.Context, id uuid.UUID) (MessageStatus, error) {
	rows, err := o.pool.Query(ctx, messageSQL, id)
	if err != nil {
		return MessageStatus{}, fmt.Errorf("looking at message %s: %w", id, err)
	}
	status, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[MessageStatus])
	if errors.Is(err, pgx.ErrNoRows) {
		err = outflow.ErrNotFound
	}
	if err != nil {
		return MessageStatus{}, fmt.Errorf("looking at message %s: %w", id, err)
	}
	return status, nil
}

// ofIDSQL are the rows that an enqueue's ID $1 stands for: the message's, or those of the group.
const ofIDSQL = `
  FROM (SELECT one.* FROM outbox.messages AS one WHERE one.id = $1::uuid
        UNION ALL
        SELECT member.* FROM outbox.messages AS member WHERE member.group_id = $1::uuid) AS m`

const messagesSQL = `SELECT ` + statusColumns + ofIDSQL + ` ORDER BY m.group_place`

// Messages returns how the messages stand that an ID which Enqueue returned stands for: the
// messages of the group, or the message alone. Where there is none, the error is
// outflow.ErrNotFound.
func (o *Operator) Messages(ctx context.Context, id uuid.UUID) ([]MessageStatus, error) {
	rows, err := o.pool.Query(ctx, messagesSQL, id)
	if err != nil {
		return nil, fmt.Errorf("looking at the messages of %s: %w", id, err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[MessageStatus])
	if err == nil && len(all) == 0 {
		err = outflow.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("looking at the messages of %s: %w", id, err)
	}
	return all, nil
}
