package outboxdb

import (
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// enqueueSQL passes all messages of a call to the SQL function that every language calls.
// The server casts text to jsonb, so that any driver and protocol can send it. A verdict may
// quote the input: as hexadecimal digits, no client_encoding changes it.
const enqueueSQL = `
SELECT index, message_id, pg_catalog.encode(pg_catalog.convert_to(verdict, 'UTF8'), 'hex') AS verdict
  FROM outbox.enqueue_batch($1::text::jsonb, $2)`

// verdict is one row of outbox.enqueue_batch.
type verdict struct {
	Index   int       `db:"index"`
	ID      uuid.UUID `db:"message_id"` // the zero UUID for an object that could not be read
	Verdict hexText   `db:"verdict"`
}

// hexText is text that was sent as hexadecimal digits.
type hexText string

// Scan implements sql.Scanner, which pgx calls, too.
func (t *hexText) Scan(value any) error {
	text, ok := value.(string)
	if b, isBytes := value.([]byte); isBytes {
		text, ok = string(b), true
	}
	decoded, err := hex.DecodeString(text)
	if err != nil || !ok {
		return fmt.Errorf("reading a verdict: wants hexadecimal digits (got %v)", value)
	}
	*t = hexText(decoded)
	return nil
}

// batchQuery runs enqueueSQL in the caller's transaction. Nothing else differs between
// pgx and database/sql.
type batchQuery func(ctx context.Context, batch string, ifAbsent bool) ([]verdict, error)

func pgxQuery(tx pgx.Tx) batchQuery {
	return func(ctx context.Context, batch string, ifAbsent bool) ([]verdict, error) {
		rows, err := tx.Query(ctx, enqueueSQL, batch, ifAbsent)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowToStructByName[verdict])
	}
}

func sqlQuery(tx *sql.Tx) batchQuery {
	return func(ctx context.Context, batch string, ifAbsent bool) (verdicts []verdict, err error) {
		rows, err := tx.QueryContext(ctx, enqueueSQL, batch, ifAbsent)
		if err != nil {
			return nil, err
		}
		defer rows.Close() // after Next has returned false, this has nothing left to report
		for rows.Next() {
			var v verdict
			if err := rows.Scan(&v.Index, &v.ID, &v.Verdict); err != nil {
				return nil, err
			}
			verdicts = append(verdicts, v)
		}
		return verdicts, rows.Err()
	}
}
