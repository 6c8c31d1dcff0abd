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
)

const (
	payloadSQL = `SELECT m.payload FROM outbox.messages AS m WHERE m.id = $1`
	auditSQL   = `
SELECT a.at, a.act, a.generation, a.destination, a.who, a.login, a.why, a.detail
  FROM outbox.audit AS a WHERE a.message_id = $1 ORDER BY a.id`
)

// Details is everything about one message: its row, its run, and what operators did to it.
type Details struct {
	Message MessageStatus
	// Payload is nil where Show was not asked for it.
	Payload []byte
	// Audit has the oldest entry first.
	Audit []AuditEntry
	// WorkflowID is that of the message's runs. Run is the newest of them, or nil; then NoRun says
	// why.
	WorkflowID string
	Run        *Run
	NoRun      string
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
	d := Details{WorkflowID: o.workflowID(id)}
	var err error
	if d.Message, err = o.Message(ctx, id); err != nil {
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
	d.Run, d.NoRun = o.newestRun(ctx, d.WorkflowID, d.Message.State)
	return d, nil
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
