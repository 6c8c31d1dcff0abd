package operator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/workflows"
)

const (
	payloadSQL = `SELECT m.payload FROM outbox.messages AS m WHERE m.id = $1`
	auditSQL   = `
SELECT a.at, a.act, a.generation, a.destination, a.who, a.login, a.why, a.detail
  FROM outbox.audit AS a WHERE a.message_id = $1 ORDER BY a.id`
	// headSQL is the head of the key $2 at the destination $1.
	headSQL = `
SELECT m.id, m.destination, m.state, ` + outboxdb.PhaseSQL + ` AS phase
  FROM outbox.messages AS m WHERE m.head AND m.destination = $1::text AND m.ordering_key = $2::text`
	siblingsSQL = `
SELECT m.id, m.destination, m.state, ` + outboxdb.PhaseSQL + ` AS phase
  FROM outbox.messages AS m WHERE m.group_id = $1 AND m.id <> $2 ORDER BY m.group_place`
)

// Details is everything about one message: its row, its run, and what operators did to it.
type Details struct {
	Message MessageStatus
	// Payload is nil where Show was not asked for it.
	Payload []byte
	// Siblings are the other messages of its group, as far as they are not purged.
	Siblings []Sibling
	// Head is the message that a follower waits for. It is nil for any other message, and where a
	// scanner is about to release this one.
	Head *Sibling
	// Audit has the oldest entry first.
	Audit []AuditEntry
	// WorkflowID is that of the message's runs, or of the stream that has it in hand or ended it: then
	// Stream says which. Run is the newest of the runs, or nil; then NoRun says why.
	WorkflowID string
	Stream     StreamShare
	Run        *Run
	NoRun      string
}

// StreamShare is what a stream has to do with a message.
type StreamShare string

// The shares. A message has none where runs of its own delivered it, or are to.
const (
	StreamHolds StreamShare = "in a page"
	StreamEnded StreamShare = "ended"
)

func shareOf(m MessageStatus) StreamShare {
	switch {
	case m.InPage:
		return StreamHolds
	case m.Streamed && m.FinishedAt != nil:
		return StreamEnded
	}
	return ""
}

// Sibling is another message: one that the same enqueue by route wrote, or the head of the ordering
// key.
type Sibling struct {
	ID          uuid.UUID     `db:"id" json:"id"`
	Destination string        `db:"destination" json:"destination"`
	State       outflow.State `db:"state" json:"state"`
	// Phase refines the state, as that of MessageStatus does.
	Phase string `db:"phase" json:"phase"`
}

// AuditEntry is one thing that an operator did to a message. It outlives the message.
type AuditEntry struct {
	At          time.Time `db:"at" json:"at"`
	Act         string    `db:"act" json:"act"`
	Generation  *int      `db:"generation" json:"generation,omitempty"`
	Destination *string   `db:"destination" json:"destination,omitempty"`
	Who         string    `db:"who" json:"who"`
	// Login is the role that the connection had logged in as; the database writes it.
	Login  string          `db:"login" json:"login"`
	Why    string          `db:"why" json:"why,omitempty"`
	Detail json.RawMessage `db:"detail" json:"detail,omitempty"`
}

// Show returns everything about one message, with its payload if asked for, or outflow.ErrNotFound.
// Where Temporal can't be asked, Details.NoRun says so.
func (o *Operator) Show(ctx context.Context, id uuid.UUID, withPayload bool) (Details, error) {
	var d Details
	var err error
	if d.Message, err = o.Message(ctx, id); err != nil {
		return Details{}, err
	}
	if d.Siblings, err = o.siblings(ctx, d.Message); err != nil {
		return Details{}, err
	}
	if d.Head, err = o.head(ctx, d.Message); err != nil {
		return Details{}, err
	}
	if d.Audit, err = o.audit(ctx, id); err != nil {
		return Details{}, err
	}
	if withPayload {
		if d.Payload, err = o.payload(ctx, id); err != nil {
			return Details{}, err
		}
	}
	if d.Stream = shareOf(d.Message); d.Stream != "" {
		d.WorkflowID = workflows.StreamID(o.outbox, d.Message.Destination)
		d.Run, d.NoRun = o.streamRun(ctx, d.WorkflowID, d.Message)
		return d, nil
	}
	d.WorkflowID = o.workflowID(id)
	d.Run, d.NoRun = o.newestRun(ctx, d.WorkflowID, d.Message.State)
	return d, nil
}

// streamRun returns the newest run of a stream, if it can be the one that had the message.
func (o *Operator) streamRun(ctx context.Context, workflowID string, m MessageStatus) (r *Run, none string) {
	run, err := o.runs.Describe(ctx, workflowID)
	switch {
	case errors.Is(err, ErrNoRun):
		return nil, "none of its own: a stream had it, whose run is past Temporal's retention"
	case err != nil:
		return nil, err.Error()
	case m.FinishedAt != nil && run.StartedAt.After(*m.FinishedAt):
		return nil, "none of its own: an earlier run of the stream had it"
	}
	return &run, ""
}

func (o *Operator) newestRun(ctx context.Context, workflowID string, state outflow.State) (r *Run, none string) {
	run, err := o.runs.Describe(ctx, workflowID)
	switch {
	case errors.Is(err, ErrNoRun) && state.Final():
		return nil, "none: the message ended without one, or it is past Temporal's retention"
	case errors.Is(err, ErrNoRun):
		return nil, "none: not started yet, or past Temporal's retention"
	case err != nil:
		return nil, err.Error()
	}
	return &run, ""
}

func (o *Operator) payload(ctx context.Context, id uuid.UUID) ([]byte, error) {
	var payload []byte
	err := o.pool.QueryRow(ctx, payloadSQL, id).Scan(&payload)
	if errors.Is(err, pgx.ErrNoRows) {
		err = outflow.ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("reading the payload of message %s: %w", id, err)
	}
	return payload, nil
}

func (o *Operator) audit(ctx context.Context, id uuid.UUID) ([]AuditEntry, error) {
	rows, err := o.pool.Query(ctx, auditSQL, id)
	if err != nil {
		return nil, fmt.Errorf("reading the audit of message %s: %w", id, err)
	}
	entries, err := pgx.CollectRows(rows, pgx.RowToStructByName[AuditEntry])
	if err != nil {
		return nil, fmt.Errorf("reading the audit of message %s: %w", id, err)
	}
	return entries, nil
}

func (o *Operator) siblings(ctx context.Context, m MessageStatus) ([]Sibling, error) {
	if m.GroupID == nil {
		return nil, nil
	}
	rows, err := o.pool.Query(ctx, siblingsSQL, *m.GroupID, m.ID)
	if err != nil {
		return nil, fmt.Errorf("reading the group of message %s: %w", m.ID, err)
	}
	siblings, err := pgx.CollectRows(rows, pgx.RowToStructByName[Sibling])
	if err != nil {
		return nil, fmt.Errorf("reading the group of message %s: %w", m.ID, err)
	}
	return siblings, nil
}

// head returns the message that a follower waits for.
func (o *Operator) head(ctx context.Context, m MessageStatus) (*Sibling, error) {
	if !m.Follower || m.OrderingKey == nil {
		return nil, nil
	}
	rows, err := o.pool.Query(ctx, headSQL, m.Destination, *m.OrderingKey)
	if err != nil {
		return nil, fmt.Errorf("reading what message %s waits for: %w", m.ID, err)
	}
	head, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Sibling])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading what message %s waits for: %w", m.ID, err)
	}
	return &head, nil
}
