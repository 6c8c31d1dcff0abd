package outboxdb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
)

// Enqueue writes msgs in the caller's transaction, in one statement, and returns their IDs
// in order. It never commits: the messages exist if and only if tx commits. A message with
// the zero UUID gets a new UUIDv7. Payloads and headers of one call are at most 64 MiB.
//
// The destination outflow.ByRoute writes one message for each route of the type. The ID that is
// returned for it is the group's. All messages of a call see the routes of one moment; in a
// REPEATABLE READ or SERIALIZABLE transaction that is its first statement. A type without a
// route is refused. For a type whose only route is outflow.RouteToNowhere nothing is written;
// the group's ID is returned all the same.
//
// If ctx carries a valid OpenTelemetry span context, each message gets the headers
// "traceparent" and "tracestate", unless it has one of them or has no room for them. If
// OpenTelemetry's global TracerProvider records spans, they name the span "enqueue" around
// the statement. That span does not show whether tx commits.
//
// Two errors mean that nothing was written and that tx can go on:
//   - outflow.InvalidMessageError: a message breaks a rule.
//   - outflow.DuplicateIDError: an ID exists, or occurs twice in msgs.
//
// Any other error is the database's and has ended tx.
func Enqueue(ctx context.Context, tx pgx.Tx, msgs ...outflow.Message) ([]uuid.UUID, error) {
	return enqueueAll(ctx, pgxQuery(tx), msgs)
}

// EnqueueIfAbsent is Enqueue for messages whose IDs the caller chose. It skips a message
// whose ID exists, and returns the IDs that it wrote, in order. A message by route is skipped
// where its group has any message, whatever the routes are by now, and where a message has the
// group's ID. The reverse is not looked for: a message whose ID is a group's is written. Two calls with the same IDs
// wait for each other. Transactions with one call each can't deadlock.
//
// In a REPEATABLE READ or SERIALIZABLE transaction, a message that was committed after the
// transaction's first statement can't be skipped: the error has SQLSTATE 40001
// (serialization_failure). Roll back and do the work again, or use READ COMMITTED.
func EnqueueIfAbsent(ctx context.Context, tx pgx.Tx, msgs ...outflow.Message) ([]uuid.UUID, error) {
	return enqueueAbsent(ctx, pgxQuery(tx), msgs)
}

// EnqueueSQL is Enqueue in a transaction of database/sql, with any driver for Postgres. The
// statement and the errors are the same.
func EnqueueSQL(ctx context.Context, tx *sql.Tx, msgs ...outflow.Message) ([]uuid.UUID, error) {
	return enqueueAll(ctx, sqlQuery(tx), msgs)
}

// EnqueueSQLIfAbsent is EnqueueIfAbsent in a transaction of database/sql.
func EnqueueSQLIfAbsent(ctx context.Context, tx *sql.Tx, msgs ...outflow.Message) ([]uuid.UUID, error) {
	return enqueueAbsent(ctx, sqlQuery(tx), msgs)
}

func enqueueAll(ctx context.Context, query batchQuery, msgs []outflow.Message) ([]uuid.UUID, error) {
	return withSpan(ctx, msgs, func(ctx context.Context) ([]uuid.UUID, error) { return writeAll(ctx, query, msgs) })
}

func writeAll(ctx context.Context, query batchQuery, msgs []outflow.Message) ([]uuid.UUID, error) {
	verdicts, err := enqueue(ctx, query, msgs, false)
	if err != nil {
		return nil, fmt.Errorf("enqueuing: %w", err)
	}
	ids := make([]uuid.UUID, 0, len(verdicts))
	duplicate := &outflow.DuplicateIDError{}
	for _, v := range verdicts {
		ids = append(ids, v.ID)
		if v.Verdict == "exists" {
			duplicate.IDs = append(duplicate.IDs, v.ID)
		}
	}
	if len(duplicate.IDs) > 0 {
		return nil, fmt.Errorf("enqueuing: %w", duplicate)
	}
	return ids, nil
}

func enqueueAbsent(ctx context.Context, query batchQuery, msgs []outflow.Message) ([]uuid.UUID, error) {
	return withSpan(ctx, msgs, func(ctx context.Context) ([]uuid.UUID, error) { return writeAbsent(ctx, query, msgs) })
}

func writeAbsent(ctx context.Context, query batchQuery, msgs []outflow.Message) ([]uuid.UUID, error) {
	verdicts, err := enqueue(ctx, query, msgs, true)
	if err != nil {
		return nil, fmt.Errorf("enqueuing if absent: %w", err)
	}
	var written []uuid.UUID
	for _, v := range verdicts {
		if v.Verdict == "enqueued" {
			written = append(written, v.ID)
		}
	}
	return written, nil
}

// enqueue returns the verdicts on msgs, one each, in order. Its error joins those of the
// messages that break a rule.
func enqueue(ctx context.Context, query batchQuery, msgs []outflow.Message, ifAbsent bool) ([]verdict, error) {
	batch, err := encodeBatch(msgs, traceOf(ctx))
	if err != nil {
		return nil, err
	}
	verdicts, err := query(ctx, batch, ifAbsent)
	if err != nil {
		return nil, explainEncoding(err, batch)
	}
	var refused []error
	for _, v := range verdicts {
		if reason, found := strings.CutPrefix(string(v.Verdict), "refused: "); found {
			field, wants, _ := strings.Cut(reason, ": ")
			refused = append(refused, &outflow.InvalidMessageError{Index: v.Index, Field: field, Wants: wants})
		}
	}
	return verdicts, errors.Join(refused...)
}

// The SQLSTATEs for a character that the database's encoding lacks. The second is that of
// a database in SQL_ASCII.
// https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	untranslatableCharacter = "22P05"
	featureNotSupported     = "0A000"
)

func explainEncoding(err error, batch string) error {
	var answer interface{ SQLState() string } // pgx's error, and lib/pq's
	if errors.As(err, &answer) && strings.Contains(batch, `\u`) &&
		(answer.SQLState() == untranslatableCharacter || answer.SQLState() == featureNotSupported) {
		return fmt.Errorf("a header has a character that the database's encoding lacks; "+
			"a database in UTF8 has every one: %w", err)
	}
	return err
}
