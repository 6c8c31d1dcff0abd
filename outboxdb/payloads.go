package outboxdb

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/coalesce"
	"github.com/outflowhq/outflow/outbox"
)

// loadPayloadsSQL reads the payloads that loadColumnsSQL leaves out. A payload never changes, so
// the statement needs no guard.
const loadPayloadsSQL = `SELECT m.id, m.payload FROM outbox.messages AS m WHERE m.id = ANY ($1::uuid[])`

// missingPayload is a message whose payload is to be loaded, and the payload's size.
type missingPayload struct {
	id    uuid.UUID
	bytes int
}

func (p missingPayload) size() int { return p.bytes }

// LoadPayload returns the payload of a record that lacks it (see outbox.Record.MissingBytes). A
// context with time for it gives a slow link payloadTimeout, any other statementTimeout.
func (s *Store) LoadPayload(ctx context.Context, r outbox.Record) ([]byte, error) {
	payloads := s.payloads
	if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > payloadTimeout {
		payloads = s.slowPayloads
	}
	payload, err := payloads.Do(ctx, missingPayload{r.ID, r.MissingBytes})
	if err != nil {
		return nil, fmt.Errorf("loading the %d bytes of payload of message %s: %w", r.MissingBytes, r.ID, err)
	}
	return payload, nil
}

func (s *Store) loadPayloads(ctx context.Context, missing []missingPayload) []coalesce.Result[[]byte] {
	out := make([]coalesce.Result[[]byte], len(missing))
	ids := make([]uuid.UUID, 0, len(missing))
	for _, p := range missing {
		ids = append(ids, p.id)
	}
	rows, err := s.pool.Query(ctx, loadPayloadsSQL, ids)
	byID := make(map[uuid.UUID][]byte, len(missing))
	if err == nil {
		var id uuid.UUID
		var payload []byte
		_, err = pgx.ForEachRow(rows, []any{&id, &payload}, func() error {
			byID[id] = payload
			payload = nil
			return nil
		})
	}
	for i, p := range missing {
		payload, ok := byID[p.id]
		switch {
		case err != nil:
			out[i].Err = err
		case !ok:
			out[i].Err = outflow.ErrNotFound // purged since
		default:
			out[i].Value = payload
		}
	}
	return out
}
